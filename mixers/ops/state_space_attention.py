"""H3's state space between keys and queries (arXiv:2212.14052): a memory of associations.

In each head the outer product of a key and a value passes through a diagonal state space, all of its numbers through
the same one, and a query reads the result: o_t = q_t Σ_{s≤t} K_{t-s} k_sᵀ v_s, K the state space's kernel.

Axes: as in state_space.py, and p, the width of a head, whose outer products are m = p² channels of its state space.
q, k, v and o are (b, t, h, p), the state (b, h, 2, n, p²).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.autocast import full_precision, product_dtype
from mixers.ops.op import TAKEN, Op, blocks, eager_on_cpu
from mixers.ops.state_space import (
    BATCH_FIRST,
    HEAD_FIRST,
    Modes,
    chunks,
    draw_modes,
    equal_chunks,
    in_chunks,
    in_order,
    state_space,
)


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, modes: Modes, skip: Tensor, state: Tensor | None, chunk_size: int = 1
) -> tuple[Tensor, Tensor]:
    """Token by token."""
    y, state = state_space["reference"].run(_outer(k, v), modes, skip, state)
    return _read(q, y), state


def examples(
    length: int, dim: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Modes, Tensor, Tensor, int]:
    """H3's arguments at width dim, with gradients wanted."""
    b, p, n, chunk_size = (1, 8, 32, 64) if dim > 64 else (2, 4, 3, 16)
    modes, skip = draw_modes(dim // p, n, dtype, device)
    q, k, v = (torch.randn(b, length, dim // p, p, dtype=dtype, device=device).requires_grad_() for _ in range(3))
    state = torch.randn(b, dim // p, 2, n, p * p, dtype=skip.dtype, device=device).requires_grad_()
    return q, k, v, modes, skip, state, chunk_size


state_space_attention = Op(recurrent, examples)


@state_space_attention.implementation("fourier", lambda *_: TAKEN, automatic=False)
def convolved(
    q: Tensor, k: Tensor, v: Tensor, modes: Modes, skip: Tensor, state: Tensor | None, chunk_size: int = 1
) -> tuple[Tensor, Tensor]:
    """As one long convolution of all outer products, by Fourier transforms; the form of the authors' code."""
    y, state = state_space["fourier"].run(_outer(k, v), modes, skip, state)
    return _read(q, y), state


def _is_one_token(q: Tensor, *_: Any) -> str:
    return "one token is its own chunk" if q.shape[1] == 1 else TAKEN


@state_space_attention.implementation("chunkwise", _is_one_token)
def chunkwise(
    q: Tensor, k: Tensor, v: Tensor, modes: Modes, skip: Tensor, state: Tensor | None, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """As matrix products over chunks of outer products, and recurrent between chunks; the last may be shorter."""
    return _by_chunks(_equal_chunks, (q, k, v), modes, skip, state, chunk_size)


@state_space_attention.implementation("blocked", lambda q, *args: _is_one_token(q) or eager_on_cpu(q))
def blocked(
    q: Tensor, k: Tensor, v: Tensor, modes: Modes, skip: Tensor, state: Tensor | None, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """`chunkwise` of a few heads at a time, whose outer products a cache holds; gradients make them again."""
    return _by_chunks(_Blocked.apply, (q, k, v), modes, skip, state, chunk_size)


def _by_chunks(
    run: Callable[..., tuple[Tensor, Tensor]],
    qkv: Sequence[Tensor],
    modes: Modes,
    skip: Tensor,
    state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    dtype = product_dtype(*qkv)
    outputs, now = [], None if state is None else state.permute(HEAD_FIRST)
    with full_precision(skip.device):
        for at, chunk in chunks(qkv[0].shape[1], chunk_size, modes, skip):
            o, now = run(*(in_chunks(x[:, at].to(dtype), chunk) for x in qkv), now, *chunk)
            outputs.append(in_order(o))
    assert now is not None
    return torch.cat(outputs, 1), now.permute(BATCH_FIRST)


def _equal_chunks(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, *matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of (h, c, p, i, b), in the same order, and the state after them, (h, 2, n, p², b)."""
    y, state = equal_chunks(_outer(k, v, 2), state, *matrices)
    return _read(q, y, 2), state


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        o, state = zip(*(_equal_chunks(*_part(inputs, at)) for at in _heads(inputs)), strict=True)
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
                outputs = _equal_chunks(*part)  # type: ignore[arg-type]
            wanted = [y for y, dy in zip(outputs, given, strict=True) if dy is not None]
            found = torch.autograd.grad(
                wanted,
                [x for x in part if x is not None],
                _part(directions, at),
                allow_unused=True,
                materialize_grads=True,
            )
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


def _outer(k: Tensor, v: Tensor, dim: int = -1) -> Tensor:
    """All products of two numbers, one of k's and one of v's, which lie in that dimension."""
    last = dim % k.ndim
    return (k.unsqueeze(last + 1) * v.unsqueeze(last)).flatten(last, last + 1)


def _read(q: Tensor, y: Tensor, dim: int = -1) -> Tensor:
    """A query times what has become of the outer products."""
    last = dim % q.ndim
    return (q.unsqueeze(last + 1) * y.unflatten(last, (q.shape[last], -1))).sum(last)
