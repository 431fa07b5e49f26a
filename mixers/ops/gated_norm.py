"""Each head's output divided by its root mean square, then gated by swish.

y = swish(g) ⊙ o / √(mean(o²) + floor), the mean over a head's values.

Axes: b batch, h head, t time, v value width. o is (b, h, t, v), floor (b, h, t) in float32 or better, and the gate g,
None for none, (b, t, h v) like the output.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mixers.ops.op import Op, blocks, eager_on_cpu


def reference(o: Tensor, floor: Tensor, gate: Tensor | None) -> Tensor:
    mean_square = o.square().mean(-1, keepdim=True, dtype=floor.dtype)
    normed = (o * torch.rsqrt(mean_square + floor[..., None]).to(o.dtype)).transpose(1, 2).flatten(2)
    return normed if gate is None else F.silu(gate) * normed


def examples(length: int, dim: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Retention's arguments at width dim, with 4 heads and gradients wanted."""
    b, h, v = 1 if dim > 64 else 2, 4, dim // 2
    o = torch.randn(b, length, h, v, dtype=dtype, device=device).transpose(1, 2).requires_grad_()
    floor = torch.rand(b, h, length, dtype=torch.promote_types(dtype, torch.float32), device=device).requires_grad_()
    gate = torch.randn(b, length, h * v, dtype=dtype, device=device).requires_grad_()
    return o, floor, gate


gated_norm = Op(reference, examples)


def _objection(o: Tensor, floor: Tensor, gate: Tensor | None) -> str:
    if gate is None or o.dtype != gate.dtype:
        return "it wants a gate of the output's dtype"
    return eager_on_cpu(o)


@gated_norm.implementation("blocked", _objection)
def blocked(o: Tensor, floor: Tensor, gate: Tensor | None) -> Tensor:
    """A few tokens at a time, with gradients by hand: nothing large is made but results and gradients."""
    y: Tensor = _Blocked.apply(o, floor, gate)
    return y


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, o: Tensor, floor: Tensor, gate: Tensor) -> Tensor:
        y, scale, o = torch.empty_like(gate), torch.empty_like(floor), o.transpose(1, 2)  # (b, t, h, v)
        scratch = _scratch(o)
        for at in _pieces(o):
            o_i, y_i, swish = o[:, at], y[:, at], scratch[: y[:, at].numel()].view_as(y[:, at])
            length = torch.linalg.vector_norm(o_i, dim=-1, dtype=floor.dtype).transpose(1, 2)
            scale[:, :, at] = (length.square_().div_(o.shape[-1]) + floor[:, :, at]).rsqrt_()
            torch.mul(o_i, _for_each(scale[:, :, at], o), out=y_i.view_as(o_i))
            y_i.mul_(torch.sigmoid(gate[:, at], out=swish).mul_(gate[:, at]))
        ctx.save_for_backward(o, scale, gate)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        o, scale, gate = ctx.saved_tensors
        do, dgate, dfloor = torch.empty_like(o), torch.empty_like(gate), torch.empty_like(scale)
        rooms = [_scratch(o) for _ in range(4)]
        for at in _pieces(o):
            o_i, do_i, dgate_i, scale_i = o[:, at], do[:, at], dgate[:, at], _for_each(scale[:, :, at], o)
            normed, sigmoid, swish, other = (room[: dgate_i.numel()].view_as(dgate_i) for room in rooms)
            torch.mul(o_i, scale_i, out=normed.view_as(o_i))
            torch.sigmoid(gate[:, at], out=sigmoid)
            torch.mul(sigmoid, gate[:, at], out=swish)
            # swish' = σ + swish - σ swish
            torch.mul(dy[:, at], normed, out=dgate_i)
            dgate_i.mul_(torch.addcmul(swish, sigmoid, swish, value=-1, out=other).add_(sigmoid))
            # with n = o s: ds = Σ dn o, and s = (mean(o²) + floor)^-½
            dnormed = torch.mul(dy[:, at], swish, out=swish)
            torch.mul(dnormed, normed, out=other)
            along = other.view_as(o_i).sum(-1, dtype=scale.dtype).transpose(1, 2)
            dfloor[:, :, at] = along * scale[:, :, at].square() * -0.5
            normed.view_as(o_i).mul_(_for_each(along / o.shape[-1], o))
            torch.sub(dnormed, normed, out=other)
            torch.mul(other.view_as(o_i), scale_i, out=do_i)
        return do.transpose(1, 2), dfloor, dgate


def _pieces(o: Tensor) -> list[slice]:
    return blocks(o.shape[1], o[:, :1].numel())


def _scratch(o: Tensor) -> Tensor:
    """Room for the largest piece of o."""
    return o.new_empty(max((o[:, at].numel() for at in _pieces(o)), default=0))


def _for_each(scale: Tensor, o: Tensor) -> Tensor:
    """A number for each head and token, (b, h, t), as it multiplies o (b, t, h, v)."""
    return scale.transpose(1, 2)[..., None].to(o.dtype)
