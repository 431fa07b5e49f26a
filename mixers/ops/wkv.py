"""RWKV's weighted mean of values, each channel for itself: `y, state = wkv(k, v, time_decay, time_first, state)`.

y_n = (Σ_{m<n} e^{k_m - (n-1-m) w} v_m + e^{u + k_n} v_n) / (the same sums without v), arXiv:2305.13048, Eq. 16: a value
weighs e^k when it comes and fades by e^{-w} a step from the next token on; the newest has a bonus u instead.

The state is a mean and the logarithm of its weight, which is all that y depends on. Two of them are merged by sigmoids
of differences, so that nothing overflows whatever k and w.

Axes: b batch, n chunk, t time, d channel.
k and v are (b, t, d), time_decay = ln w and time_first = u are (d,), in float32 or better, which is what everything
here is computed in. The output is (b, t, d) in their dtype. Chunks of k and v are (b, n, t, d).
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.chunks import by_chunks
from mixers.ops.op import Draw, Implementation, Op, single_token, unless_sequence_on_cpu

LOG_ZERO = -1e38  # the logarithm of no weight: finite, since infinities have no differences


class WKVState(NamedTuple):
    """The values of some tokens, in float32 or better."""

    mean: Tensor  # (b, d): Σ e^{…} v / Σ e^{…}
    log_weight: Tensor  # (b, d): ln Σ e^{…}

    def faded(self, by: Tensor) -> "WKVState":
        """With weights that are smaller by e^-by."""
        return WKVState(self.mean, self.log_weight - by)


def reference(k: Tensor, v: Tensor, time_decay: Tensor, time_first: Tensor, state: WKVState) -> tuple[Tensor, WKVState]:
    """The output, and the state after it."""
    w, outputs = time_decay.exp(), []
    for k_n, v_n in zip(*(x.to(w.dtype).unbind(1) for x in (k, v)), strict=True):
        outputs.append(merge(state, WKVState(v_n, time_first + k_n)).mean)
        state = merge(state.faded(w), WKVState(v_n, k_n))
    return torch.stack(outputs, 1), state


def merge(one: WKVState, other: WKVState) -> WKVState:
    """The mean of both, and their weight."""
    share = torch.sigmoid(one.log_weight - other.log_weight)
    return WKVState(torch.lerp(other.mean, one.mean, share), torch.logaddexp(one.log_weight, other.log_weight))


def chunked(k: Tensor, v: Tensor, time_decay: Tensor, time_first: Tensor, state: WKVState) -> tuple[Tensor, WKVState]:
    """Recurrent within chunks, all of them at once: about 2√t steps, not t."""

    def run(state: WKVState, k: Tensor, v: Tensor) -> tuple[Tensor, WKVState]:
        starts, state = _states_between(k, v, time_decay.exp(), state)
        rows = WKVState(*(part.flatten(0, 1) for part in starts))
        y, _ = reference(k.flatten(0, 1), v.flatten(0, 1), time_decay, time_first, rows)
        return y.view_as(v), state

    return by_chunks(run, _chunk_size(k), [x.to(time_decay.dtype) for x in (k, v)], state)


def blocked(k: Tensor, v: Tensor, time_decay: Tensor, time_first: Tensor, state: WKVState) -> tuple[Tensor, WKVState]:
    """`chunked` on a CPU: in place, with a custom backward."""
    w = time_decay.exp()

    def run(state: WKVState, k: Tensor, v: Tensor) -> tuple[Tensor, WKVState]:
        y, *after = _Blocked.apply(k, v, w, time_first, *state)
        return y, WKVState(*after)

    return by_chunks(run, _chunk_size(k), [x.to(w.dtype) for x in (k, v)], state)


class _Blocked(torch.autograd.Function):
    """The position within the chunk is the loop, and all chunks at once are its body.

    N and D are the two sums of y at a token, scaled so that D is 1. Their gradients run back over the tokens:
    dN ← s dN + p dy and dD ← s dD - p y dy, where s is the share of the past in what is remembered and p its share in
    y. The scale has no gradient, since nothing depends on it.
    """

    @staticmethod
    def forward(
        ctx: Any, k: Tensor, v: Tensor, w: Tensor, u: Tensor, mean: Tensor, log_weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        (now, log_weight), end = _states_between(k, v, w, WKVState(mean, log_weight))
        y, means, read, kept = (torch.empty_like(v) for _ in range(4))
        for k_j, v_j, y_j, mean_j, p, s in zip(*(x.unbind(2) for x in (k, v, y, means, read, kept)), strict=True):
            mean_j.copy_(now)
            torch.sub(log_weight, k_j, out=s)
            torch.sub(s, u, out=p).sigmoid_()
            s.sub_(w).sigmoid_()
            torch.lerp(v_j, mean_j, p, out=y_j)
            torch.lerp(v_j, mean_j, s, out=now)
            torch.logaddexp(log_weight.sub_(w), k_j, out=log_weight)
        ctx.save_for_backward(v, y, means, read, kept, end.mean)
        return y, *end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dmean: Tensor | None, dlog_weight: Tensor | None) -> tuple[Tensor, ...]:
        v, y, means, read, kept, last = ctx.saved_tensors
        dy = torch.zeros_like(v) if dy is None else dy
        dn = torch.zeros_like(last) if dmean is None else dmean
        dd = (torch.zeros_like(last) if dlog_weight is None else dlog_weight) - last * dn
        past = read * dy
        dn, dd, dn_0, dd_0 = _carried(past, y, kept, dn, dd)
        dk, dv = torch.empty_like(v), torch.empty_like(v)
        dw, du = torch.zeros_like(dn), torch.zeros_like(dn)
        dn_s, dd_s, new, bonus = (torch.empty_like(dn) for _ in range(4))
        tensors = (v, y, means, kept, dy, past, dk, dv)
        for v_j, y_j, mean, s, dy_j, past_j, dk_j, dv_j in zip(*(x.unbind(2)[::-1] for x in tensors), strict=True):
            torch.mul(dn, s, out=dn_s)
            torch.mul(dd, s, out=dd_s)
            dw.addcmul_(mean, dn_s).add_(dd_s)
            torch.sub(dn, dn_s, out=dv_j)
            torch.addcmul(dd, v_j, dv_j, out=dk_j).sub_(dd_s)
            torch.sub(dy_j, past_j, out=new)
            dv_j.add_(new)
            torch.sub(v_j, y_j, out=bonus).mul_(new)
            dk_j.add_(bonus)
            du.add_(bonus)
            torch.add(dn_s, past_j, out=dn)
            torch.addcmul(dd_s, past_j, y_j, value=-1, out=dd)
        return dk, dv, -dw.sum((0, 1)), du.sum((0, 1)), dn_0, means[:, 0, 0] * dn_0 + dd_0


def _carried(past: Tensor, y: Tensor, kept: Tensor, dn: Tensor, dd: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of N and D at the end of each chunk, (b, n, d), and before the first, (b, d)."""
    through, own_dn = torch.ones_like(past[:, :, 0]), torch.zeros_like(past[:, :, 0])
    own_dd = own_dn.clone()
    for past_j, y_j, s in zip(*(x.unbind(2)[::-1] for x in (past, y, kept)), strict=True):
        own_dn.mul_(s).add_(past_j)
        own_dd.mul_(s).addcmul_(past_j, y_j, value=-1)
        through.mul_(s)
    ends_dn, ends_dd = torch.empty_like(own_dn), torch.empty_like(own_dd)
    for i in reversed(range(through.shape[1])):
        ends_dn[:, i], ends_dd[:, i] = dn, dd
        dn = torch.addcmul(own_dn[:, i], through[:, i], dn)
        dd = torch.addcmul(own_dd[:, i], through[:, i], dd)
    return ends_dn, ends_dd, dn, dd


