"""Attention by a Taylor series of the exponential: `y, state = taylor_attention(q, k, v, state, chunk_size)`.

y_n = Σ_m p_nm v_m / Σ_m p_nm over m ≤ n, where p = 1 + s + s²/2 and s = q · k / √(key width) (arXiv:2402.18668). Since
p = φ(q) · φ(k) with the features φ(x) = (1, x', x'_i x'_j / √2) of x' = x / (key width)^¼, the past is a sum of outer
products, S = Σ φ(k_m) (v_m, 1)ᵀ, whose last column sums the features alone. x'_i x'_j and x'_j x'_i are one feature
here: 153 instead of 273 for keys of 16.

p is never below 1/2, and so is the divisor: other code adds 10^-12 or 10^-6 to it.

Axes: b batch, t time, h head, k key width, v value width, f = 1 + k + k (k + 1) / 2 features. q and k are (b, t, h, k),
v and y (b, t, h, v), the state S is (b, h, f, v + 1) in float32 or better, None before the first token. Everything is
computed in the state's precision.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.chunks import slices
from mixers.ops.decay import decayed_linear_attention
from mixers.ops.op import Draw, Implementation, Op, single_token, unless_sequence_on_cpu
from mixers.ops.precision import full_precision, state_dtype

Result = tuple[Tensor, Tensor]


def feature_count(width: int) -> int:
    """f for keys of that width."""
    return 1 + width + width * (width + 1) // 2


def features(x: Tensor) -> Tensor:
    """φ of x (..., k), in the precision of x: (..., f)."""
    width = x.shape[-1]
    x = x * width**-0.25
    i, j = torch.triu_indices(width, width, device=x.device)
    pairs = x[..., i] * x[..., j] * torch.where(i == j, 0.5, 1.0).to(x.dtype).sqrt()
    return torch.cat([torch.ones_like(x[..., :1]), x, pairs], -1)


def reference(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, chunk_size: int = 1) -> Result:
    """Token by token. `chunk_size` is for other implementations."""
    s, outputs = _zero(q, v) if state is None else state, []
    with full_precision(q.device):
        q, k, v_1 = _inputs(q, k, v)
        for q_n, k_n, v_n in zip(features(q).unbind(1), features(k).unbind(1), v_1.unbind(1), strict=True):
            s = s + k_n[..., :, None] * v_n[..., None, :]
            sums = (q_n[..., None, :] @ s).squeeze(-2)
            outputs.append(sums[..., :-1] / sums[..., -1:])
    return torch.stack(outputs, 1).to(v.dtype), s


def by_decay(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, chunk_size: int) -> Result:
    """As linear attention that forgets nothing."""
    with full_precision(q.device):
        q, k, v_1 = _inputs(q, k, v)
        none = q.new_zeros(q.shape[2])
        sums, state = decayed_linear_attention(features(q), features(k), v_1, none, state, chunk_size)
        return (sums[..., :-1] / sums[..., -1:]).to(v.dtype), state


def blocked(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, chunk_size: int) -> Result:
    """One chunk after the other with a custom backward, for a CPU: features are made of a chunk at a time, and again
    for the gradients; within a chunk s is a product of keys, and no features are needed."""
    y, state = _Blocked.apply(q, k, v, state, chunk_size)
    return y, state


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, size: int) -> Result:
        ctx.set_materialize_grads(False)
        ctx.size, ctx.begins = size, state is None
        s = (_zero(q, v) if state is None else state.clone()).flatten(0, 1)
        y, divisor, kept = torch.empty_like(v), s.new_empty(q.shape[:3]), []
        with full_precision(q.device):
            for at in slices(q.shape[1], size):
                q_i, k_i, v_i = _chunk(q, k, v, at)
                sums = torch.bmm(_weights(torch.bmm(q_i.mT, k_i)), v_i)
                if at.start > 0 or not ctx.begins:
                    kept.append(s.clone())
                    sums.baddbmm_(_rows(q_i).mT, s)
                _store(sums[..., :-1] / sums[..., -1:], y[:, at])
                _store(sums[..., -1], divisor[:, at])
                s.baddbmm_(_rows(k_i), v_i)
        ctx.save_for_backward(q, k, v, y, divisor, *kept)
        return y, s.view_as(_zero(q, v))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dstate: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, y, divisor, *kept = ctx.saved_tensors
        dy = torch.zeros_like(v) if dy is None else dy
        ds = (_zero(q, v) if dstate is None else dstate.clone()).flatten(0, 1)
        gradients = tuple(torch.empty_like(x) for x in (q, k, v))
        with full_precision(q.device):
            for at in reversed(slices(q.shape[1], ctx.size)):
                q_i, k_i, v_i = _chunk(q, k, v, at)
                dsums = _dsums(dy[:, at], y[:, at], divisor[:, at])
                scores = torch.bmm(q_i.mT, k_i)
                dscores = torch.bmm(dsums, v_i.mT).tril_().mul_(scores + 1)
                dq_i, dk_i = torch.bmm(k_i, dscores.mT), torch.bmm(q_i, dscores)
                dv_i = torch.bmm(_weights(scores).mT, dsums)
                dv_i.baddbmm_(_rows(k_i).mT, ds)
                _add_gradient_(dk_i, k_i, torch.bmm(ds, v_i.mT))
                if at.start > 0 or not ctx.begins:
                    _add_gradient_(dq_i, q_i, torch.bmm(kept.pop(), dsums.mT))
                    ds.baddbmm_(_rows(q_i), dsums)
                scale = q.shape[-1] ** -0.25
                for part, whole in zip((dq_i.mT * scale, dk_i.mT * scale, dv_i[..., :-1]), gradients, strict=True):
                    _store(part, whole[:, at])
        return *gradients, None if ctx.begins else ds.view_as(_zero(q, v)), None


# In what follows g = b h, and features and keys come before time, so that each is a row.


def _chunk(q: Tensor, k: Tensor, v: Tensor, at: slice) -> tuple[Tensor, Tensor, Tensor]:
    """q' and k' (g, k, c), and (v, 1), (g, c, v + 1)."""
    q, k, v_1 = _inputs(q[:, at], k[:, at], v[:, at])
    q, k = (x.permute(0, 2, 3, 1).flatten(0, 1) * x.shape[-1] ** -0.25 for x in (q, k))
    return q, k, v_1.transpose(1, 2).flatten(0, 1)


def _weights(scores: Tensor) -> Tensor:
    """1 + s + s²/2 = (1 + (1 + s)²) / 2 of earlier tokens, else 0."""
    return (scores + 1).square_().add_(1).mul_(0.5).tril_()


def _rows(x: Tensor) -> Tensor:
    """φ of x' (g, k, c): (g, f, c)."""
    width = x.shape[1]
    phi = x.new_empty(x.shape[0], feature_count(width), x.shape[2])
    phi[:, 0] = 1
    phi[:, 1 : width + 1] = x
    for i, at in _pairs(width):
        torch.mul(x[:, i : i + 1], x[:, i:], out=phi[:, at])
        phi[:, at.start] *= 0.5**0.5
    return phi


