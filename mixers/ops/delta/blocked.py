"""The delta rule with decay on a CPU: one chunk after the other, with a custom backward.

It computes what `chunkwise` does, in pieces that caches hold. For the gradients only the state before each chunk is
kept; what lies within a chunk is computed again. The decay's gradient needs no products of its own: rows are only used
times e^{G_i} and columns times e^{-G_j}, so that dG_i = x_i ∘ dx_i - k_i ∘ dk_i.

Axes: as in reference.py and scores.py, and g = b h, which batched products want.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mixers.ops.chunks import slices
from mixers.ops.delta.chunkwise import padding, solve
from mixers.ops.delta.reference import for_channels, zero_state
from mixers.ops.delta.scores import decayed_scores, decayed_scores_backward
from mixers.ops.precision import full_precision


def blocked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """The output and the state after it; the last chunk may be shorter."""
    gates = (for_channels(x) for x in (log_decay, erase, write))
    output, state = _Blocked.apply(q, k, v, *gates, state, chunk_size)
    return output, state


class _Chunk(NamedTuple):
    """What the tokens of a chunk need of each other, without its past."""

    k: Tensor  # (g, c, k)
    v: Tensor  # (g, c, v)
    erase: Tensor  # (g, c, 1 or k)
    write: Tensor  # (g, c, 1 or v)
    rows: Tensor  # (g, c, 2, k): b ∘ k and q
    total: Tensor  # (g, c, 1 or k): G
    far: Tensor  # (g, c, 1, 1 or k): e^{G_i}
    until: Tensor  # (g, c, 1 or k): e^{G_c - G_j}
    scores: Tensor  # (g, c, 2, c)

    @classmethod
    def of(cls, parts: list[Tensor], at: slice, heads: int) -> "_Chunk":
        """Of the op's tensors (b, t, ·, ·) at a slice of tokens, in the precision of the decay, its fourth."""
        q, k, v, g, b, w = parts
        pad, dtype = padding(at.stop - at.start, g), g.dtype
        q, k, v, g, b, w = (_load(x[:, at], heads, pad, dtype) for x in (q, k, v, g, b, w))
        total = g.cumsum(1)
        rows = k.new_empty(*k.shape[:2], 2, k.shape[2])
        torch.mul(b, k, out=rows[:, :, 0])
        rows[:, :, 1] = q
        until = (total[:, -1:] - total).exp()
        return cls(k, v, b, w, rows, total, total.exp()[:, :, None], until, decayed_scores(rows, k, total))

    @property
    def through(self) -> Tensor:
        """What is left of the state before the chunk, (g, 1 or k, 1)."""
        return self.far[:, -1].mT


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        *parts, past, size = args
        k, v, log_decay = parts[1:4]
        ctx.set_materialize_grads(False)
        ctx.size, ctx.begins = size, past is None
        past = zero_state(k, v, log_decay.dtype) if past is None else past.clone()
        output, state, kept = torch.empty_like(v), past.flatten(0, 1), []
        with full_precision(v.device):
            for at in slices(v.shape[1], size):
                if any(ctx.needs_input_grad):
                    kept.append(state.clone())
                chunk = _Chunk.of(parts, at, v.shape[2])
                corrections, from_past = _corrections(chunk, state)
                _store(from_past[:, :, 1].baddbmm(chunk.scores[:, :, 1], corrections), output[:, at], v.shape[2])
                state.mul_(chunk.through).baddbmm_((chunk.k * chunk.until).mT, corrections)
        ctx.save_for_backward(*parts, *kept)
        return output, past

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor | None, dpast: Tensor | None) -> tuple[Tensor | None, ...]:
        parts, kept = list(ctx.saved_tensors[:6]), list(ctx.saved_tensors[6:])
        k, v, log_decay = parts[1:4]
        do = torch.zeros_like(v) if do is None else do
        gradients = [torch.empty_like(x) for x in parts]
        dpast = zero_state(k, v, log_decay.dtype) if dpast is None else dpast.clone()
        dstate = dpast.flatten(0, 1)
        with full_precision(v.device):
            for at in reversed(slices(v.shape[1], ctx.size)):
                chunk = _Chunk.of(parts, at, v.shape[2])
                pad = chunk.k.shape[1] - (at.stop - at.start)
                do_i = _load(do[:, at], v.shape[2], pad, log_decay.dtype)
                for gradient, part in zip(gradients, _backward_(chunk, kept.pop(), do_i, dstate), strict=True):
                    _store(part, gradient[:, at], v.shape[2])
        return *gradients, None if ctx.begins else dpast, None


