"""A state whose transition is diagonal plus rank one, token by token: the rule of RWKV-7 (arXiv:2503.14456).

S_n = Diag(e^{g_n}) S_{n-1} + b_n (a_nᵀ S_{n-1}) + k_n v_nᵀ and o_n = S_nᵀ q_n: beside decaying and remembering a key
with its value, as in linear attention with decay, a token reads the state with a and writes what it finds back under b,
before anything decays. With a = -κ and b = κ ∘ rate, |κ| = 1, as RWKV-7 has them, it removes part of what was stored
under the key κ. The paper's state is value × key, transposed to this one.

Axes: b batch, t time, h head, k key width, v value width, c tokens of a chunk, n batch and heads together.
q, k, a and b are (b, t, h, k), v is (b, t, h, v), log_decay is g ≤ 0, finite, (b, t, h, k), in float32 or better, which
is what everything here is computed in. The output is (b, t, h, v) in v's dtype and the state (b, h, k, v) in
log_decay's. The state is None before the first token.
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
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    state: Tensor | None,
    chunk_size: int = 1,
    lower_bound: float = -torch.inf,
) -> tuple[Tensor, Tensor]:
    """The output, and the state after it.

    `chunk_size` and `lower_bound`, of log_decay, are for other implementations.
    """
    state = zero_state(k, v, log_decay) if state is None else state
    tensors = (x.to(log_decay.dtype).unbind(1) for x in (q, k, v, a, b, log_decay.exp()))
    outputs = []
    for q_n, k_n, v_n, a_n, b_n, decay in zip(*tensors, strict=True):
        found = a_n[..., None, :] @ state
        state = decay[..., None] * state + b_n[..., None] * found + k_n[..., None] * v_n[..., None, :]
        outputs.append((q_n[..., None, :] @ state).squeeze(-2))
    return torch.stack(outputs, 1).to(v.dtype), state


def zero_state(k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """The state before the first of k (b, t, h, k) and v (b, t, h, v)."""
    return log_decay.new_zeros(k.shape[0], k.shape[2], k.shape[3], v.shape[3])


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Any, ...]:
    """RWKV-7's arguments, with heads of 64, or of a quarter of a small width."""
    width = 64 if dim > 64 else dim // 4
    h, precise = dim // width, draw.precise
    q, k, v = (draw(batch, length, h, width) for _ in range(3))
    key, rate = draw(batch, length, h, width).detach(), draw(batch, length, h, width).detach().sigmoid()
    a = -F.normalize(key.float(), dim=-1).to(key.dtype)
    log_decay = -0.6065 * precise(batch, length, h, width).detach().sigmoid()
    wanted = (x.requires_grad_() for x in (a, -a.detach() * rate, log_decay))
    return q, k, v, *wanted, precise(batch, h, width, width), 32 if dim > 64 else 16, -0.6066