def _add_gradient_(dx: Tensor, x: Tensor, dphi: Tensor) -> None:
    """Adds to dx what it has from the gradient of `_rows(x)`, which is overwritten."""
    width = x.shape[1]
    dx += dphi[:, 1 : width + 1]
    for i, at in _pairs(width):
        dphi[:, at.start] *= 0.5**0.5
        dx[:, i:].addcmul_(dphi[:, at], x[:, i : i + 1])
        dx[:, i] += dphi[:, at].mul_(x[:, i:]).sum(1)


def _pairs(width: int) -> list[tuple[int, slice]]:
    """Each i with the rows of its features x'_i x'_j, j ≥ i."""
    starts = [1 + width + i * width - i * (i - 1) // 2 for i in range(width + 1)]
    return [(i, slice(starts[i], starts[i + 1])) for i in range(width)]


def _dsums(dy: Tensor, y: Tensor, divisor: Tensor) -> Tensor:
    """The gradient of Σ p (v, 1) from that of its quotient y, (g, c, v + 1)."""
    dy, y = dy.to(divisor.dtype), y.to(divisor.dtype)
    dsums = torch.cat([dy, -(dy * y).sum(-1, keepdim=True)], -1) / divisor[..., None]
    return dsums.transpose(1, 2).flatten(0, 1)


def _store(x: Tensor, into: Tensor) -> None:
    """Writes (g, c, ...) into (b, c, h, ...)."""
    into = into.transpose(1, 2)
    into.copy_(x.reshape(into.shape))


def _inputs(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and (v, 1) in the state's precision."""
    q, k, v = (x.to(state_dtype(x)) for x in (q, k, v))
    return q, k, torch.cat([v, torch.ones_like(v[..., :1])], -1)


def _zero(q: Tensor, v: Tensor) -> Tensor:
    b, _, h, width = q.shape
    return q.new_zeros(b, h, feature_count(width), v.shape[-1] + 1, dtype=state_dtype(q))


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Any, ...]:
    """With keys of 16 at a width of 1024, and a state with a sum of features that is not near zero."""
    h, k = (dim // 64, 16) if dim > 64 else (2, 3)
    q, key, value = draw(batch, length, h, k), draw(batch, length, h, k), draw(batch, length, h, dim // h)
    past = features(draw.precise(batch, h, 9, k).detach()).mT
    state = past @ torch.cat([draw.precise(batch, h, 9, dim // h).detach(), torch.ones_like(past[..., :1, :].mT)], -1)
    return q, key, value, state.requires_grad_(), 64 if dim > 64 else 16


taylor_attention: Op[Result] = Op(
    reference,
    [Implementation("blocked", blocked, unless_sequence_on_cpu), Implementation("by_decay", by_decay, single_token)],
    examples,
)
