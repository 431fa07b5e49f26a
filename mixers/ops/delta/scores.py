"""Products of all vectors of a chunk with all earlier ones, each channel faded by the decays in between.

scores_ij = Σ_k x_ik y_jk exp(Σ_{j<s≤i} g_sk) for j ≤ i, and 0 for later j. One decay for all channels is taken out of
the sum over k, which is then a product of matrices. Where each channel has its own, the chunk is halved again and
again: between the rows of a second half and the columns of the first, the decay is split at the first half's end, which
leaves a product of matrices, too, and all halves of a size are multiplied at once. A chunk of c tokens takes c log₂ c
exponentials a channel instead of c² (arXiv:2312.06635, section 4.3, has two levels of it).

All exponents are sums of the log decays between two tokens, never differences of sums from the chunk's start, in which
weak decays would be lost beside strong ones; so none is positive.

Axes: c and s tokens of a chunk, m kinds of rows, k channels, n blocks, ... any others. x is (..., c, m, k), y is
(..., c, k), the log decays g are (..., c, k) or (..., c, 1), the scores are (..., c, m, c). With a decay of each
channel c is a power of two.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Decays(NamedTuple):
    """What is left of things over the tokens of a chunk."""

    since: Tensor  # (..., c, 1 or k): of those before the chunk, at each token
    until: Tensor  # (..., c, 1 or k): of each token's, at the end of the chunk
    between: Tensor | None  # (..., c, 1, c): of token j's at token i, 0 for later j, if all channels decay alike
    halves: tuple[tuple[Tensor, Tensor], ...]  # else `since` of second and `until` of first halves, (..., n, s, k) each

    @classmethod
    def of(cls, log_decay: Tensor) -> "Decays":
        """Of g."""
        if log_decay.shape[-1] == 1:
            c = log_decay.shape[-2]
            later = torch.ones(c, c, device=log_decay.device, dtype=torch.bool).triu()
            steps = log_decay.expand(*log_decay.shape[:-1], c).masked_fill(later, 0)
            between = steps.cumsum(-2).masked_fill(later.triu(1), -torch.inf).exp()
            return cls(log_decay.cumsum(-2).exp(), between[..., -1, :, None], between[..., None, :], ())
        since, until, halves, s = log_decay.clone(), torch.zeros_like(log_decay), [], 1
        while s < log_decay.shape[-2]:
            first_since, second_since, first_until = _first(since, s, 2), _second(since, s, 2), _first(until, s, 2)
            halves.append((second_since.exp(), first_until.exp()))
            first_until += second_since[..., -1:, :]
            second_since += first_since[..., -1:, :]
            s *= 2
        return cls(since.exp(), until.exp(), None, tuple(halves))


def decayed_scores(x: Tensor, y: Tensor, decays: Decays) -> Tensor:
    """The scores of rows x and columns y, of which x has m kinds."""
    if decays.between is not None:
        return _products(x, y) * decays.between
    scores = x.new_zeros(*x.shape[:-1], x.shape[-3])
    scores.diagonal(0, -3, -1).copy_((x * y[..., None, :]).sum(-1).mT)
    for since, until in decays.halves:
        s = since.shape[-2]
        _quarters(scores, s).copy_(_products(_second(x, s, 3) * since[..., None, :], _first(y, s, 2) * until))
    return scores


def decayed_scores_backward(dscores: Tensor, x: Tensor, y: Tensor, decays: Decays) -> tuple[Tensor, Tensor]:
    """The gradients of x and y; those of the scores of later columns have to be zero."""
    if decays.between is not None:
        dscores = (dscores * decays.between).flatten(-3, -2)
        return (dscores @ y).view_as(x), dscores.mT @ x.flatten(-3, -2)
    diagonal = dscores.diagonal(0, -3, -1).mT[..., None]
    dx, dy = diagonal * y[..., None, :], (diagonal * x).sum(-2)
    for since, until in decays.halves:
        s = since.shape[-2]
        quarter = _quarters(dscores, s).flatten(-3, -2)
        rows, columns = _second(x, s, 3) * since[..., None, :], _first(y, s, 2) * until
        _second(dx, s, 3).add_((quarter @ columns).view_as(rows).mul_(since[..., None, :]))
        _first(dy, s, 2).add_((quarter.mT @ rows.flatten(-3, -2)).mul_(until))
    return dx, dy


def _products(x: Tensor, y: Tensor) -> Tensor:
    """x (..., c, m, k) times y (..., s, k): (..., c, m, s)."""
    return (x.flatten(-3, -2) @ y.mT).unflatten(-2, x.shape[-3:-1])


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
