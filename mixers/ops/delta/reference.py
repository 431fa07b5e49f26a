"""The delta rule with decay, token by token.

A state maps keys to values and learns each new pair by a step towards it: what it holds fades, S ← Diag(e^g) S, then it
is read at the key and corrected, S ← S + k (w ∘ v - Sᵀ(b ∘ k))ᵀ, and the query reads the result, o = Sᵀ q. With
b = w = β, a number for each token and head, this is the gated delta rule, S ← (I - β k kᵀ) e^g S + β k vᵀ (Gated
DeltaNet, arXiv:2412.06464, Eq. 10); without decay it is DeltaNet's (arXiv:2406.06484), and with a decay of each key
channel Kimi Delta Attention's (arXiv:2510.26692). The strengths of erasing, b, and of writing, w, may differ, and be
those of each channel. Keys should have length one, and b be at most 2: beyond that the state explodes.

Axes: b batch, t time, h value head, k key width, v value width; c tokens of a chunk, g = b h.
v is (b, t, h, v). q and k are (b, t, h, k), or have fewer heads, each of which serves as many consecutive value heads.
log_decay is g ≤ 0, finite, (b, t, h) or (b, t, h, k), in float32 or better. The erase strength is (b, t, h) or
(b, t, h, k), the write strength (b, t, h) or (b, t, h, v). The output is (b, t, h, v) in v's dtype, the state
(b, h, k, v) in log_decay's dtype, in which all is computed. The state is None before the first token.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.ops.op import Draw


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor | None,
    chunk_size: int = 1,
) -> tuple[Tensor, Tensor]:
    """The output and the state after it. `chunk_size` is for other implementations."""
    heads, precise = v.shape[2], log_decay.dtype
    decay = for_channels(log_decay).exp()
    written = v.to(precise) * for_channels(write)
    q, k = (x.to(precise).repeat_interleave(heads // x.shape[2], 2) for x in (q, k))
    erased = k * for_channels(erase)
    state = zero_state(k, v, precise) if state is None else state
    outputs = []
    for q_n, k_n, erased_n, written_n, decay_n in zip(
        *(x.unbind(1) for x in (q, k, erased, written, decay)), strict=True
    ):
        state = state * decay_n[..., None]
        correction = written_n - read(state, erased_n)
        state = state + k_n[..., :, None] * correction[..., None, :]
        outputs.append(read(state, q_n))
    return torch.stack(outputs, 1).to(v.dtype), state


def read(state: Tensor, q: Tensor) -> Tensor:
    """Sᵀ q for each head, (b, h, v)."""
    return (q[..., None, :] @ state).squeeze(-2)


def zero_state(k: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor:
    """The state before the first token."""
    return v.new_zeros(len(v), v.shape[2], k.shape[-1], v.shape[-1], dtype=dtype)


def for_channels(x: Tensor) -> Tensor:
    """A decay or strength as (b, t, h, 1 or channels)."""
    return x if x.ndim == 4 else x[..., None]


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Any, ...]:
    """Gated DeltaNet's arguments, with 4 heads."""
    h, k, v, precise = 4, dim // 4, dim // 2, draw.precise
    q, value, key = draw(batch, length, h, k), draw(batch, length, h, v), draw(batch, length, h, k)
    key = F.normalize(key.detach(), dim=-1).requires_grad_()
    u = precise(batch, length, h).detach()
    log_decay, beta = F.logsigmoid(u + 2).requires_grad_(), precise(batch, length, h).detach().sigmoid()
    return q, key, value, log_decay, beta.requires_grad_(), beta, precise(batch, h, k, v), 64 if dim > 64 else 16


def channel_examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Any, ...]:
    """The same with a decay of each channel, as in Kimi Delta Attention."""
    q, k, v, _, beta, _, state, chunk_size = examples(draw, batch, length, dim)
    log_decay = F.logsigmoid(draw.precise(*k.shape).detach() + 2).requires_grad_()
    return q, k, v, log_decay, beta, beta, state, chunk_size
