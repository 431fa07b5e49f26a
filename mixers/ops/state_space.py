"""A diagonal state space: a recurrence of complex numbers, or a causal convolution (S4D, arXiv:2206.11893).

Each of n modes remembers the inputs, s_t = ā s_{t-1} + u_t, and an output reads them all,
y_t = 2 Re Σ_n g_n s_{t,n} + D u_t. As a convolution its kernel is K_i = 2 Re Σ_n g_n ā_n^i, with D added to K_0. The
paper multiplies inputs by B̄ and states by C; of these an output knows the product only, here the gain g.

Axes: b batch, t time, h state spaces, n modes (each stands for itself and its conjugate), m channels that share a state
space, i chunks, c tokens of a chunk. Complex numbers are pairs of real ones in a dimension of 2 before n, real part
first, so that states and parameters convert and save like all others.
u and y are (b, t, h, m), D is (h,), the state (b, h, 2, n, m), None before the first token. Modes and states are
float32 or better; products with inputs are in the inputs' dtype.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.ops.autocast import full_precision
from mixers.ops.long_conv import long_conv
from mixers.ops.op import TAKEN, Op

# A state (b, h, 2, n, m) for products, and back.
HEAD_FIRST, BATCH_FIRST = (1, 2, 3, 4, 0), (4, 0, 1, 2, 3)


class Modes(NamedTuple):
    """What a token does to the state, and the state to an output."""

    log_decay: Tensor  # (h, n): ln |ā|
    angle: Tensor  # (h, n): of ā
    gain: Tensor  # (h, 2, n): C B̄


class Chunk(NamedTuple):
    """A state space over c tokens, as matrices."""

    within: Tensor  # (h, c, c): from input s to output t ≥ s, K_{t-s}; 0 for later s
    read: Tensor  # (h, c, 2n): from the state before the chunk to an output
    write: Tensor  # (h, 2n, c): from an input to the state after the chunk
    through: Tensor  # (h, 2, n): from the state before to the state after, ā^c

    @classmethod
    def over(cls, c: int, modes: Modes, skip: Tensor) -> "Chunk":
        read, write, through = edges(c, modes)
        later = read[:, :-1, : modes.angle.shape[1]].sum(-1)  # K_i is 2 Re Σ g ā^i, as a state is read after i tokens
        taps = torch.cat([2 * modes.gain[:, :1].sum(-1) + skip[:, None], later], 1)
        # output t reads K_t … K_0 and nothing later: a window of the taps in reverse
        within = F.pad(taps.flip(1), (0, c - 1)).unfold(1, c, 1).flip(1)
        return cls(within, read, write, through)


def edges(c: int, modes: Modes) -> tuple[Tensor, Tensor, Tensor]:
    """A chunk's matrices that read, write and keep the state."""
    power = powers(modes, c + 1)
    re, im = times(modes.gain[..., None], power[..., 1:]).unbind(1)
    read = torch.cat([2 * re, -2 * im], 1).mT
    return read, power[..., :-1].flip(-1).flatten(1, 2), power[..., -1]


def powers(modes: Modes, count: int) -> Tensor:
    """ā^0 … ā^(count-1), (h, 2, n, count)."""
    exponent = torch.arange(count, device=modes.angle.device, dtype=modes.angle.dtype)
    size, angle = (modes.log_decay[..., None] * exponent).exp(), modes.angle[..., None] * exponent
    return torch.stack([size * angle.cos(), size * angle.sin()], 1)


def times(a: Tensor, b: Tensor, dim: int = 1) -> Tensor:
    """The product of complex numbers, whose parts are in a dimension of 2."""
    (a_re, a_im), (b_re, b_im) = a.unbind(dim), b.unbind(dim)
    return torch.stack([a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re], dim)


def kernel(modes: Modes, skip: Tensor, length: int) -> Tensor:
    """The first taps of the convolution, (h, length)."""
    taps = 2 * times(modes.gain[..., None], powers(modes, length))[:, 0].sum(1)
    return torch.cat([taps[:, :1] + skip[:, None], taps[:, 1:]], 1)


def recurrent(
    u: Tensor, modes: Modes, skip: Tensor, state: Tensor | None, chunk_size: int = 1
) -> tuple[Tensor, Tensor]:
    """Token by token."""
    step, gain = (x[None, ..., None] for x in (powers(modes, 2)[..., 1], modes.gain))
    outputs = []
    state = nothing(u, modes) if state is None else state
    for u_t in u.to(step.dtype).unbind(1):
        re, im = times(state, step, 2).unbind(2)
        state = torch.stack([re + u_t[:, :, None], im], 2)
        outputs.append(2 * times(state, gain, 2)[:, :, 0].sum(2) + skip[:, None] * u_t)
    return torch.stack(outputs, 1).to(u.dtype), state


def convolved(
    u: Tensor, modes: Modes, skip: Tensor, state: Tensor | None, chunk_size: int = 1
) -> tuple[Tensor, Tensor]:
    """As one long convolution by Fourier transforms, beside which a state is read and written."""
    length, m, inputs = u.shape[1], u.shape[3], u.to(modes.angle.dtype)
    with full_precision(u.device):
        taps = kernel(modes, skip, length).T.repeat_interleave(m, 1)
        y = long_conv(inputs.flatten(2), taps, inputs.new_zeros(len(u), 0, taps.shape[1])).view(u.shape)
        read, write, through = edges(length, modes)
        after = torch.einsum("hnt,bthm->bhnm", write, inputs).unflatten(2, (2, -1))
        if state is not None:
            y = y + torch.einsum("htn,bhnm->bthm", read, state.flatten(2, 3))
            after = after + times(state, through[None, ..., None], 2)
    return y.to(u.dtype), after


