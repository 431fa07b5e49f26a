"""Diagonal state spaces: of each channel (S4D), and between the keys and queries of a head (H3).

`y, state = state_space(u, modes, skip, state, chunk_size)` and
`o, state = state_space_attention(q, k, v, modes, skip, state, chunk_size)`; shapes are in reference.py.
"""

from torch import Tensor

from mixers.ops.chunks import single_token
from mixers.ops.op import Implementation, Op
from mixers.ops.state_space import blocked
from mixers.ops.state_space.chunkwise import attention_chunkwise, chunkwise
from mixers.ops.state_space.discretise import Discretisation, discretise
from mixers.ops.state_space.fourier import attention_fourier, fourier
from mixers.ops.state_space.reference import Modes, attention_examples, attention_reference, examples, reference

__all__ = ["Discretisation", "Modes", "discretise", "state_space", "state_space_attention"]

state_space: Op[tuple[Tensor, Tensor]] = Op(
    reference,
    [
        Implementation("chunkwise", chunkwise, single_token),
        Implementation("fourier", fourier, lambda *args: None, automatic=False),
    ],
    examples,
)

state_space_attention: Op[tuple[Tensor, Tensor]] = Op(
    attention_reference,
    [
        Implementation("blocked", blocked.attention_blocked, blocked.unsupported_reason),
        Implementation("chunkwise", attention_chunkwise, single_token),
        Implementation("fourier", attention_fourier, lambda *args: None, automatic=False),
    ],
    attention_examples,
)
