"""The diagonal-plus-rank-one rule by chunks: parallel within them, all of them at once, and recurrent between them.

What a token finds depends on what the tokens before it in its chunk wrote back, so that a chunk solves a triangular
system. With U the rows u_i = a_iᵀ S_{i-1}, and each pair of letters the scores of rows with earlier columns,

    U = ab U + ak V + (a decayed from the state before) S        that is  U = (I - ab)⁻¹ (...)
    O = qb U + qk V + (q decayed from the state before) S
    S ← Diag(decay of the chunk) S + bᵀ U + kᵀ V                 with b and k decayed to the chunk's end.

Each channel has its own decay at each token, so scores Σ_c x_ic y_jc e^{...} are products of matrices only where the
decay from column j to row i can be split at one token for all of them. It is split at the middle of a block, between
rows of its second half and columns of its first, into what is left of the column at the middle and of that at the row;
then the same for each half (secondary chunking as in arXiv:2312.06635, section 4.3, but all the way down). Blocks grow
from one token to the chunk, and the decays within a block are products of those within its halves: numbers up to one,
multiplied, so that nothing overflows however strong the decay, and no precision is lost in quotients or differences.

Rows are a and q of each token in turn, a of what is before the token and q of what is after it; columns are b and k.

Axes: as in reference.py; x, y and pairs of u and v are (n, c, 2, ·).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mixers.ops.chunks import by_chunks
from mixers.ops.dplr.reference import zero_state
from mixers.ops.precision import full_precision


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    state: Tensor | None,
    chunk_size: int,
    lower_bound: float = -torch.inf,
) -> tuple[Tensor, Tensor]:
    """The output and the state after it; chunks are a power of two long."""

    def run(state: Tensor, *chunks: Tensor) -> tuple[Tensor, Tensor]:
        batch, count, c, heads = chunks[0].shape[:4]
        missing = power_of_two(c) - c  # tokens that change nothing, after all others
        q, k, v, a, b, g = (F.pad(x, (0, 0, 0, 0, 0, missing)).transpose(2, 3).flatten(0, 2) for x in chunks)
        inputs = torch.stack([a, q], 2), torch.stack([b, k], 2), v, g.exp(), state, count
        output, state = _recomputed(_equal_chunks, *inputs)
        return output.unflatten(0, (batch, count, heads)).transpose(2, 3)[:, :, :c], state

    dtype = log_decay.dtype
    state = zero_state(k, v, log_decay) if state is None else state
    with full_precision(q.device):
        output, state = by_chunks(
            run, largest_power_of_two(chunk_size), [x.to(dtype) for x in (q, k, v, a, b, log_decay)], state
        )
    return output.to(v.dtype), state


def _recomputed(f: Callable[..., tuple[Tensor, Tensor]], *inputs: Any) -> tuple[Tensor, Tensor]:
    """`f(*inputs)`, computed again for the gradients, since it makes many times as many numbers as it is given."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return checkpoint(f, *inputs, use_reentrant=False, preserve_rng_state=False)
    return f(*inputs)


def power_of_two(length: int) -> int:
    """The smallest one that is not below it."""
    return 1 << (length - 1).bit_length()


def largest_power_of_two(length: int) -> int:
    """The largest one that is not above it."""
    return 1 << (length.bit_length() - 1)


def _equal_chunks(x: Tensor, y: Tensor, v: Tensor, decay: Tensor, state: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The outputs (n, c, v) and the state (b, h, k, v) after them; n is batch, `count` chunks and heads."""
    n, c = v.shape[:2]
    all_scores, since, until = scores(x, y, decay)
    a_rows, q_rows = all_scores.unflatten(1, (c, 2)).unbind(2)
    ab, ak = a_rows.unflatten(2, (c, 2)).unbind(3)
    eye = torch.eye(c, dtype=v.dtype, device=v.device)
    x, y = x * since, (y * until[:, :, None]).flatten(1, 2)
    # of u, what comes from the values, and the matrix that gives what comes from the state before
    solved = torch.linalg.solve_triangular(
        eye - ab, torch.cat([ak @ v, x[:, :, 0]], -1), upper=False, unitriangular=True
    )
    parts = (z.unflatten(0, (len(state), count, state.shape[1])).unbind(1) for z in (solved, y, v, since[:, -1, 1]))
    before, pairs = [], []
    for solved_i, y_i, v_i, through in zip(*parts, strict=True):
        before.append(state)
        near, far = solved_i.split([v.shape[-1], x.shape[-1]], -1)
        pairs.append(torch.stack([near + far @ state, v_i], -2).flatten(-3, -2))
        state = through[..., None] * state + y_i.mT @ pairs[-1]
    past, uv = (torch.stack(z, 1).view(n, *z[0].shape[2:]) for z in (before, pairs))
    return q_rows @ uv + x[:, :, 1] @ past, state


def scores(x: Tensor, y: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All scores (n, 2c, 2c), with zeros for later columns, and what is left over the chunk.

    That is, of what was there before it, before and after each token's own decay, (n, c, 2, k), and of what each token
    adds, at its end, (n, c, k).
    """
    n, c, _, width = x.shape
    found = F.pad((x[:, :, 1:] * y).sum(-1)[:, :, None], (0, 0, 1, 0))  # a reads nothing of its own token
    since, until = torch.stack([torch.ones_like(decay), decay], 2), torch.ones_like(decay)
    size = 1
    while size < c:
        halves = n, c // (2 * size), 2, size
        (_, rows), (columns, _) = (z.view(*halves, 2, width).unbind(2) for z in (x, y))
        first, second = since.view(*halves, 2, width).unbind(2)
        left, right = until.view(*halves, width).unbind(2)
        rows, columns = (rows * second).flatten(2, 3), (columns * left[..., None, :]).flatten(2, 3)
        upper, lower = found.view(*halves[:3], 2 * size, 2 * size).unbind(2)
        found = torch.cat([F.pad(upper, (0, 2 * size)), torch.cat([rows @ columns.mT, lower], -1)], -2)
        since = torch.stack([first, second * first[..., -1:, 1:, :]], 2).view(n, c, 2, width)
        until = torch.stack([left * second[..., -1:, 1, :], right], 2).view(n, c, width)
        size *= 2
    return found.view(n, 2 * c, 2 * c), since, until