def chunkwise(u: Tensor, modes: Modes, skip: Tensor, state: Tensor | None, chunk_size: int) -> tuple[Tensor, Tensor]:
    """As matrix products over chunks, all of them at once, and recurrent between them; the last may be shorter."""
    outputs = []
    with full_precision(u.device):
        now = None if state is None else state.permute(HEAD_FIRST)
        for at, chunk in chunks(u.shape[1], chunk_size, modes, skip):
            y, now = equal_chunks(in_chunks(u[:, at], chunk), now, *chunk)
            outputs.append(in_order(y))
    assert now is not None
    return torch.cat(outputs, 1), now.permute(BATCH_FIRST)


def chunks(length: int, size: int, modes: Modes, skip: Tensor) -> list[tuple[slice, Chunk]]:
    """Where the whole chunks lie, and the shorter last one, if there is one; with the matrices for either."""
    whole = length - length % size
    pieces = [(0, whole, size), (whole, length, length - whole)]
    return [(slice(start, end), Chunk.over(c, modes, skip)) for start, end, c in pieces if end > start]


def in_chunks(u: Tensor, chunk: Chunk) -> Tensor:
    """Inputs (b, t, h, m) as (h, c, m, i, b)."""
    return u.unflatten(1, (-1, chunk.within.shape[-1])).permute(3, 2, 4, 1, 0).contiguous()


def in_order(y: Tensor) -> Tensor:
    """`in_chunks` undone."""
    return y.permute(4, 3, 1, 0, 2).flatten(1, 2)


def equal_chunks(u: Tensor, state: Tensor | None, *matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of (h, c, m, i, b), in the same order, and the state after them, (h, 2, n, m, b)."""
    chunk = Chunk(*matrices)
    within, *read, write_re, write_im = (
        x.to(u.dtype) for x in (chunk.within, *chunk.read.chunk(2, 2), *chunk.write.chunk(2, 1))
    )
    through, inputs = chunk.through[..., None, None].unbind(1), u.flatten(2)
    y = within @ inputs
    added = [(write @ inputs).view(len(u), -1, *u.shape[2:]).unbind(3) for write in (write_re, write_im)]
    if state is None:
        now = [torch.zeros_like(part[0], dtype=chunk.through.dtype) for part in added]
    else:
        now = list(state.unbind(1))
    before: list[list[Tensor]] = [[], []]
    for re, im in zip(*added, strict=True):
        for part, kept in zip(now, before, strict=True):
            kept.append(part)
        now = [
            torch.addcmul(torch.addcmul(re.to(now[0].dtype), now[0], through[0]), now[1], through[1], value=-1),
            torch.addcmul(torch.addcmul(im.to(now[0].dtype), now[0], through[1]), now[1], through[0]),
        ]
    if state is not None or u.shape[3] > 1:
        for by, kept in zip(read, before, strict=True):
            y.baddbmm_(by, torch.stack(kept, 3).to(u.dtype).flatten(2))
    return y.view(u.shape), torch.stack(now, 1)


def nothing(u: Tensor, modes: Modes) -> Tensor:
    """The state before the first token."""
    (h, n), (b, m) = modes.angle.shape, (u.shape[0], u.shape[3])
    return modes.angle.new_zeros(b, h, 2, n, m)


def draw_modes(h: int, n: int, dtype: torch.dtype, device: torch.device) -> tuple[Modes, Tensor]:
    """Modes and D of h state spaces that remember tens to hundreds of tokens, with gradients wanted."""
    skip = torch.randn(h, dtype=torch.promote_types(dtype, torch.float32), device=device)
    log_decay, angle = -0.05 * torch.rand_like(skip.expand(n, h).T), 3 * torch.rand_like(skip.expand(n, h).T)
    modes = Modes(log_decay, angle, torch.randn_like(skip.expand(2, n, h).permute(2, 0, 1)) / n)
    return Modes(*(x.requires_grad_() for x in modes)), skip.requires_grad_()


def examples(
    length: int, dim: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Modes, Tensor, Tensor, int]:
    """S4D's arguments at width dim, with gradients wanted."""
    b, n = (1, 32) if dim > 64 else (2, 3)
    modes, skip = draw_modes(dim, n, dtype, device)
    u = torch.randn(b, length, dim, 1, dtype=dtype, device=device).requires_grad_()
    state = torch.randn(b, dim, 2, n, 1, dtype=skip.dtype, device=device).requires_grad_()
    return u, modes, skip, state, 16


state_space = Op(recurrent, examples)


def _is_one_token(u: Tensor, *_: Any) -> str:
    return "one token is its own chunk" if u.shape[1] == 1 else TAKEN


state_space.implementation("fourier", lambda *_: TAKEN, automatic=False)(convolved)
state_space.implementation("chunkwise", _is_one_token)(chunkwise)
