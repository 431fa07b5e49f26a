"""A product with a matrix of weights: `y = linear(x, weight, bias)`, y_n = W x_n + b.

torch multiplies float32 by MKL, which leaves AVX-512 alone on processors of AMD and then takes twice as long there as
oneDNN, which torch has, too, and takes for bfloat16.

Axes: i inputs, o outputs. x is (..., i), the weight (o, i), the bias (o,) or None, y (..., o).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mixers.ops.op import Draw, Implementation, Op, unless_eager_on_cpu
from mixers.ops.precision import product_dtype


def reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def _unsupported_reason(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    if reason := unless_eager_on_cpu(x):
        return reason
    if not x.dtype == weight.dtype == product_dtype(x, weight) == torch.float32:
        return "it is for float32"
    if x.numel() == 0:
        return "there is nothing to multiply"
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return "oneDNN is not there"
    return None if torch.backends.cpu.get_cpu_capability() == "AVX512" else "it is for AVX-512"


class _OneDNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (for_x, for_weight, for_bias) = ctx.saved_tensors, ctx.needs_input_grad
        dx = _product(dy, weight.T) if for_x else None
        dy, x = dy.flatten(0, -2), x.flatten(0, -2)
        return dx, _product(dy.T, x.T) if for_weight else None, dy.sum(0) if for_bias else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y, contiguous."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Tensor, ...]:
    """Twice as many outputs as inputs."""
    return draw(batch, length, dim), draw(2 * dim, dim), draw(2 * dim)


linear: Op[Tensor] = Op(reference, [Implementation("onednn", _OneDNN.apply, _unsupported_reason)], examples)
