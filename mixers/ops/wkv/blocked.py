"""RWKV's mean on a CPU: `chunked` in place, with a custom backward.

N and D are the two sums of reference.py at a token, scaled so that D is 1. Their gradients run back over the tokens:
dN ← s dN + p dy and dD ← s dD - p y dy, where s is the share of the past in what is remembered and p its share in y.
The scale has no gradient, since nothing depends on it.

Axes: as in reference.py; chunks of k and v are (b, n, t, d).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.chunks import in_chunks
from mixers.ops.wkv.chunked import chunk_size, states_between
from mixers.ops.wkv.reference import WKVState


def blocked(k: Tensor, v: Tensor, time_decay: Tensor, time_first: Tensor, state: WKVState) -> tuple[Tensor, WKVState]:
    """The position within the chunk is the loop, and all chunks at once are its body."""
    w, outputs = time_decay.exp(), []
    for k_i, v_i in in_chunks(chunk_size(k), k.to(w.dtype), v.to(w.dtype)):
        y, mean, log_weight = _Blocked.apply(k_i, v_i, w, time_first, *state)
        outputs.append(y.flatten(1, 2))
        state = WKVState(mean, log_weight)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), state


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, k: Tensor, v: Tensor, w: Tensor, u: Tensor, mean: Tensor, log_weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        (now, log_weight), end = states_between(k, v, w, WKVState(mean, log_weight))
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
