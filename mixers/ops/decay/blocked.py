"""Linear attention with decay on a CPU: one chunk after the other, with a custom backward.

It computes what `chunkwise` does, in pieces that caches hold: a new tensor of megabytes costs a CPU more, in pages that
the system must fill with zeros, than the arithmetic on it. For the gradients only the state before each chunk is kept;
what lies within a chunk is computed again.

Axes: as in reference.py, and g = b h, which batched products want.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.chunks import slices
from mixers.ops.decay.chunkwise import Decays, decay_mask, fixed_total
from mixers.ops.decay.reference import DecayState
from mixers.ops.op import unless_sequence_on_cpu
from mixers.ops.precision import full_precision, in_product_dtype


def unsupported_reason(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *_: Any) -> str | None:
    if log_decay.ndim > 1 or log_decay.requires_grad:
        return "it is for a decay of each head that is not learned"
    if q.shape[2] != v.shape[2]:
        return "it is for heads with keys of their own"
    return unless_sequence_on_cpu(q)


def blocked(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: DecayState | None, chunk_size: int
) -> tuple[Tensor, Tensor, DecayState]:
    """The output, the weight of what was read, and the state after it; the last chunk may be shorter."""
    kv, z = (None, None) if state is None else state
    output, weight, kv, z = _Blocked.apply(*in_product_dtype(q, k, v), log_decay, kv, z, chunk_size)
    return output, weight, DecayState(kv, z)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, kv: Tensor | None, z: Tensor | None, size: int
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.size, ctx.begins = size, kv is None or z is None
        output, weight = torch.empty_like(v), log_decay.new_empty(q.shape[:3])
        zero = DecayState.zero(k, v, log_decay.dtype)
        kv, z = _copies((kv, z), zero)
        kept: list[Tensor] = []
        with full_precision(q.device):
            for at, within, decays in _chunks(q.shape[1], size, log_decay, q.dtype):
                q_i, k_i, v_i = (_folded(x[:, at]) for x in (q, k, v))
                scores = _times_(torch.bmm(q_i, k_i.mT), within)
                o_i, w_i = torch.bmm(scores, v_i), scores.sum(-1, dtype=z.dtype)
                if at.start > 0 or not ctx.begins:
                    past = DecayState(kv.to(q.dtype, copy=True), z.clone())
                    kept += past
                    far = _times(q_i, decays.since)
                    o_i.baddbmm_(far, past.kv)
                    w_i += torch.bmm(far.to(z.dtype), past.k[..., None]).squeeze(-1)
                _store(o_i, output[:, at])
                _store(w_i, weight[:, at])
                near = _times(k_i, decays.until)
                _add_product_(_times_(kv, decays.through), near.mT, v_i)
                _times_(z, decays.through[..., 0]).add_(near.sum(1, dtype=z.dtype))
        ctx.save_for_backward(q, k, v, log_decay, *kept)
        return output, weight, kv.view_as(zero.kv), z.view_as(zero.k)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, do: Tensor | None, dw: Tensor | None, dkv: Tensor | None, dz: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        q, k, v, log_decay, *kept = ctx.saved_tensors
        do = torch.zeros_like(v) if do is None else do
        dw = log_decay.new_zeros(q.shape[:3]) if dw is None else dw
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        ends = dkv is None and dz is None  # nobody reads the state after the last chunk
        zero = DecayState.zero(k, v, log_decay.dtype)
        dkv, dz = _copies((dkv, dz), zero)
        with full_precision(q.device):
            for at, within, decays in reversed(list(_chunks(q.shape[1], ctx.size, log_decay, q.dtype))):
                q_i, k_i, v_i, do_i = (_folded(x[:, at]) for x in (q, k, v, do))
                dw_i = dw[:, at].mT.flatten(0, 1)[..., None].to(q.dtype)
                scores = _times_(torch.bmm(q_i, k_i.mT), within)
                dscores = _times_(torch.bmm(do_i, v_i.mT).add_(dw_i), within)
                dq_i, dk_i, dv_i = torch.bmm(dscores, k_i), torch.bmm(dscores.mT, q_i), torch.bmm(scores.mT, do_i)
                if not (ends and at.stop == q.shape[1]):
                    after = DecayState(dkv.to(q.dtype), dz.to(q.dtype))
                    near = _times(k_i, decays.until)
                    dk_i += _times_(torch.bmm(v_i, after.kv.mT).add_(after.k[:, None]), decays.until)
                    dv_i.baddbmm_(near, after.kv)
                _times_(dkv, decays.through)
                _times_(dz, decays.through[..., 0])
                if at.start > 0 or not ctx.begins:
                    past = DecayState(*(kept.pop(-2), kept.pop()))
                    dq_i += _times_(torch.bmm(do_i, past.kv.mT).addcmul_(dw_i, past.k[:, None]), decays.since)
                    far = _times(q_i, decays.since)
                    _add_product_(dkv, far.mT, do_i)
                    dz += torch.bmm(far.mT, dw_i).squeeze(-1)
                for gradient, part in ((dq, dq_i), (dk, dk_i), (dv, dv_i)):
                    _store(part, gradient[:, at])
        if ctx.begins:
            return dq, dk, dv, None, None, None, None
        return dq, dk, dv, None, dkv.view_as(zero.kv), dz.view_as(zero.k), None


def _chunks(length: int, size: int, log_decay: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor, Decays]]:
    """Where each chunk lies, the decays from its tokens to later ones, (h, c, c), and the others, (h, ·, ·)."""
    c = 0
    for at in slices(length, size):
        if at.stop - at.start != c:
            c = at.stop - at.start
            total = fixed_total(log_decay, c)[:, 0]
            within, (since, until, through) = decay_mask(total).to(dtype), Decays.of(total)
            decays = Decays(since.to(dtype), until.to(dtype), through)
        yield at, within, decays


def _copies(given: tuple[Tensor | None, Tensor | None], zero: DecayState) -> tuple[Tensor, Tensor]:
    """Both parts of a state or of its gradient, with batch and heads as one, to be written to."""
    kv, z = (new if old is None else old.clone() for old, new in zip(given, zero, strict=True))
    return kv.flatten(0, 1), z.flatten(0, 1)


def _folded(x: Tensor) -> Tensor:
    """(b, t, h, ·) as (g, t, ·); contiguous in half precision, whose products copy strided matrices one by one."""
    x = x.transpose(1, 2).flatten(0, 1)
    return x if x.dtype in (torch.float32, torch.float64) else x.contiguous()


def _store(x: Tensor, into: Tensor) -> None:
    """Writes (g, t, ...) into (b, t, h, ...)."""
    into = into.transpose(1, 2)
    into.copy_(x.view(into.shape))


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
