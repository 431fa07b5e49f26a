"""A causal convolution over the last few tokens: `y = short_conv(x, weight, bias, past)`."""

from torch import Tensor

from mixers.ops.op import Implementation, Op, unless_eager_on_cpu
from mixers.ops.short_conv.blocked import blocked
from mixers.ops.short_conv.reference import examples, reference

short_conv: Op[Tensor] = Op(reference, [Implementation("blocked", blocked, unless_eager_on_cpu)], examples)
