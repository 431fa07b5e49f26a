"""Diagonal state spaces: of each channel (S4D), and between the keys and queries of a head (H3).

`y, state = state_space(u, modes, skip, state, chunk_size)` and
`o, state = state_space_attention(q, k, v, modes, skip, state, chunk_size)`; shapes are in reference.py.
"""

from torch import Tensor

from mixers.ops.op import Implementation, Op, single_token, unless_sequence_on_cpu
from mixers.ops.state_space.chunkwise import attention_blocked, attention_chunkwise, chunkwise
from mixers.ops.state_space.reference import Modes, attention_examples, attention_reference, examples, reference, times

__all__ = ["Modes", "state_space", "state_space_attention", "times"]

state_space: Op[tuple[Tensor, Tensor]] = Op(reference, [Implementation("chunkwise", chunkwise, single_token)], examples)

state_space_attention: Op[tuple[Tensor, Tensor]] = Op(
    attention_reference,
    [
        Implementation("blocked", attention_blocked, unless_sequence_on_cpu),
        Implementation("chunkwise", attention_chunkwise, single_token),
    ],
    attention_examples,
)
