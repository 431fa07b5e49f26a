"""The delta rule with decay: `o, state = delta_rule(q, k, v, log_decay, erase, write, state, chunk_size)`.

Shapes are in reference.py.
"""

from torch import Tensor

from mixers.ops.delta import fla
from mixers.ops.delta.blocked import blocked
from mixers.ops.delta.chunkwise import chunkwise
from mixers.ops.delta.reference import channel_examples, examples, reference
from mixers.ops.op import Implementation, Op, single_token, unless_sequence_on_cpu

__all__ = ["delta_rule", "delta_rule_of_channels"]

faster = [
    Implementation("fla", fla.fla, fla.unsupported_reason),
    Implementation("blocked", blocked, unless_sequence_on_cpu),
    Implementation("chunkwise", chunkwise, single_token),
]

delta_rule: Op[tuple[Tensor, Tensor]] = Op(reference, faster, examples)
delta_rule_of_channels: Op[tuple[Tensor, Tensor]] = Op(reference, faster, channel_examples)  # the same, other examples
