"""A product with a matrix of weights: `y = linear(x, weight, bias)`, y_n = W x_n + b.

torch multiplies float32 by MKL, which leaves AVX-512 alone on processors of AMD and takes twice as long there as
oneDNN, which torch has, too, and takes for bfloat16. On other processors the two were not compared.

Axes: i inputs, o outputs. x is (..., i), the weight (o, i), the bias (o,) or None, y (..., o).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from mixers.ops.op import Draw, Implementation, Op, unless_eager_on_cpu
from mixers.ops.precision import product_dtype

SMALLEST = 2**22  # multiplications: with fewer, as of one token in a small model, the call costs more than it saves


def reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def _unsupported_reason(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    if reason := unless_eager_on_cpu(x):
        return reason
    if x.numel() * len(weight) < SMALLEST:
        return "it is for larger products"
    if not x.dtype == weight.dtype == product_dtype(x, weight) == torch.float32:
        return "it is for float32"
    if not {type(x), type(weight)} <= {Tensor, Parameter}:
        return "other kinds of tensors have products of their own"
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return "oneDNN is not there"
    return None if torch.backends.cpu.get_cpu_capability() == "AVX512" else "it is for AVX-512"


class _OneDNN(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # What torch's compiler calls; torch has no public function for it.
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (for_x, for_weight, for_bias) = ctx.saved_tensors, ctx.needs_input_grad
        dx = linear(dy, weight.T, None) if for_x else None
        dy, x = dy.flatten(0, -2), x.flatten(0, -2)
        return dx, linear(dy.T, x.T, None) if for_weight else None, dy.sum(0) if for_bias else None


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Tensor, ...]:
    """Twice as many outputs as inputs."""
    return draw(batch, length, dim), draw(2 * dim, dim), draw(2 * dim)


linear: Op[Tensor] = Op(reference, [Implementation("onednn", _OneDNN.apply, _unsupported_reason)], examples)