def _corrections(chunk: _Chunk, state: Tensor) -> tuple[Tensor, Tensor]:
    """What the tokens write, (g, c, v), and what both kinds of rows read of the state before them, (g, c, 2, v)."""
    from_past = torch.bmm((chunk.rows * chunk.far).flatten(1, 2), state).unflatten(1, chunk.rows.shape[1:3])
    right = torch.addcmul(from_past[:, :, 0].neg(), chunk.v, chunk.write)
    return solve(chunk.scores[:, :, 0], right), from_past


def _backward_(chunk: _Chunk, state: Tensor, do: Tensor, dstate: Tensor) -> tuple[Tensor, ...]:
    """The gradients of the op's tensors; the state's, (g, k, v), becomes that of the state before the chunk."""
    corrections, _ = _corrections(chunk, state)
    near = chunk.k * chunk.until
    dcorrections = torch.bmm(near, dstate).baddbmm_(chunk.scores[:, :, 1].mT, do)
    dright = torch.linalg.solve_triangular(chunk.scores[:, :, 0].mT, dcorrections, upper=True, unitriangular=True)
    d_read = torch.stack([-dright, do], 2)  # of what both kinds of rows read

    dscores = torch.bmm(d_read.flatten(1, 2), corrections.mT).view_as(chunk.scores)
    dscores[:, :, 0].tril_(-1)
    dscores[:, :, 1].tril_()
    drows, dk = decayed_scores_backward(dscores, chunk.rows, chunk.k, chunk.total)
    drows += torch.bmm(d_read.flatten(1, 2), state.mT).view_as(drows).mul_(chunk.far)
    dk_near = torch.bmm(corrections, dstate.mT).mul_(chunk.until)
    dk += dk_near

    dtotal = (chunk.rows * drows).sum(2).addcmul_(chunk.k, dk, value=-1)
    dlast = (chunk.k * dk_near).sum(1) + (state * dstate).mul_(chunk.through).sum(-1)
    dtotal[:, -1] += dlast
    if chunk.total.shape[2] == 1:
        dtotal = dtotal.sum(2, keepdim=True)
    dlog_decay = dtotal.flip(1).cumsum(1).flip(1)

    dstate.mul_(chunk.through).baddbmm_((chunk.rows * chunk.far).flatten(1, 2).mT, d_read.flatten(1, 2))
    derased = drows[:, :, 0]
    dk.addcmul_(chunk.erase, derased)
    derase, dwrite = (
        (derased * chunk.k).sum_to_size(chunk.erase.shape),
        (dright * chunk.v).sum_to_size(chunk.write.shape),
    )
    return drows[:, :, 1], dk, dright * chunk.write, dlog_decay, derase, dwrite


def _load(x: Tensor, heads: int, pad: int, dtype: torch.dtype) -> Tensor:
    """(b, c, h, ·) as (g, c + pad, ·), contiguous, with shared heads repeated."""
    x = x.transpose(1, 2)[:, :, None].expand(-1, -1, heads // x.shape[2], -1, -1)
    return F.pad(x.to(dtype).flatten(0, 2), (0, 0, 0, pad))


def _store(x: Tensor, into: Tensor, heads: int) -> None:
    """Writes (g, c + pad, ·) into (b, c, h, ·), summed over the heads that share one."""
    b, c, h, _ = into.shape
    repeats = heads // h
    parts = x[:, :c].unflatten(0, (b, h, repeats))
    into.transpose(1, 2).copy_(parts.squeeze(2) if repeats == 1 else parts.sum(2))
