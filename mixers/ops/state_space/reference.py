"""A diagonal state space, token by token: a recurrence of complex numbers (S4D, arXiv:2206.11893).

Each of n modes remembers the inputs, s_t = ā s_{t-1} + u_t, and an output reads them all,
y_t = 2 Re Σ_n g_n s_{t,n} + D u_t. As a convolution its kernel is K_i = 2 Re Σ_n g_n ā_n^i, with D added to K_0. The
paper multiplies inputs by B̄ and states by C; of these an output knows the product only, here the gain g.

In H3 (arXiv:2212.14052) it lies between keys and queries, as a memory of associations: in each head the outer product
of a key and a value passes through a state space, all of its elements through the same one, and a query reads the
result, o_t = q_t Σ_{s≤t} K_{t-s} k_sᵀ v_s.

Axes: b batch, t time, h state spaces, n modes (each stands for itself and its conjugate), m channels that share a state
space, p the width of one of H3's heads, whose outer products are m = p² channels, i chunks, c tokens of a chunk.
Complex numbers are pairs of real ones in a dimension of 2 before n, real part first, so that states and parameters
convert and save like all others.
u and y are (b, t, h, m), q, k, v and o (b, t, h, p), D is (h,), the state (b, h, 2, n, m), None before the first token.
Modes and states are float32 or better; products with inputs are in the inputs' dtype.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixers.ops.op import Draw


class Modes(NamedTuple):
    """What a token does to the state, and the state to an output."""

    log_decay: Tensor  # (h, n): ln |ā|
    angle: Tensor  # (h, n): of ā
    gain: Tensor  # (h, 2, n): C B̄


def reference(
    u: Tensor, modes: Modes, skip: Tensor, state: Tensor | None, chunk_size: int = 1
) -> tuple[Tensor, Tensor]:
    """The output, and the state after it. `chunk_size` is for other implementations."""
    step, gain = (x[None, ..., None] for x in (powers(modes, 2)[..., 1], modes.gain))
    outputs = []
    if state is None:
        state = skip.new_zeros(len(u), *modes.gain.shape, u.shape[3])
    for u_t in u.to(step.dtype).unbind(1):
        re, im = times(state, step, 2).unbind(2)
        state = torch.stack([re + u_t[:, :, None], im], 2)
        outputs.append(2 * times(state, gain, 2)[:, :, 0].sum(2) + skip[:, None] * u_t)
    return torch.stack(outputs, 1).to(u.dtype), state


def attention_reference(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """The output, and the state after it."""
    y, state = reference(outer(k, v, -1), *rest)
    return read(q, y, -1), state


def powers(modes: Modes, count: int) -> Tensor:
    """ā^0 … ā^(count-1), (h, 2, n, count)."""
    exponent = torch.arange(count, device=modes.angle.device, dtype=modes.angle.dtype)
    size, angle = (modes.log_decay[..., None] * exponent).exp(), modes.angle[..., None] * exponent
    return torch.stack([size * angle.cos(), size * angle.sin()], 1)


def times(a: Tensor, b: Tensor, dim: int = 1) -> Tensor:
    """The product of complex numbers, whose parts are in a dimension of 2."""
    (a_re, a_im), (b_re, b_im) = a.unbind(dim), b.unbind(dim)
    return torch.stack([a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re], dim)


def outer(k: Tensor, v: Tensor, dim: int) -> Tensor:
    """All products of an element of k and one of v, which lie in that dimension."""
    dim = dim % k.ndim
    return (k.unsqueeze(dim + 1) * v.unsqueeze(dim)).flatten(dim, dim + 1)


def read(q: Tensor, y: Tensor, dim: int) -> Tensor:
    """A query times what has become of the outer products."""
    dim = dim % q.ndim
    return (q.unsqueeze(dim + 1) * y.unflatten(dim, (q.shape[dim], -1))).sum(dim)


def draw_modes(draw: Draw, h: int, n: int) -> tuple[Modes, Tensor]:
    """Modes and D of h state spaces that remember tens to hundreds of tokens."""
    draw = draw.precise
    log_decay, angle, gain = (draw(h, *shape).detach() for shape in ((n,), (n,), (2, n)))
    parts = -0.05 * log_decay.sigmoid(), 3 * angle.sigmoid(), gain / n
    return Modes(*(x.requires_grad_() for x in parts)), draw(h)


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Any, ...]:
    """S4D's arguments."""
    n = 32 if dim > 64 else 3
    modes, skip = draw_modes(draw, dim, n)
    return draw(batch, length, dim, 1), modes, skip, draw.precise(batch, dim, 2, n, 1), 16


def attention_examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Any, ...]:
    """H3's arguments."""
    p, n, chunk_size = (8, 32, 64) if dim > 64 else (4, 3, 16)
    h = dim // p
    q, k, v = (draw(batch, length, h, p) for _ in range(3))
    return q, k, v, *draw_modes(draw, h, n), draw.precise(batch, h, 2, n, p * p), chunk_size
