"""Linear attention with decay by chunks: parallel within them, all of them at once, and recurrent between them.

It is Eq. 7 of the RetNet paper, and with a single chunk its parallel form, Eq. 5. With G_i = Σ_{s≤i} g_s within a chunk
every product of decays is the exponential of a difference G_i - G_j, i ≥ j, which is never positive.

Where all channels of a head decay alike, the decay is taken to the values and outputs, so that heads that share their
queries and keys share the products with the state, too. Where each key channel has its own, it cannot be taken out of
q_i · k_j; the chunk is then halved again and again, and between the halves of a part the decay is split at the end of
the first, so that the scores are products of matrices: the secondary chunking of arXiv:2312.06635, section 4.3, at
every scale.

Axes: as in reference.py, heads before time: (b, h, n, c, ·). G is (b, h, n, c, k), with k = 1 where all channels of a
head decay alike, or (h, 1, c, 1) where all tokens do, too. s is h / g, the heads that share a key.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.ops.chunks import by_chunks
from mixers.ops.decay.reference import DecayState, for_channels, for_heads
from mixers.ops.precision import full_precision, in_product_dtype


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
        output, weight, state = equal_chunks(q, k, v, total, state)
        return output.permute(0, 2, 3, 1, 4), weight.permute(0, 2, 3, 1), state

    varying = [] if log_decay.ndim == 1 else [for_channels(log_decay)]
    with full_precision(q.device):
        return by_chunks(run, chunk_size, [*in_product_dtype(q, k, v), *varying], state)


def fixed_total(log_decay: Tensor, c: int) -> Tensor:
    """G of a decay (h,) that is the same for all tokens, (h, 1, c, 1)."""
    steps = torch.arange(1, c + 1, device=log_decay.device, dtype=log_decay.dtype)
    return log_decay[:, None, None, None] * steps[:, None]


def decay_mask(total: Tensor) -> Tensor:
    """e^{G_i - G_j} for j ≤ i, and 0 for later j, of G (..., c, 1): (..., c, c)."""
    total = total.squeeze(-1)
    c = total.shape[-1]
    not_earlier = torch.ones(c, c, device=total.device, dtype=torch.bool).triu()
    earlier = (total[..., :, None] - total[..., None, :]).masked_fill(not_earlier, -torch.inf).exp()
    # 1 as a constant, so that no rounding of what a token reads of itself gets into the gradient of its decay
    return earlier + torch.eye(c, device=total.device, dtype=total.dtype)


def equal_chunks(
    q: Tensor, k: Tensor, v: Tensor, total: Tensor, state: DecayState | None
) -> tuple[Tensor, Tensor, DecayState]:
    """The outputs (b, h, n, c, v), the weights (b, h, n, c) and the state after the last of n chunks."""
    if total.shape[-1] > 1:
        q, k = (for_heads(x, v.shape[1], 1) for x in (q, k))
    decays, alike = Decays.of(total), total.shape[-1] == 1
    scores = _scores(q, k, total, v.shape[1])
    output, weight = scores @ v, scores.sum(-1, dtype=total.dtype)
    added = _added(k, v, decays, alike)
    if state is None and q.shape[2] == 1:
        return output, weight, DecayState(*(x[:, :, 0].to(total.dtype) for x in added))
    past, state = _states(added, decays.through, state)
    far, far_weight = _read(q, past, decays, alike)
    return output + far, weight + far_weight, state


def _scores(q: Tensor, k: Tensor, total: Tensor, heads: int) -> Tensor:
    """q_i · k_j, each channel times its e^{G_i - G_j}, for j ≤ i, and 0 for later j: (b, h, n, c, c)."""
    if total.shape[-1] == 1:
        return for_heads(q @ k.mT, heads, 1) * decay_mask(total).to(q.dtype)
    c = q.shape[-2]
    size = 1 << (c - 1).bit_length()  # a power of two, with tokens of no query and key and without decay at the end
    q, k = (F.pad(x, (0, 0, 0, size - c)) for x in (q, k))
    total = torch.cat([total, total[..., -1:, :].expand(*total.shape[:-2], size - c, -1)], -2)
    scores, width = (q * k).sum(-1)[..., None, None], 1  # of parts of this width, (..., size / width, width, width)
    while width < size:
        (_, rows), (columns, _), (first, second) = (x.unflatten(-2, (-1, 2, width)).unbind(-3) for x in (q, k, total))
        split = first[..., -1:, :]
        rows = rows * (second - split).exp().to(q.dtype)
        columns = columns * (split - first).exp().to(k.dtype)
        before, after = scores.unflatten(-3, (-1, 2)).unbind(-3)
        scores = torch.cat([F.pad(before, (0, width)), torch.cat([rows @ columns.mT, after], -1)], -2)
        width *= 2
    return scores.squeeze(-3)[..., :c, :c]


def _added(k: Tensor, v: Tensor, decays: Decays, alike: bool) -> DecayState:
    """What each chunk adds to the state, (b, h, n, k, v) and (b, h, n, k)."""
    precise = decays.until.dtype
    if not alike:
        k = k * decays.until.to(k.dtype)
        return DecayState(k.mT @ v, k.sum(-2, dtype=precise))
    h, g = v.shape[1], k.shape[1]
    until = decays.until.expand(*v.shape[:-1], 1)
    kv = _apart(k.mT @ _together(v * until.to(v.dtype), g), h)
    return DecayState(kv, _apart(k.to(precise).mT @ _together(until, g), h).squeeze(-1))


def _read(q: Tensor, past: DecayState, decays: Decays, alike: bool) -> tuple[Tensor, Tensor]:
    """What each token reads of the state before its chunk, (b, h, n, c, v), and the weight of it, (b, h, n, c)."""
    precise, (kv, z) = past.k.dtype, (past.kv.to(q.dtype), past.k[..., None])
    if not alike:
        q = q * decays.since.to(q.dtype)
        return q @ kv, (q.to(precise) @ z).squeeze(-1)
    h, g = kv.shape[1], q.shape[1]
    output = _apart(q @ _together(kv, g), h) * decays.since.to(q.dtype)
    return output, (_apart(q.to(precise) @ _together(z, g), h) * decays.since).squeeze(-1)


def _states(added: DecayState, through: Tensor, state: DecayState | None) -> tuple[DecayState, DecayState]:
    """The states before the chunks, stacked as what they add, and the one after the last."""
    if state is None:
        state = DecayState(*(torch.zeros_like(x[:, :, 0], dtype=through.dtype) for x in added))
    before, n = [], added.kv.shape[2]
    through = through.expand(*through.shape[:-3], n, -1, -1)
    for kv, z, kept in zip(added.kv.unbind(2), added.k.unbind(2), through.unbind(-3), strict=True):
        before.append(state)
        state = DecayState(torch.addcmul(kv, state.kv, kept), torch.addcmul(z, state.k, kept[..., 0]))
    return DecayState(*(torch.stack(parts, 2) for parts in zip(*before, strict=True))), state


def _together(x: Tensor, groups: int) -> Tensor:
    """The heads of each group side by side: (b, g s, n, c, v) as (b, g, n, c, s v)."""
    return x if x.shape[1] == groups else x.unflatten(1, (groups, -1)).permute(0, 1, 3, 4, 2, 5).flatten(4)


def _apart(x: Tensor, heads: int) -> Tensor:
    """`_together` undone: (b, g, n, c, s v) as (b, g s, n, c, v)."""
    g = x.shape[1]
    return x if g == heads else x.unflatten(-1, (heads // g, -1)).permute(0, 1, 4, 2, 3, 5).flatten(1, 2)
