"""Each head's output divided by its root mean square, then gated by swish: `y = gated_norm(o, eps, gate)`.

y = swish(g) ⊙ o / √(mean(o²) + eps), the mean over a head's values, in eps's dtype: squares overflow in float16.

Axes: b batch, t time, h head, v value width. o, the gate g (None for none) and y are (b, t, h, v), eps is (b, t, h) in
float32 or better.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mixers.ops.chunks import token_blocks
from mixers.ops.op import Draw, Implementation, Op, unless_eager_on_cpu


def reference(o: Tensor, eps: Tensor, gate: Tensor | None) -> Tensor:
    precise = o.to(eps.dtype)
    scale = torch.rsqrt(precise.square().mean(-1) + eps)
    normed = (precise * scale[..., None]).to(o.dtype)
    return normed if gate is None else F.silu(gate) * normed


def _unsupported_reason(o: Tensor, eps: Tensor, gate: Tensor | None) -> str | None:
    if gate is None or o.dtype != gate.dtype:
        return "it wants a gate of the output's dtype"
    return unless_eager_on_cpu(o)


class _Blocked(torch.autograd.Function):
    """A few tokens at a time, so that nothing large is made but the output and the gradients."""

    @staticmethod
    def forward(ctx: Any, o: Tensor, eps: Tensor, gate: Tensor) -> Tensor:
        y, scale, (buffer,) = torch.empty_like(gate), torch.empty_like(eps), _buffers(o, 1)
        for at in token_blocks(o):
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
        for at in token_blocks(o):
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


def _buffers(o: Tensor, count: int) -> Tensor:
    """Each with room for the largest block of o."""
    return o.new_empty(count, max((o[:, at].numel() for at in token_blocks(o)), default=0))


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Tensor, ...]:
    """Retention's arguments, with 4 heads."""
    shape = (batch, length, 4, dim // 2)
    o, gate, eps = draw(*shape), draw(*shape), draw.precise(*shape[:3])
    return o, eps.detach().sigmoid().requires_grad_(), gate


gated_norm: Op[Tensor] = Op(reference, [Implementation("blocked", _Blocked.apply, _unsupported_reason)], examples)
