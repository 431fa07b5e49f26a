"""Products of all vectors of a chunk with all earlier ones, each channel faded by the decays in between.

scores_ij = Σ_k x_ik y_jk e^{G_ik - G_jk} for j ≤ i and 0 for later j, where G is the cumulative log decay, so that no
exponent is positive. One decay for all channels is taken out of the sum, which is then a product of matrices. Where
each channel has its own, the chunk is halved again and again: between the rows of a second half and the columns of the
first, the decay is split at the first half's last token, G_i - G_n and G_n - G_j, which again leaves a product of
matrices, and all halves of a size are multiplied at once. A chunk of c tokens takes c log₂ c exponentials a
channel instead of c² (arXiv:2312.06635, section 4.3, has two levels of it).

Axes: c and s tokens of a chunk, m kinds of rows, k channels, n blocks, ... any others. x is (..., c, m, k), y is
(..., c, k), G is (..., c, k) or (..., c, 1), the scores are (..., c, m, c). With a decay of each channel c is a power
of two.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


def decayed_scores(x: Tensor, y: Tensor, total: Tensor) -> Tensor:
    """The scores of rows x and columns y, of which x has m kinds."""
    if total.shape[-1] == 1:
        return _products(x, y) * decay_mask(total)
    scores = x.new_zeros(*x.shape[:-1], x.shape[-3])
    scores.diagonal(0, -3, -1).copy_((x * y[..., None, :]).sum(-1).mT)
    for s, since, until in _halves(total):
        _quarters(scores, s).copy_(_products(_second(x, s, 3) * since[..., None, :], _first(y, s, 2) * until))
    return scores


def decayed_scores_backward(dscores: Tensor, x: Tensor, y: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and y; those of the scores of later columns have to be zero."""
    if total.shape[-1] == 1:
        dscores = (dscores * decay_mask(total)).flatten(-3, -2)
        return (dscores @ y).view_as(x), dscores.mT @ x.flatten(-3, -2)
    diagonal = dscores.diagonal(0, -3, -1).mT[..., None]
    dx, dy = diagonal * y[..., None, :], (diagonal * x).sum(-2)
    for s, since, until in _halves(total):
        quarter = _quarters(dscores, s).flatten(-3, -2)
        rows, columns = _second(x, s, 3) * since[..., None, :], _first(y, s, 2) * until
        _second(dx, s, 3).add_((quarter @ columns).view_as(rows).mul_(since[..., None, :]))
        _first(dy, s, 2).add_((quarter.mT @ rows.flatten(-3, -2)).mul_(until))
    return dx, dy


def decay_mask(total: Tensor) -> Tensor:
    """e^{G_i - G_j} for j ≤ i, and 0 for later j, of G (..., c, 1): (..., c, 1, c)."""
    later = torch.ones(total.shape[-2], total.shape[-2], device=total.device, dtype=torch.bool).triu(1)
    return (total - total.mT).masked_fill(later, -torch.inf).exp()[..., None, :]


def _products(x: Tensor, y: Tensor) -> Tensor:
    """x (..., c, m, k) times y (..., s, k): (..., c, m, s)."""
    return (x.flatten(-3, -2) @ y.mT).unflatten(-2, x.shape[-3:-1])


def _halves(total: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each size s of halves: the decays since a first half's end at the rows after it, and until it of its own."""
    s = total.shape[-2] // 2
    while s:
        first = _first(total, s, 2)
        end = first[..., -1:, :]
        yield s, (_second(total, s, 2) - end).exp(), (end - first).exp()
        s //= 2


def _first(x: Tensor, s: int, dims: int) -> Tensor:
    """The tokens of first halves of size s of x, whose c is the `dims`-th axis from the end: (..., n, s, ...)."""
    return _in_halves(x, s, dims).select(-dims - 1, 0)


def _second(x: Tensor, s: int, dims: int) -> Tensor:
    return _in_halves(x, s, dims).select(-dims - 1, 1)


def _in_halves(x: Tensor, s: int, dims: int) -> Tensor:
    return x.unflatten(-dims, (x.shape[-dims] // (2 * s), 2, s))


def _quarters(scores: Tensor, s: int) -> Tensor:
    """The scores of each second half's rows and the columns of the first half before it, (..., n, s, m, s)."""
    rows = _second(scores, s, 3)  # (..., n, s, m, c)
    return _first(rows, s, 1).diagonal(0, -5, -2).movedim(-1, -4)
