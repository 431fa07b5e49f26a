"""A chunk of the diagonal-plus-rank-one rule on a CPU, forwards and backwards: as in chunkwise.py, but in place.

The gradients of the decays come from those of what they multiply: what is x e^{g_1 + g_2} in a product has the gradient
dx from it, and each g in the exponent x ∘ dx. So only terms with a decay in them are summed, for each half by itself,
and a gradient that is small because a decay is strong is not the difference of large ones.

Axes: as in chunkwise.py; a pair of halves is (n, m, 2, size, ·), with m such pairs in a chunk.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mixers.ops.dplr.chunkwise import power_of_two


class Chunk(NamedTuple):
    """What is computed of a chunk without the state before it."""

    x: Tensor  # (n, c, 2, k): a and q
    y: Tensor  # (n, c, 2, k): b and k
    v: Tensor  # (n, c, v)
    decay: Tensor  # (n, c, k)
    scores: Tensor  # (n, 2c, 2c)
    since: Tensor  # (n, c, 2, k)
    until: Tensor  # (n, c, 1, k)
    far: Tensor  # (n, 2c, k): rows, decayed from the state before the chunk
    near: Tensor  # (n, 2c, k): columns, decayed to the state after it

    @classmethod
    def of(cls, inputs: Sequence[Tensor], at: slice) -> "Chunk":
        c = power_of_two(at.stop - at.start)
        q, k, v, a, b, log_decay = (x[:, at] for x in inputs)
        x, y, decay = load(a, c, q), load(b, c, k), load(log_decay, c).exp_()
        n = len(x)
        scores = x.new_zeros(n, 2 * c, 2 * c)
        _own(scores).copy_((x[:, :, 1:] * y).sum(-1))
        since, until = _ones(decay)
        for size, rows, columns, _, _ in _halves(x, y, since, until):
            blocks = _blocks(scores, size)
            blocks.copy_(torch.bmm(rows, columns.mT).view(blocks.shape))
        far, near = (x * since).flatten(1, 2), (y * until).flatten(1, 2)
        return cls(x, y, load(v, c), decay, scores, since, until, far, near)

    @property
    def through(self) -> Tensor:
        """The decay of the whole chunk, (n, k, 1)."""
        return self.since[:, -1, 1, :, None]

    @property
    def ak(self) -> Tensor:
        return self.scores[:, ::2, 1::2]

    @property
    def system(self) -> Tensor:
        """I - ab, (n, c, c)."""
        system = self.scores[:, ::2, ::2].neg()
        system.diagonal(0, 1, 2).fill_(1)
        return system

    def pairs(self, before: Tensor) -> Tensor:
        """u and v of each token, (n, 2c, v)."""
        found = torch.bmm(self.ak, self.v).baddbmm_(self.far[:, ::2], before)
        u = torch.linalg.solve_triangular(self.system, found, upper=False, unitriangular=True)
        return torch.stack([u, self.v], 2).flatten(1, 2)

    def gradients(self, do: Tensor, before: Tensor, dafter: Tensor) -> tuple[Tensor, ...]:
        """Of q, k, v, a, b, log_decay and the state before, given those of the output and of the state after."""
        x, y, uv = self.x, self.y, self.pairs(before)
        n, c, _, width = x.shape
        duv = torch.bmm(self.scores[:, 1::2].mT, do).baddbmm_(self.near, dafter)
        du, dv = duv.unflatten(1, (c, 2)).unbind(2)
        dfound = torch.linalg.solve_triangular(self.system.mT, du, upper=True, unitriangular=True)
        dv = torch.baddbmm(dv, self.ak.mT, dfound)
        dread = torch.stack([dfound, do], 2).flatten(1, 2)  # of what each row reads
        dbefore = torch.baddbmm(self.through * dafter, self.far.mT, dread)
        dx = torch.bmm(dread, before.mT).view(x.shape).mul_(self.since)
        dy = torch.bmm(uv, dafter.mT).view(y.shape).mul_(self.until)
        exponents = [_of_rows(x * dx), (y * dy).sum(2)]
        dscores = torch.bmm(dread, uv.mT)
        own = _own(dscores)[..., None]
        dx[:, :, 1] += (own * y).sum(2)
        dy.addcmul_(own, x[:, :, 1:])
        since, until = _ones(self.decay)
        for size, rows, columns, second, left in _halves(x, y, since, until):
            block = _blocks(dscores, size).flatten(0, 1)
            halves = n, c // (2 * size), 2, size
            drows = torch.bmm(block, columns).view(second.shape).mul_(second)
            dcolumns = torch.bmm(block.mT, rows).view(drows.shape).mul_(left)
            x_half, y_half = x.view(*halves, 2, width)[:, :, 1], y.view(*halves, 2, width)[:, :, 0]
            dx.view(*halves, 2, width)[:, :, 1] += drows
            dy.view(*halves, 2, width)[:, :, 0] += dcolumns
            of_halves = torch.stack([dcolumns.mul_(y_half).sum(-2), _of_rows(drows.mul_(x_half))], 2)
            exponents.append(of_halves.view(n, c, width))
        dlog_decay = torch.bmm(_sums(c, x).expand(n, -1, -1), torch.cat(exponents, 1))
        dlog_decay += (self.through * before * dafter).sum(-1)[:, None]
        (da, dq), (db, dk) = dx.unbind(2), dy.unbind(2)
        return dq, dk, dv, da, db, dlog_decay, dbefore


def _of_rows(xdx: Tensor) -> Tensor:
    """Of rows (..., c, 2, k), what goes to the decays up to each token: a's ends one token before q's, (..., c, k)."""
    of_a, of_q = xdx.unbind(-2)
    of_q[..., :-1, :] += of_a[..., 1:, :]
    return of_q


def _sums(c: int, like: Tensor) -> Tensor:
    """Which of the exponents each g is in, (c, ·): those of the whole chunk's rows and columns, then of all halves."""
    g, token = torch.arange(c, device=like.device)[:, None], torch.arange(c, device=like.device)
    sums, size = [token >= g, token < g], 1
    while size < c:
        second, same = g // size % 2 == 1, g // size == token // size
        sums.append(same & torch.where(second, token >= g, token < g))
        size *= 2
    return torch.cat(sums, 1).to(like.dtype)


