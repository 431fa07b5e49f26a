"""Linear attention with decay, in the three forms of the RetNet paper (arXiv:2307.08621).

Each key and value is remembered as an outer product that fades by γ a step, and a query reads the sum of them:
o_n = Σ_{m≤n} γ^{n-m} (q_n·k_m) v_m. With γ = 1 it is linear attention. The three forms are the same function.

Each also gives the weight of what was read, w_n = Σ_{m≤n} γ^{n-m} q_n·k_m, as if v had one more column of ones:
retention's third normalisation and linear attention's denominator.

Axes: b batch, h head, n chunk, t and s time, k key width, v value width.
q and k are (b, h, t, k), v is (b, h, t, v), log_decay = ln γ is (h,), in float32 or better: bfloat16 rounds
1 - 2^-9 to 1. The memory is what is left of the tokens before, None if there were none. The output is (b, h, t, v)
and the weight (b, h, t), in log_decay's dtype.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixers.ops.op import TAKEN, Op


class Memory(NamedTuple):
    """What is left of the past, in float32 or better."""

    kv: Tensor  # (b, h, k, v): Σ γ^{n-m} k_mᵀ v_m
    k: Tensor  # (b, h, k): Σ γ^{n-m} k_m


class Powers(NamedTuple):
    """Powers of each head's γ over a chunk of c tokens."""

    within: Tensor  # (h, c, c): from token m to token n ≥ m, γ^{n-m}; 0 for later m
    since: Tensor  # (h, c, 1): from the memory to each token, the paper's ξ
    until: Tensor  # (h, c, 1): from each token to the chunk's last, its ζ
    through: Tensor  # (h, 1, 1): through the whole chunk

    @classmethod
    def over(cls, c: int, log_decay: Tensor) -> "Powers":
        n = torch.arange(c, device=log_decay.device, dtype=log_decay.dtype)
        log_decay = log_decay[:, None, None]
        since = (log_decay * (n[:, None] + 1)).exp()
        within = (log_decay * (n[:, None] - n).clamp(min=0)).exp().tril()
        return cls(within, since, (log_decay * (c - 1 - n[:, None])).exp(), since[:, -1:])


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Memory | None, chunk_size: int = 1
) -> tuple[Tensor, Tensor, Memory]:
    """Token by token: S_n = γ S_{n-1} + k_nᵀ v_n and o_n = q_n S_n (Eq. 6)."""
    decay = log_decay.exp()[:, None]
    outputs, weights = [], []
    memory = nothing(q, v, log_decay.dtype) if memory is None else memory
    for q_n, k_n, v_n in zip(*(x.to(log_decay.dtype).unbind(2) for x in (q, k, v)), strict=True):
        kv = (memory.kv * decay[..., None]).addcmul_(k_n[..., :, None], v_n[..., None, :])
        memory = Memory(kv, torch.addcmul(k_n, memory.k, decay))
        outputs.append((q_n[..., None, :] @ memory.kv).squeeze(-2))
        weights.append((q_n * memory.k).sum(-1))
    return torch.stack(outputs, 2).to(v.dtype), torch.stack(weights, 2), memory


def parallel(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor]:
    """All tokens at once, from the first: O = (Q Kᵀ ⊙ D) V with D_nm = γ^{n-m} for n ≥ m, else 0 (Eq. 5)."""
    scores = (q @ k.mT) * Powers.over(q.shape[2], log_decay).within.to(q.dtype)
    return scores @ v, scores.sum(-1, dtype=log_decay.dtype)


def chunkwise(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Memory | None, chunk_size: int
) -> tuple[Tensor, Tensor, Memory]:
    """Parallel within chunks, all of them at once, and recurrent between them (Eq. 7); the last may be shorter."""
    outputs, weights, length = [], [], q.shape[2]
    whole = length - length % chunk_size
    for start, end, size in ((0, whole, chunk_size), (whole, length, length - whole)):
        if end > start:
            q_i, k_i, v_i = (x[:, :, start:end].unflatten(2, (-1, size)) for x in (q, k, v))
            output, weight, memory = _equal_chunks(q_i, k_i, v_i, log_decay, memory)
            outputs.append(output.flatten(2, 3))
            weights.append(weight.flatten(2, 3))
    assert memory is not None
    return torch.cat(outputs, 2), torch.cat(weights, 2), memory


def _equal_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Memory | None
) -> tuple[Tensor, Tensor, Memory]:
    """`chunkwise` of (b, h, n, t, k) and (b, h, n, t, v), n chunks of t tokens."""
    powers = Powers.over(q.shape[3], log_decay)
    within, since, until = (power[:, None].to(q.dtype) for power in powers[:3])
    scores = (q @ k.mT) * within
    output, weight = scores @ v, scores.sum(-1, dtype=log_decay.dtype)
    k = k * until
    added = Memory(k.mT @ v, k.sum(-2, dtype=log_decay.dtype))
    if memory is None and q.shape[2] == 1:
        return output, weight, Memory(added.kv[:, :, 0].to(log_decay.dtype), added.k[:, :, 0])

    now, before = nothing(q, v, log_decay.dtype) if memory is None else memory, []
    for kv, z in zip(added.kv.unbind(2), added.k.unbind(2), strict=True):
        before.append(now)
        now = Memory(torch.addcmul(kv, now.kv, powers.through), torch.addcmul(z, now.k, powers.through[..., 0]))
    past = Memory(*(torch.stack(parts, 2).to(q.dtype) for parts in zip(*before, strict=True)))
    q = q * since
    return output + q @ past.kv, weight + (q @ past.k[..., None]).squeeze(-1), now


def nothing(q: Tensor, v: Tensor, dtype: torch.dtype) -> Memory:
    """The memory before the first token."""
    kv = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1], dtype=dtype)
    return Memory(kv, kv.new_zeros(kv.shape[:3]))


def examples(
    length: int, dim: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Memory, int]:
    """Retention's arguments at width dim, with 4 heads and gradients wanted."""
    b, h, k, v = 1 if dim > 64 else 2, 4, dim // 4, dim // 2

    precise = torch.promote_types(dtype, torch.float32)
    wide = (torch.randn(b, length, h, width, dtype=dtype, device=device) for width in (k, k, v))
    q, key, value = (x.transpose(1, 2).requires_grad_() for x in wide)
    past = (torch.randn(b, h, *widths, dtype=precise, device=device) for widths in ((k, v), (k,)))
    memory = Memory(*(x.requires_grad_() for x in past))
    log_decay = torch.log1p(-torch.exp2(-5 - torch.arange(h, dtype=precise, device=device)))
    return q, key, value, log_decay, memory, 64 if dim > 64 else 16


decayed_attention = Op(recurrent, examples)


def _is_one_token(q: Tensor, *_: Any) -> str:
    return "one token is its own chunk" if q.shape[2] == 1 else TAKEN


decayed_attention.implementation("chunkwise", _is_one_token)(chunkwise)