def _chunk_size(k: Tensor) -> int:
    """About √t tokens of k (b, t, d), a power of two."""
    return 2 ** round(math.log2(k.shape[1]) / 2)


def _states_between(k: Tensor, v: Tensor, w: Tensor, state: WKVState) -> tuple[WKVState, WKVState]:
    """The states at the start of each chunk of k and v, two of (b, n, d); and the one after the last of them."""
    steps = torch.arange(k.shape[2] - 1, -1, -1, dtype=w.dtype, device=w.device)
    faded = k - steps[:, None] * w
    chunks = WKVState((faded.softmax(2) * v).sum(2), faded.logsumexp(2))
    starts = []
    for chunk in zip(*(part.unbind(1) for part in chunks), strict=True):
        starts.append(state)
        state = merge(state.faded(k.shape[2] * w), WKVState(*chunk))
    return WKVState(*(torch.stack(parts, 1) for parts in zip(*starts, strict=True))), state


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Any, ...]:
    """RWKV's arguments, with decays as they are initialised."""
    k, v, precise = draw(batch, length, dim), draw(batch, length, dim), draw.precise
    time_first, *state = precise(dim), precise(batch, dim), precise(batch, dim)
    time_decay = torch.linspace(-5, 3, dim, dtype=precise.dtype, device=draw.device).requires_grad_()
    return k, v, time_decay, time_first, WKVState(*state)


wkv: Op[tuple[Tensor, WKVState]] = Op(
    reference,
    [Implementation("blocked", blocked, unless_sequence_on_cpu), Implementation("chunked", chunked, single_token)],
    examples,
)
