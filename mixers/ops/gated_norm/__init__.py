"""Each head's output divided by its root mean square, then gated: `y = gated_norm(o, eps, gate)`."""

from torch import Tensor

from mixers.ops.gated_norm.blocked import blocked, unsupported_reason
from mixers.ops.gated_norm.reference import examples, reference
from mixers.ops.op import Implementation, Op

gated_norm: Op[Tensor] = Op(reference, [Implementation("blocked", blocked, unsupported_reason)], examples)
