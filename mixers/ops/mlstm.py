"""The memory of the matrix LSTM: `h, state = mlstm(q, k, v, log_input, log_forget, state, chunk_size)`.

C_n = e^{f_n} C_{n-1} + e^{i_n} k_n v_nᵀ and z_n = e^{f_n} z_{n-1} + e^{i_n} k_n, read with q̃ = q / √(key width):
h_n = C_nᵀ q̃_n / max(|z_n · q̃_n|, 1) (arXiv:2405.04517, Eq. 19 to 27). The input gate is an exponential, so all of it is
kept times e^{-m_n}, m_n = max(f_n + m_{n-1}, i_n), which no exponential then exceeds. That cancels in h, except in the
10^-6 that the authors' xLSTM-7B adds to the divisor after scaling.

Scaled, the memory is linear attention with the decay f_n + m_{n-1} - m_n ≤ 0 and the keys e^{i_n - m_n} k_n.

Axes: b batch, t time, h head, k key width, v value width. q and k are (b, t, h, k), v is (b, t, h, v); the logarithms i
of the input gate and f ≤ 0 of the forget gate are (b, t, h), in float32 or better. The output is (b, t, h, v) in v's
dtype, the state in the gates'. The state is None before the first token, where m is 0.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.ops.decay import DecayState, decayed_linear_attention_with_weights
from mixers.ops.op import Draw, Implementation, Op, single_token

EPS = 1e-6


class MLSTMState(NamedTuple):
    """What is left of the tokens so far, in float32 or better."""

    kv: Tensor  # (b, h, k, v): e^{-m} C
    k: Tensor  # (b, h, k): e^{-m} z
    log_scale: Tensor  # (b, h): m

    @classmethod
    def zero(cls, k: Tensor, v: Tensor, dtype: torch.dtype) -> "MLSTMState":
        """The state before the first of k (b, t, h, k) and v (b, t, h, v)."""
        kv, z = DecayState.zero(k, v, dtype)
        return cls(kv, z, z[..., 0].clone())


Result = tuple[Tensor, MLSTMState]


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_input: Tensor,
    log_forget: Tensor,
    state: MLSTMState | None,
    chunk_size: int = 1,
) -> Result:
    """Token by token. `chunk_size` is for other implementations."""
    dtype, outputs = log_forget.dtype, []
    kv, z, m = MLSTMState.zero(k, v, dtype) if state is None else state
    inputs = (q.to(dtype) * q.shape[-1] ** -0.5, k.to(dtype), v.to(dtype), log_input, log_forget)
    for q_n, k_n, v_n, i, f in zip(*(x.unbind(1) for x in inputs), strict=True):
        before, m = m, torch.maximum(f + m, i)
        keep, k_n = (f + before - m).exp()[..., None], k_n * (i - m).exp()[..., None]
        kv, z = (kv * keep[..., None]).addcmul_(k_n[..., :, None], v_n[..., None, :]), z * keep + k_n
        divisor = torch.maximum((q_n * z).sum(-1).abs(), (-m).exp()) + EPS
        outputs.append((q_n[..., None, :] @ kv).squeeze(-2) / divisor[..., None])
    return torch.stack(outputs, 1).to(v.dtype), MLSTMState(kv, z, m)


def by_decay(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_input: Tensor,
    log_forget: Tensor,
    state: MLSTMState | None,
    chunk_size: int,
) -> Result:
    """As linear attention with decay.

    Where m cancels, nothing depends on it and it is taken for a constant, m̂, which spares its gradient the rounding of
    sums that come to zero. Where it does not, a factor e^{m - m̂}, which is one, has its gradient.
    """
    start = torch.zeros_like(log_forget[:, 0]) if state is None else state.log_scale
    m = log_scales(log_input, log_forget, start)
    fixed = torch.cat([start[:, None], m], 1).detach()
    before, fixed = fixed[:, :-1], fixed[:, 1:]
    k = k * (log_input - fixed).exp().to(k.dtype)[..., None]
    past = None if state is None else DecayState(*_times((start - before[:, 0]).exp(), state.kv, state.k))
    decay = log_forget + before - fixed
    o, weight, past = decayed_linear_attention_with_weights(q * q.shape[-1] ** -0.5, k, v, decay, past, chunk_size)
    divisor = torch.maximum(weight.abs(), (-fixed).exp()) + EPS * (m - fixed).exp()
    h = o * divisor.reciprocal()[..., None].to(o.dtype)
    return h, MLSTMState(*_times((fixed - m)[:, -1].exp(), *past), m[:, -1])


def log_scales(log_input: Tensor, log_forget: Tensor, start: Tensor) -> Tensor:
    """m_n = max(f_n + m_{n-1}, i_n) of each token, (b, t, h), from m_0 = start (b, h).

    Doubles the tokens that each maximum looks back over, so that no difference of long sums is taken.
    """
    total, largest, reach = log_forget, log_input, 1  # Σ f and the maximum over the last `reach` tokens
    while reach < total.shape[1]:
        earlier = (0, 0, reach, 0)
        largest = torch.maximum(F.pad(largest[:, :-reach], earlier, value=-torch.inf) + total, largest)
        total = total + F.pad(total[:, :-reach], earlier)
        reach *= 2
    return torch.maximum(total + start[:, None], largest)


def _times(scale: Tensor, kv: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return kv * scale[..., None, None], k * scale[..., None]


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Any, ...]:
    """With 4 heads, and a state."""
    h, k, v, precise = 4, dim // 8, dim // 4, draw.precise
    q, key, value = (draw(batch, length, h, width) for width in (k, k, v))
    log_input, log_forget, m = precise(batch, length, h), precise(batch, length, h), precise(batch, h)
    log_forget = F.logsigmoid(3 + log_forget.detach()).requires_grad_()
    state = MLSTMState(precise(batch, h, k, v), precise(batch, h, k), m)
    return q, key, value, log_input, log_forget, state, 64 if dim > 64 else 16


mlstm: Op[Result] = Op(reference, [Implementation("by_decay", by_decay, single_token)], examples)
