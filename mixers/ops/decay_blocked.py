"""Decayed attention on a CPU: one chunk after the other, with gradients by hand.

It computes what `chunkwise` does, in pieces that caches hold: a new tensor of megabytes costs a CPU more, in pages that
the system must fill with zeros, than the arithmetic on it. For the gradients only the memory before each chunk is kept;
what lies within a chunk is computed again.

Axes: as in decay.py, and g = b h, batch and heads as one, which batched products want.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.autocast import full_precision, product_dtype
from mixers.ops.decay import Memory, Powers, decayed_attention, nothing
from mixers.ops.op import eager_on_cpu


def _objection(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Memory | None, chunk_size: int) -> str:
    if log_decay.requires_grad:
        return "it has no gradient of the decay"
    return "one token is no block" if q.shape[2] == 1 else eager_on_cpu(q)


@decayed_attention.implementation("blocked", _objection)
def blocked(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Memory | None, chunk_size: int
) -> tuple[Tensor, Tensor, Memory]:
    """Chunk by chunk (Eq. 7); the last may be shorter."""
    dtype = product_dtype(q, k, v)
    kv, z = (None, None) if memory is None else memory
    output, weight, kv, z = _Blocked.apply(q.to(dtype), k.to(dtype), v.to(dtype), log_decay, kv, z, chunk_size)
    return output, weight, Memory(kv, z)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor,
        kv: Tensor | None,
        z: Tensor | None,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.chunk_size, ctx.begins = chunk_size, kv is None or z is None
        output, weight = _time_first(v), log_decay.new_empty(q.shape[:3])
        kv, z = nothing(q, v, log_decay.dtype) if kv is None or z is None else (kv.clone(), z.clone())
        kept: list[Tensor] = []
        kv, z = kv.flatten(0, 1), z.flatten(0, 1)
        with full_precision(q.device):
            for at, powers in _chunks(q.shape[2], chunk_size, log_decay, q.dtype):
                q_i, k_i, v_i = (_folded(x[:, :, at]) for x in (q, k, v))
                scores = _times_(torch.bmm(q_i, k_i.mT), powers.within)
                o_i, w_i = torch.bmm(scores, v_i), scores.sum(-1, dtype=weight.dtype)
                if at.start > 0 or not ctx.begins:
                    past = Memory(kv.to(q.dtype, copy=True), z.to(q.dtype, copy=True))
                    kept += past
                    far = _times(q_i, powers.since)
                    o_i.baddbmm_(far, past.kv)
                    w_i += torch.bmm(far, past.k[..., None]).squeeze(-1)
                output[:, :, at], weight[:, :, at] = o_i.view_as(output[:, :, at]), w_i.view_as(weight[:, :, at])
                near = _times(k_i, powers.until)
                _add_product_(_times_(kv, powers.through), near.mT, v_i)
                _times_(z, powers.through[..., 0]).add_(near.sum(1, dtype=z.dtype))
        ctx.save_for_backward(q, k, v, log_decay, *kept)
        return output, weight, kv.unflatten(0, q.shape[:2]), z.unflatten(0, q.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, do: Tensor | None, dw: Tensor | None, dkv: Tensor | None, dz: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        q, k, v, log_decay, *kept = ctx.saved_tensors
        do = torch.zeros_like(v) if do is None else do
        dw = log_decay.new_zeros(q.shape[:3]) if dw is None else dw
        dq, dk, dv = (_time_first(x) for x in (q, k, v))
        ends = dkv is None and dz is None  # nobody reads the memory after the last chunk
        zero = nothing(q, v, log_decay.dtype)
        dkv = (zero.kv if dkv is None else dkv.clone()).flatten(0, 1)
        dz = (zero.k if dz is None else dz.clone()).flatten(0, 1)
        with full_precision(q.device):
            for at, powers in reversed(list(_chunks(q.shape[2], ctx.chunk_size, log_decay, q.dtype))):
                q_i, k_i, v_i, do_i = (_folded(x[:, :, at]) for x in (q, k, v, do))
                dw_i = dw[:, :, at].flatten(0, 1)[..., None].to(q.dtype)
                scores = _times_(torch.bmm(q_i, k_i.mT), powers.within)
                dscores = _times_(torch.bmm(do_i, v_i.mT).add_(dw_i), powers.within)
                dq_i, dk_i, dv_i = torch.bmm(dscores, k_i), torch.bmm(dscores.mT, q_i), torch.bmm(scores.mT, do_i)
                if not (ends and at.stop == q.shape[2]):
                    after = Memory(dkv.to(q.dtype), dz.to(q.dtype))
                    near = _times(k_i, powers.until)
                    dk_i += _times_(torch.bmm(v_i, after.kv.mT).add_(after.k[:, None]), powers.until)
                    dv_i.baddbmm_(near, after.kv)
                _times_(dkv, powers.through)
                _times_(dz, powers.through[..., 0])
                if at.start > 0 or not ctx.begins:
                    past = Memory(*(kept.pop(-2), kept.pop()))
                    dq_i += _times_(torch.bmm(do_i, past.kv.mT).addcmul_(dw_i, past.k[:, None]), powers.since)
                    far = _times(q_i, powers.since)
                    _add_product_(dkv, far.mT, do_i)
                    dz += torch.bmm(far.mT, dw_i).squeeze(-1)
                for gradient, part in ((dq, dq_i), (dk, dk_i), (dv, dv_i)):
                    gradient[:, :, at] = part.view_as(gradient[:, :, at])
        if ctx.begins:
            return dq, dk, dv, None, None, None, None
        return dq, dk, dv, None, dkv.unflatten(0, q.shape[:2]), dz.unflatten(0, q.shape[:2]), None


def _chunks(length: int, size: int, log_decay: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Powers]]:
    """Where each chunk lies, and the powers for its length."""
    powers = None
    for start in range(0, length, size):
        at = slice(start, min(start + size, length))
        if powers is None or at.stop - start < size:
            within, since, until, through = Powers.over(at.stop - start, log_decay)
            powers = Powers(within.to(dtype), since.to(dtype), until.to(dtype), through)
        yield at, powers


def _time_first(like: Tensor) -> Tensor:
    """An empty tensor (b, h, t, ·) in the layout of (b, t, h, ·), which projections write and read."""
    b, h, t, width = like.shape
    return like.new_empty(b, t, h, width).transpose(1, 2)


def _folded(x: Tensor) -> Tensor:
    """(g, t, ·); contiguous in half precision, whose products would copy strided matrices number by number."""
    x = x.flatten(0, 1)
    return x if x.dtype in (torch.float32, torch.float64) else x.contiguous()


def _times(x: Tensor, power: Tensor) -> Tensor:
    """x (g, ...) times power (h, ...)."""
    return (x.unflatten(0, (-1, len(power))) * power).flatten(0, 1)


def _times_(x: Tensor, power: Tensor) -> Tensor:
    """`_times` in place."""
    x.unflatten(0, (-1, len(power))).mul_(power)
    return x


def _add_product_(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """x + a b in place, where x may be more precise."""
    return x.baddbmm_(a, b) if x.dtype == a.dtype else x.add_(torch.bmm(a, b))
