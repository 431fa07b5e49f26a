"""Linear attention with decay by chunks: parallel within them, all of them at once, and recurrent between them.

It is Eq. 7 of the RetNet paper, and with a single chunk its parallel form, Eq. 5. With G_i = Σ_{s≤i} g_s within a chunk
every product of decays is the exponential of a difference G_i - G_j, i ≥ j, which is never positive. Where each key
channel has its own decay, it cannot be taken out of q_i · k_j; scores are then computed by blocks of rows. Between a
block's rows and the columns before it the decay is split at the token before the block, so that the scores are again
products of matrices (secondary chunking, arXiv:2312.06635, section 4.3).

Axes: as in reference.py, heads before time: (b, h, n, c, ·). G is (b, h, n, c, k), with k = 1 where all channels of a
head decay alike, or (h, 1, c, 1) where all tokens do, too.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.ops.chunks import by_chunks, slices
from mixers.ops.decay.reference import DecayState, for_channels
from mixers.ops.precision import full_precision, in_product_dtype

ROWS = 16  # in a block of scores that are computed channel by channel


class Decays(NamedTuple):
    """What is left over the tokens of a chunk."""

    since: Tensor  # (..., c, k): from the state before the chunk at each token, the paper's ξ
    until: Tensor  # (..., c, k): from each token at the chunk's last, its ζ
    through: Tensor  # (..., k, 1): from the state before the chunk in the state after it

    @classmethod
    def of(cls, total: Tensor) -> "Decays":
        """With G, (..., c, k)."""
        last = total[..., -1:, :]
        return cls(total.exp(), (last - total).exp(), last.mT.exp())


def chunkwise(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: DecayState | None, chunk_size: int
) -> tuple[Tensor, Tensor, DecayState]:
    """The output, the weight of what was read, and the state after it; the last chunk may be shorter."""

    def run(state: DecayState | None, *chunks: Tensor) -> tuple[Tensor, Tensor, DecayState]:
        q, k, v, *varying = (x.permute(0, 3, 1, 2, 4) for x in chunks)
        total = varying[0].cumsum(-2) if varying else fixed_total(log_decay, q.shape[3])
        output, weight, state = _equal_chunks(q, k, v, total, state)
        return output.permute(0, 2, 3, 1, 4), weight.permute(0, 2, 3, 1), state

    varying = [] if log_decay.ndim == 1 else [for_channels(log_decay)]
    with full_precision(q.device):
        return by_chunks(run, chunk_size, [*in_product_dtype(q, k, v), *varying], state)


def fixed_total(log_decay: Tensor, c: int) -> Tensor:
    """G of a decay (h,) that is the same for all tokens, (h, 1, c, 1)."""
    steps = torch.arange(1, c + 1, device=log_decay.device, dtype=log_decay.dtype)
    return log_decay[:, None, None, None] * steps[:, None]


def decay_mask(total: Tensor) -> Tensor:
    """e^{G_i - G_j} for j ≤ i, and 0 for later j, of G (..., c, k): (..., c, c, k)."""
    c = total.shape[-2]
    later = torch.ones(c, c, device=total.device, dtype=torch.bool).triu(1)[..., None]
    return (total[..., :, None, :] - total[..., None, :, :]).masked_fill(later, -torch.inf).exp()


def _equal_chunks(
    q: Tensor, k: Tensor, v: Tensor, total: Tensor, state: DecayState | None
) -> tuple[Tensor, Tensor, DecayState]:
    """The outputs (b, h, n, c, v), the weights (b, h, n, c) and the state after the last of n chunks."""
    precise, decays = total.dtype, Decays.of(total)
    scores = _scores(q, k, total)
    output, weight = scores @ v, scores.sum(-1, dtype=precise)
    k = k * decays.until.to(k.dtype)
    added = DecayState(k.mT @ v, k.sum(-2, dtype=precise))
    if state is None and q.shape[2] == 1:
        return output, weight, DecayState(added.kv[:, :, 0].to(precise), added.k[:, :, 0])

    if state is None:
        state = DecayState(*(torch.zeros_like(x[:, :, 0], dtype=precise) for x in added))
    through, before = decays.through, []
    through = through.expand(*through.shape[:-3], q.shape[2], -1, -1)
    for kv, z, kept in zip(added.kv.unbind(2), added.k.unbind(2), through.unbind(-3), strict=True):
        before.append(state)
        state = DecayState(torch.addcmul(kv, state.kv, kept), torch.addcmul(z, state.k, kept[..., 0]))
    past = DecayState(*(torch.stack(parts, 2) for parts in zip(*before, strict=True)))
    q = q * decays.since.to(q.dtype)
    output = output + q @ past.kv.to(q.dtype)
    return output, weight + (q.to(precise) @ past.k[..., None]).squeeze(-1), state


def _scores(q: Tensor, k: Tensor, total: Tensor) -> Tensor:
    """q_i · k_j, each channel times its e^{G_i - G_j}, for j ≤ i, and 0 for later j: (b, h, n, c, c)."""
    if total.shape[-1] == 1:
        return (q @ k.mT) * decay_mask(total).squeeze(-1).to(q.dtype)
    blocks, c = [], q.shape[-2]
    for at in slices(c, ROWS):
        near = (q[..., at, None, :] * k[..., None, at, :] * decay_mask(total[..., at, :])).sum(-1).to(q.dtype)
        if at.start > 0:
            split = total[..., at.start - 1 : at.start, :]
            rows = q[..., at, :] * (total[..., at, :] - split).exp().to(q.dtype)
            columns = k[..., : at.start, :] * (split - total[..., : at.start, :]).exp().to(k.dtype)
            near = torch.cat([rows @ columns.mT, near], -1)
        blocks.append(F.pad(near, (0, c - at.stop)))
    return torch.cat(blocks, -2)
