"""The diagonal-plus-rank-one rule: `o, state = dplr(q, k, v, a, b, log_decay, state, chunk_size, lower_bound)`.

Shapes are in reference.py. A bound of the decay changes no result, but lets a kernel be used that needs one.
"""

from torch import Tensor

from mixers.ops.dplr import fla
from mixers.ops.dplr.blocked import blocked
from mixers.ops.dplr.chunkwise import chunkwise
from mixers.ops.dplr.reference import examples, reference
from mixers.ops.op import Implementation, Op, single_token, unless_sequence_on_cpu

__all__ = ["dplr"]

dplr: Op[tuple[Tensor, Tensor]] = Op(
    reference,
    [
        Implementation("fla", fla.fla, fla.unsupported_reason),
        Implementation("blocked", blocked, unless_sequence_on_cpu),
        Implementation("chunkwise", chunkwise, single_token),
    ],
    examples,
)
