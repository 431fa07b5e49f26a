"""H3's state space on a CPU: `attention_chunkwise` of a few heads at a time, whose outer products a cache holds.

The backward makes these outer products again. Shapes are those of chunkwise.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.op import blocks
from mixers.ops.precision import in_product_dtype
from mixers.ops.state_space.chunkwise import by_chunks, equal_attention_chunks


def attention_blocked(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """The output, and the state after it."""
    return by_chunks(_Blocked.apply, in_product_dtype(q, k, v), *rest)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        o, state = zip(*(equal_attention_chunks(*_part(inputs, at)) for at in _heads(inputs)), strict=True)
        return torch.cat(o), torch.cat(state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        gradients = tuple(None if x is None else torch.empty_like(x) for x in inputs)
        directions = [dy.contiguous() for dy in given if dy is not None]
        for at in _heads(inputs) if directions else []:
            part = [None if x is None else x.detach().requires_grad_() for x in _part(inputs, at)]
            with torch.enable_grad():
                outputs = equal_attention_chunks(*part)  # type: ignore[arg-type]
            wanted = [y for y, dy in zip(outputs, given, strict=True) if dy is not None]
            leaves = [x for x in part if x is not None]
            found = torch.autograd.grad(wanted, leaves, _part(directions, at), materialize_grads=True)
            for gradient, of_part in zip((g for g in gradients if g is not None), found, strict=True):
                gradient[at] = of_part
        return gradients if directions else (None,) * len(inputs)


def _heads(inputs: Sequence[Tensor | None]) -> list[slice]:
    """Which to work on at once."""
    q = inputs[0]
    assert q is not None
    return blocks(len(q), q[0].numel() * q.shape[2])


def _part(tensors: Sequence[Tensor | None], at: slice) -> list[Any]:
    return [None if x is None else x[at] for x in tensors]
