"""A diagonal state space as one long convolution, by Fourier transforms: the form of the authors' code.

Axes: as in reference.py.
"""

import torch
from torch import Tensor

from mixers.ops.long_conv import long_conv
from mixers.ops.precision import full_precision
from mixers.ops.state_space.chunkwise import edges
from mixers.ops.state_space.reference import Modes, outer, powers, read, times


def fourier(u: Tensor, modes: Modes, skip: Tensor, state: Tensor | None, chunk_size: int = 1) -> tuple[Tensor, Tensor]:
    """The output, and the state after it; beside the convolution a state is read and written."""
    length, m, inputs = u.shape[1], u.shape[3], u.to(modes.angle.dtype)
    with full_precision(u.device):
        taps = kernel(modes, skip, length).T.repeat_interleave(m, 1)
        y = long_conv(inputs.flatten(2), taps, inputs.new_zeros(len(u), 0, taps.shape[1])).view(u.shape)
        to_output, to_state, through = edges(length, modes)
        after = torch.einsum("hnt,bthm->bhnm", to_state, inputs).unflatten(2, (2, -1))
        if state is not None:
            y = y + torch.einsum("htn,bhnm->bthm", to_output, state.flatten(2, 3))
            after = after + times(state, through[None, ..., None], 2)
    return y.to(u.dtype), after


def attention_fourier(
    q: Tensor, k: Tensor, v: Tensor, modes: Modes, skip: Tensor, state: Tensor | None, chunk_size: int = 1
) -> tuple[Tensor, Tensor]:
    """All outer products in one convolution."""
    y, state = fourier(outer(k, v), modes, skip, state)
    return read(q, y), state


def kernel(modes: Modes, skip: Tensor, length: int) -> Tensor:
    """The first taps of the convolution, (h, length)."""
    taps = 2 * times(modes.gain[..., None], powers(modes, length))[:, 0].sum(1)
    return torch.cat([taps[:, :1] + skip[:, None], taps[:, 1:]], 1)
