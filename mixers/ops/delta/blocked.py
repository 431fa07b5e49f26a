"""The delta rule with decay on a CPU: one chunk after the other, with a custom backward.

It computes what `chunkwise` does, in pieces that caches hold. For the gradients the state before each chunk and what
its tokens wrote are kept; what lies within a chunk is computed again.

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
from mixers.ops.delta.scores import Decays, decayed_scores, decayed_scores_backward
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
    rows: Tensor  # (g, c, 2, k): -b ∘ k and q
    decays: Decays
    scores: Tensor  # (g, c, 2, c)
    inverse: Tensor  # (g, c, c): of I + A, A being minus the first kind of scores

    @classmethod
    def of(cls, parts: list[Tensor], at: slice, heads: int) -> "_Chunk":
        """Of the op's tensors (b, t, ·, ·) at a slice of tokens, in the precision of the decay, its fourth."""
        pad, dtype = padding(at.stop - at.start, parts[3]), parts[3].dtype
        q, k, v, g, b, w = (_load(x[:, at], heads, pad, dtype) for x in parts)
        decays = Decays.of(g)
        rows = k.new_empty(*k.shape[:2], 2, k.shape[2])
        torch.mul(b, k, out=rows[:, :, 0]).neg_()
        rows[:, :, 1] = q
        scores = decayed_scores(rows, k, decays)
        identity = torch.eye(k.shape[1], dtype=dtype).expand(len(k), -1, -1)
        inverse = solve(scores[:, :, 0].neg(), identity)
        return cls(k, v, b, w, rows, decays, scores, inverse)

    @property
    def through(self) -> Tensor:
        """What is left of the state before the chunk, (g, 1 or k, 1)."""
        return self.decays.since[:, -1:].mT

    def far(self) -> Tensor:
        """The rows as the state before the chunk meets them, (g, 2 c, k)."""
        return (self.rows * self.decays.since[:, :, None]).flatten(1, 2)

    def near(self) -> Tensor:
        """The keys as the state after the chunk holds them, (g, c, k)."""
        return self.k * self.decays.until


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        *parts, past, size = args
        k, v, log_decay = parts[1:4]
        ctx.set_materialize_grads(False)
        ctx.size, ctx.begins = size, past is None
        past = _copy(past, zero_state(k, v, log_decay.dtype))
        output, state = torch.empty_like(v), past.flatten(0, 1)
        kept: list[Tensor] = []
        with full_precision(v.device):
            for at in slices(v.shape[1], size):
                chunk = _Chunk.of(parts, at, v.shape[2])
                read = torch.bmm(chunk.far(), state).view(*chunk.rows.shape[:3], v.shape[3])
                corrections = torch.bmm(chunk.inverse, read[:, :, 0].addcmul_(chunk.v, chunk.write))
                _store(read[:, :, 1].baddbmm_(chunk.scores[:, :, 1], corrections), output[:, at], v.shape[2])
                if any(ctx.needs_input_grad):
                    kept += state.clone(), corrections
                state.mul_(chunk.through).baddbmm_(chunk.near().mT, corrections)
        ctx.save_for_backward(*parts, *kept)
        return output, past

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor | None, dpast: Tensor | None) -> tuple[Tensor | None, ...]:
        kept = list(ctx.saved_tensors)
        parts, kept = kept[:6], kept[6:]
        k, v, log_decay = parts[1:4]
        do = torch.zeros_like(v) if do is None else do
        gradients = [torch.empty_like(x) for x in parts]
        dpast = _copy(dpast, zero_state(k, v, log_decay.dtype))
        dstate = dpast.flatten(0, 1)
        with full_precision(v.device):
            for at in reversed(slices(v.shape[1], ctx.size)):
                chunk = _Chunk.of(parts, at, v.shape[2])
                do_i = _load(do[:, at], v.shape[2], chunk.k.shape[1] - (at.stop - at.start), log_decay.dtype)
                corrections, state = kept.pop(), kept.pop()
                own = _backward_(chunk, state, corrections, do_i, dstate)
                for gradient, part in zip(gradients, own, strict=True):
                    _store(part, gradient[:, at], v.shape[2])
        return *gradients, None if ctx.begins else dpast, None


def _backward_(chunk: _Chunk, state: Tensor, corrections: Tensor, do: Tensor, dstate: Tensor) -> tuple[Tensor, ...]:
    """The gradients of the op's tensors; the state's, (g, k, v), becomes that of the state before the chunk."""
    far, near = chunk.far(), chunk.near()
    dcorrections = torch.bmm(near, dstate).baddbmm_(chunk.scores[:, :, 1].mT, do)
    dread = torch.empty(*do.shape[:2], 2, do.shape[2], dtype=do.dtype)  # of what both kinds of rows read
    dright = torch.bmm(chunk.inverse.mT, dcorrections, out=dread[:, :, 0])
    dread[:, :, 1] = do

    dread = dread.flatten(1, 2)
    dscores = torch.bmm(dread, corrections.mT).view_as(chunk.scores)
    dscores[:, :, 0].tril_(-1)
    dscores[:, :, 1].tril_()
    drows, dk, dwithin = decayed_scores_backward(dscores, chunk.scores, chunk.rows, chunk.k, chunk.decays)
    dfar, dnear = torch.bmm(dread, state.mT).view_as(drows), torch.bmm(corrections, dstate.mT)
    drows.addcmul_(dfar, chunk.decays.since[:, :, None])
    dk.addcmul_(dnear, chunk.decays.until)

    channels = chunk.decays.since.shape[2]  # their gradients are those of the logarithms
    dsince = _sum_to(channels, dfar.mul_(far.view_as(dfar)).sum(2))
    dsince[:, -1] += _sum_to(channels, (state * dstate).sum(2)) * chunk.decays.since[:, -1]
    dlog_decay = chunk.decays.backward(dsince, _sum_to(channels, dnear.mul_(near)), dwithin)

    dstate.mul_(chunk.through).baddbmm_(far.mT, dread)
    derased = drows[:, :, 0].neg_()
    derase, dwrite = _sum_to(chunk.erase.shape[2], derased * chunk.k), _sum_to(chunk.write.shape[2], dright * chunk.v)
    return drows[:, :, 1], dk.addcmul_(chunk.erase, derased), dright * chunk.write, dlog_decay, derase, dwrite


def _sum_to(channels: int, x: Tensor) -> Tensor:
    """x, or with one channel the sum over its last axis."""
    return x.sum(-1, keepdim=True) if channels == 1 else x


def _copy(state: Tensor | None, zero: Tensor) -> Tensor:
    """A state or its gradient to write to, contiguous, so that batch and heads are one axis without a copy."""
    return zero if state is None else zero.copy_(state)


def _load(x: Tensor, heads: int, pad: int, dtype: torch.dtype) -> Tensor:
    """(b, c, h, ·) as (g, c + pad, ·), with shared heads repeated."""
    x = x.transpose(1, 2)[:, :, None].expand(-1, -1, heads // x.shape[2], -1, -1).flatten(0, 2).to(dtype)
    return F.pad(x, (0, 0, 0, pad)) if pad else x


def _store(x: Tensor, into: Tensor, heads: int) -> None:
    """Writes (g, c + pad, ·) into (b, c, h, ·), summed over the heads that share one."""
    b, c, h, _ = into.shape
    repeats = heads // h
    parts = x[:, :c].unflatten(0, (b, h, repeats))
    into.transpose(1, 2).copy_(parts.squeeze(2) if repeats == 1 else parts.sum(2))