def _ones(decay: Tensor) -> tuple[Tensor, Tensor]:
    """What is left within blocks of one token: before and after its decay, and of what it adds."""
    ones = torch.ones_like(decay)
    return torch.stack([ones, decay], 2), ones[:, :, None]


def _halves(x: Tensor, y: Tensor, since: Tensor, until: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
    """For halves of each size their rows and columns, decayed from and to the middle (n m, 2 size, k), and by what.

    From one half size to the next, `since` and `until` are made those of blocks twice as large.
    """
    n, c, _, width = x.shape
    size = 1
    while size < c:
        halves = n, c // (2 * size), 2, size, 2, width
        left, _ = until.view(*halves[:4], 1, width).unbind(2)
        first, second = since.view(halves).unbind(2)
        rows, columns = x.view(halves)[:, :, 1] * second, y.view(halves)[:, :, 0] * left
        yield size, rows.view(-1, 2 * size, width), columns.view(-1, 2 * size, width), second, left
        left *= second[:, :, -1:, 1:]
        second *= first[:, :, -1:, 1:]
        size *= 2


def _own(scores: Tensor) -> Tensor:
    """Those of q with b and k of its own token, (n, c, 2)."""
    n, c = len(scores), scores.shape[1] // 2
    return scores.view(n, c, 2, c, 2)[:, :, 1].diagonal(0, 1, 2).mT


def _blocks(scores: Tensor, size: int) -> Tensor:
    """Those of the second half of each block of 2 size tokens with the first, (n, m, 2 size, 2 size)."""
    n, m = len(scores), scores.shape[1] // (4 * size)
    return scores.view(n, m, 2, 2 * size, m, 2, 2 * size)[:, :, 1, :, :, 0].diagonal(0, 1, 3).movedim(-1, 1)


def load(x: Tensor, c: int, *others: Tensor) -> Tensor:
    """(b, t, h, ·) as (n, c, ·), with zeros at the end; of several such tensors as (n, c, 2, ·)."""
    b, t, h, width = x.shape
    shape = (b, h, c, 1 + len(others), width)
    loaded = x.new_empty(shape) if t == c else x.new_zeros(shape)
    for i, part in enumerate((x, *others)):
        loaded[:, :, :t, i] = part.transpose(1, 2)
    return loaded.flatten(0, 1) if others else loaded.view(b * h, c, width)


def store(x: Tensor, into: Tensor) -> None:
    """Writes (n, c, ·) into (b, t, h, ·)."""
    b, t, h, _ = into.shape
    into.copy_(x.unflatten(0, (b, h))[:, :, :t].transpose(1, 2))
