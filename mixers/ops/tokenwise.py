"""What is computed within each token, a few tokens at a time: `y, z = tokenwise(f, (x, ...), (weight, ...))`.

A chain of elementwise functions costs a CPU little arithmetic and much memory, in pages that the system must fill with
zeros. On a CPU this runs the whole chain for as many tokens as a cache holds, keeps nothing but the inputs, and
computes the chain again for the gradients.

Axes: b batch, t time. Inputs and outputs are (b, t, ...), weights of any shape.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.chunks import token_blocks
from mixers.ops.op import unless_eager_on_cpu
from mixers.ops.precision import full_precision

Function = Callable[..., tuple[Tensor, ...]]


def tokenwise(f: Function, inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`f(*inputs, *weights)`, of which an output at a token depends on the inputs at that token only."""
    if unless_eager_on_cpu(inputs[0]) is None and inputs[0].numel():
        return _Blocked.apply(f, len(inputs), *inputs, *weights)
    with full_precision(inputs[0].device):
        return f(*inputs, *weights)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Function, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.f, ctx.count = f, count
        inputs, weights = tensors[:count], tensors[count:]
        outputs: list[Tensor] = []
        with full_precision(inputs[0].device):
            for at in token_blocks(inputs[0]):
                parts = f(*(x[:, at] for x in inputs), *weights)
                outputs = outputs or [y.new_empty(len(y), inputs[0].shape[1], *y.shape[2:]) for y in parts]
                for y, part in zip(outputs, parts, strict=True):
                    y[:, at] = part
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        tensors = [x.detach().requires_grad_(want) for x, want in zip(ctx.saved_tensors, wanted, strict=True)]
        inputs, weights = tensors[: ctx.count], tensors[ctx.count :]
        gradients = [torch.empty_like(x) for x in inputs] + [torch.zeros_like(x) for x in weights]
        used = [dy for dy in given if dy is not None]
        with full_precision(inputs[0].device):
            for at in token_blocks(inputs[0]) if used else ():
                parts = [x.detach()[:, at].requires_grad_(x.requires_grad) for x in inputs]
                with torch.enable_grad():
                    outputs = ctx.f(*parts, *weights)
                outputs = [y for y, dy in zip(outputs, given, strict=True) if dy is not None]
                leaves = [x for x in (*parts, *weights) if x.requires_grad]
                found = iter(torch.autograd.grad(outputs, leaves, [dy[:, at] for dy in used], materialize_grads=True))
                for i, want in enumerate(wanted):
                    if want and i < ctx.count:
                        gradients[i][:, at] = next(found)
                    elif want:
                        gradients[i] += next(found)
        return None, None, *(g if want and used else None for g, want in zip(gradients, wanted, strict=True))
