"""Norm and gate on a CPU: a few tokens at a time, with a custom backward; shapes as in reference.py.

Nothing large is made but the output and the gradients.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.op import blocks, unless_eager_on_cpu


def unsupported_reason(o: Tensor, eps: Tensor, gate: Tensor | None) -> str | None:
    if gate is None or o.dtype != gate.dtype:
        return "it wants a gate of the output's dtype"
    return unless_eager_on_cpu(o)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, o: Tensor, eps: Tensor, gate: Tensor) -> Tensor:
        y, scale, (buffer,) = torch.empty_like(gate), torch.empty_like(eps), _buffers(o, 1)
        for at in _pieces(o):
            o_i, y_i, scale_i, gate_i = o[:, at], y[:, at], scale[:, at], gate[:, at]
            length = torch.linalg.vector_norm(o_i, dim=-1, dtype=eps.dtype)
            torch.rsqrt(length.square_().div_(o.shape[-1]).add_(eps[:, at]), out=scale_i)
            torch.mul(o_i, scale_i[..., None], out=y_i)
            swish = torch.sigmoid(gate_i, out=buffer[: y_i.numel()].view_as(y_i)).mul_(gate_i)
            y_i.mul_(swish)
        ctx.save_for_backward(o, scale, gate)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        o, scale, gate = ctx.saved_tensors
        do, dgate, deps = torch.empty_like(o), torch.empty_like(gate), torch.empty_like(scale)
        buffers = _buffers(o, 4)
        for at in _pieces(o):
            o_i, gate_i, dy_i, do_i, dgate_i, scale_i = (x[:, at] for x in (o, gate, dy, do, dgate, scale))
            normed, sigmoid, swish, other = (buffer[: o_i.numel()].view_as(o_i) for buffer in buffers)
            torch.mul(o_i, scale_i[..., None], out=normed)
            torch.sigmoid(gate_i, out=sigmoid)
            torch.mul(sigmoid, gate_i, out=swish)
            # swish' = σ + swish - σ swish
            torch.mul(dy_i, normed, out=dgate_i)
            dgate_i.mul_(torch.addcmul(swish, sigmoid, swish, value=-1, out=other).add_(sigmoid))
            # with n = o s: ds = Σ dn o, and s = (mean(o²) + eps)^-½
            dnormed = torch.mul(dy_i, swish, out=swish)
            torch.mul(dnormed, normed, out=other)
            along = other.sum(-1, dtype=scale.dtype)
            deps[:, at] = along * scale_i.square() * -0.5
            normed.mul_((along / o.shape[-1]).to(o.dtype)[..., None])
            torch.sub(dnormed, normed, out=other)
            torch.mul(other, scale_i[..., None], out=do_i)
        return do, deps, dgate


def _pieces(o: Tensor) -> list[slice]:
    return blocks(o.shape[1], o[:, :1].numel())


def _buffers(o: Tensor, count: int) -> Tensor:
    """Each with room for the largest piece of o."""
    return o.new_empty(count, max((o[:, at].numel() for at in _pieces(o)), default=0))


blocked = _Blocked.apply
