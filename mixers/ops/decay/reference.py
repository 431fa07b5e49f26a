"""Linear attention with decay, token by token.

S_n = Diag(e^{g_n}) S_{n-1} + k_n v_nᵀ and o_n = S_nᵀ q_n: each key and value is remembered as an outer product that
fades, and a query reads the sum of them. The decay e^g may be one number for each head, as in retention
(arXiv:2307.08621) and, with g = 0, in linear attention; for each token and head, as in Mamba-2; or for each token, head
and key channel, as in gated linear attention (arXiv:2312.06635).

The weight of what is read, w_n = q_n · z_n with z_n = e^{g_n} z_{n-1} + k_n, is what o_n would be if v were one:
retention's third normaliser and linear attention's denominator.

Axes: b batch, t time, h head, g group of heads, k key width, v value width, n chunk, c tokens of a chunk.
v is (b, t, h, v), and q and k are (b, t, h, k), or (b, t, g, k) where h / g heads that follow each other share them, as
in Mamba-2. log_decay is g ≤ 0, finite, (h,), (b, t, h) or (b, t, h, k), in float32 or better: bfloat16 rounds 1 - 2^-9
to 1. The output is (b, t, h, v) in v's dtype, the weight (b, t, h) and the state in log_decay's dtype. The state is
None before the first token.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixers.ops.op import Draw


class DecayState(NamedTuple):
    """What is left of the tokens so far, in float32 or better."""

    kv: Tensor  # (b, h, k, v): S
    k: Tensor  # (b, h, k): z

    @classmethod
    def zero(cls, k: Tensor, v: Tensor, dtype: torch.dtype) -> "DecayState":
        """The state before the first of k (b, t, g, k) and v (b, t, h, v)."""
        b, _, h, width = v.shape
        kv = k.new_zeros(b, h, k.shape[-1], width, dtype=dtype)
        return cls(kv, kv.new_zeros(kv.shape[:3]))


def reference(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: DecayState | None, chunk_size: int = 1
) -> tuple[Tensor, Tensor, DecayState]:
    """The output, the weight of what was read, and the state after it. `chunk_size` is for other implementations."""
    state = DecayState.zero(k, v, log_decay.dtype) if state is None else state
    outputs, weights = [], []
    q, k = (for_heads(x, v.shape[2], 2) for x in (q, k))
    decays = for_channels(log_decay).exp().expand(-1, q.shape[1], -1, -1)
    for q_n, k_n, v_n, decay in zip(*(x.to(log_decay.dtype).unbind(1) for x in (q, k, v, decays)), strict=True):
        kv = (state.kv * decay[..., None]).addcmul_(k_n[..., :, None], v_n[..., None, :])
        state = DecayState(kv, torch.addcmul(k_n, state.k, decay))
        outputs.append((q_n[..., None, :] @ state.kv).squeeze(-2))
        weights.append((q_n * state.k).sum(-1))
    return torch.stack(outputs, 1).to(v.dtype), torch.stack(weights, 1), state


def for_heads(x: Tensor, heads: int, axis: int) -> Tensor:
    """What groups of heads share, once for each head."""
    shared = heads // x.shape[axis]
    return x if shared == 1 else x.repeat_interleave(shared, axis)


def for_channels(log_decay: Tensor) -> Tensor:
    """A decay of any of the three shapes as (b or 1, t or 1, h, k or 1)."""
    if log_decay.ndim == 1:
        return log_decay[None, None, :, None]
    return log_decay if log_decay.ndim == 4 else log_decay[..., None]


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Any, ...]:
    """Retention's arguments, with 4 heads."""
    h, k, v, precise = 4, dim // 4, dim // 2, draw.precise
    q, key, value = (draw(batch, length, h, width) for width in (k, k, v))
    log_decay = torch.log1p(-torch.exp2(-5 - torch.arange(h, dtype=precise.dtype, device=draw.device)))
    state = DecayState(precise(batch, h, k, v), precise(batch, h, k))
    return q, key, value, log_decay, state, 64 if dim > 64 else 16


def examples_without_weights(*args: Any) -> tuple[Any, ...]:
    *inputs, state, chunk_size = examples(*args)
    return *inputs, state.kv, chunk_size
