"""Linear attention with decay, in the three forms of the RetNet paper (arXiv:2307.08621).

Each key and value is remembered as an outer product that fades by γ a step, and a query reads the sum of them:
o_n = Σ_{m≤n} γ^{n-m} (q_n·k_m) v_m. With γ = 1 it is linear attention. The three forms are the same function.

Each also gives the weight of what was read, w_n = Σ_{m≤n} γ^{n-m} q_n·k_m, as if v had one more column of ones:
retention's third normalisation and linear attention's denominator.

Axes: b batch, h head, t and s time, k key width, v value width.
q and k are (b, h, t, k), v is (b, h, t, v), log_decay = ln γ is (h,), in float32 or better: bfloat16 rounds
1 - 2^-9 to 1. The output is (b, h, t, v) and the weight (b, h, t).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Memory(NamedTuple):
    """What is left of the past, in float32 or better."""

    kv: Tensor  # (b, h, k, v): Σ γ^{n-m} k_mᵀ v_m
    k: Tensor  # (b, h, k): Σ γ^{n-m} k_m


def parallel(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor]:
    """All tokens at once, from the first: O = (Q Kᵀ ⊙ D) V with D_nm = γ^{n-m} for n ≥ m, else 0 (Eq. 5)."""
    t = torch.arange(q.shape[2], device=q.device)
    distance = t[:, None] - t
    decay = (log_decay[:, None, None] * distance.clamp(min=0)).exp().tril()
    scores = (q @ k.mT) * decay.to(q.dtype)
    return scores @ v, scores.sum(-1, dtype=log_decay.dtype)


def recurrent(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
    """Token by token: S_n = γ S_{n-1} + k_nᵀ v_n and o_n = q_n S_n (Eq. 6)."""
    decay = log_decay.exp()[:, None]
    outputs, weights = [], []
    for q_n, k_n, v_n in zip(q.unbind(2), k.unbind(2), v.unbind(2), strict=True):
        kv = memory.kv * decay[..., None] + k_n[..., :, None] * v_n[..., None, :]
        memory = Memory(kv, memory.k * decay + k_n)
        outputs.append((q_n[..., None, :] @ memory.kv.to(q.dtype)).squeeze(-2))
        weights.append((q_n * memory.k).sum(-1))
    return torch.stack(outputs, 2), torch.stack(weights, 2), memory


def chunkwise(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Memory, chunk_size: int
) -> tuple[Tensor, Tensor, Memory]:
    """Chunk by chunk: parallel within a chunk, recurrent between them (Eq. 7); the last chunk may be shorter."""
    outputs, weights = [], []
    for q_i, k_i, v_i in zip(*(x.split(chunk_size, dim=2) for x in (q, k, v)), strict=True):
        output, weight, memory = _one_chunk(q_i, k_i, v_i, log_decay, memory)
        outputs.append(output)
        weights.append(weight)
    return torch.cat(outputs, 2), torch.cat(weights, 2), memory


def _one_chunk(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
    output, weight = parallel(q, k, v, log_decay)
    steps = torch.arange(1, q.shape[2] + 1, device=q.device, dtype=log_decay.dtype)
    since_start = (log_decay[:, None] * steps).exp()  # ξ, (h, t): from the memory to each token
    until_end = (log_decay[:, None] * (len(steps) - steps)).exp()  # ζ, (h, t): from each token to the chunk's last
    through = since_start[:, -1:]

    output = output + (q @ memory.kv.to(q.dtype)) * since_start[..., None].to(q.dtype)
    weight = weight + (q @ memory.k[..., None].to(q.dtype)).squeeze(-1) * since_start
    k = k * until_end[..., None].to(k.dtype)
    after = Memory(memory.kv * through[..., None] + k.mT @ v, memory.k * through + k.sum(2, dtype=memory.k.dtype))
    return output, weight, after
