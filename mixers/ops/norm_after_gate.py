"""The norm of a gated output, Mamba-2's: `y = norm_after_gate(o, gate, weight, eps)`.

y = w ⊙ n / √(mean(n²) + eps) of n = o ⊙ swish(g), the mean over a group of channels: gate first, norm second. What is
squared, summed and divided is float32 or better.

Axes: b batch, t time, g group, c channel of a group. o, the gate and y are (b, t, g, c) of one dtype, the weight is
(g, c).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mixers.ops.chunks import token_blocks
from mixers.ops.op import Draw, Implementation, Op, unless_eager_on_cpu
from mixers.ops.precision import state_dtype


def reference(o: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    gated = o * F.silu(gate)
    precise = gated.to(state_dtype(gated))
    scale = torch.rsqrt(precise.square().mean(-1, keepdim=True) + eps)
    return (precise * scale).to(o.dtype) * weight.to(o.dtype)


def _unsupported_reason(o: Tensor, gate: Tensor, weight: Tensor, eps: float) -> str | None:
    return "it wants a gate of the output's dtype" if o.dtype != gate.dtype else unless_eager_on_cpu(o)


class _Blocked(torch.autograd.Function):
    """A few tokens at a time; of the steps between only the scale is kept."""

    @staticmethod
    def forward(ctx: Any, o: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
        w, y = weight.to(o.dtype), torch.empty_like(o)
        scale = o.new_empty(*o.shape[:-1], 1, dtype=state_dtype(o))
        for at in token_blocks(o):
            gated = torch.sigmoid(gate[:, at]).mul_(gate[:, at]).mul_(o[:, at])
            length = torch.linalg.vector_norm(gated, dim=-1, keepdim=True, dtype=scale.dtype)
            scale[:, at] = length.square_().div_(o.shape[-1]).add_(eps).rsqrt_()
            torch.mul(gated.mul_(scale[:, at]), w, out=y[:, at])
        ctx.save_for_backward(o, gate, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        o, gate, weight, scale = ctx.saved_tensors
        w, do, dgate = weight.to(o.dtype), torch.empty_like(o), torch.empty_like(gate)
        dweight = torch.zeros_like(weight, dtype=scale.dtype)
        for at in token_blocks(o):
            o_i, gate_i, dy_i, scale_i = (x[:, at] for x in (o, gate, dy, scale))
            sigmoid = torch.sigmoid(gate_i)
            swish = sigmoid * gate_i
            slope = torch.addcmul(swish, sigmoid, swish, value=-1).add_(sigmoid)
            normed = (o_i * swish).mul_(scale_i)
            dnormed = dy_i * w
            dweight += (dy_i * normed).sum((0, 1), dtype=scale.dtype)
            along = (dnormed * normed).mean(-1, keepdim=True, dtype=scale.dtype)
            dgated = dnormed.sub_(normed.mul_(along)).mul_(scale_i)
            torch.mul(dgated, swish, out=do[:, at])
            torch.mul(dgated.mul_(o_i), slope, out=dgate[:, at])
        return do, dgate, dweight.to(weight.dtype), None


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Any, ...]:
    """Three groups of channels."""
    return draw(batch, length, 3, dim), draw(batch, length, 3, dim), draw.precise(3, dim), 1e-5


norm_after_gate: Op[Tensor] = Op(reference, [Implementation("blocked", _Blocked.apply, _unsupported_reason)], examples)
