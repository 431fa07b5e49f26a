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

from mixers.ops.autocast import full_precision
from mixers.ops.op import TAKEN, Op, blocks, eager_on_cpu
from mixers.ops.state_space import Chunk, Modes, chunks, draw_modes, equal_chunks, in_chunks, in_order, state_space

# Where the heads are in q, k, v, the state and a chunk's matrices, and in an output and the state.
INPUT_HEADS, OUTPUT_HEADS = (2, 2, 2, 1, 0, 0, 0, 0), (2, 1)


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


@state_space_attention.implementation("fourier", lambda *_: TAKEN)
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
    precise = [x.to(skip.dtype) for x in (q, k, v)]
    o, state = _by_chunks(_Blocked.apply, precise, modes, skip, state, chunk_size)
    return o.to(v.dtype), state


def _by_chunks(
    run: Callable[..., tuple[Tensor, Tensor]],
    qkv: Sequence[Tensor],
    modes: Modes,
    skip: Tensor,
    state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    outputs = []
    with full_precision(skip.device):
        for at, chunk in chunks(qkv[0].shape[1], chunk_size, modes, skip):
            o, state = run(*(x[:, at] for x in qkv), state, *chunk)
            outputs.append(o)
    assert state is not None
    return torch.cat(outputs, 1), state


def _equal_chunks(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, *matrices: Tensor) -> tuple[Tensor, Tensor]:
    chunk = Chunk(*matrices)
    q, k, v = (in_chunks(x, chunk) for x in (q, k, v))
    y, state = equal_chunks(_outer(k, v), chunk, state)
    return in_order(_read(q, y)), state


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        parts = [_equal_chunks(*_heads(inputs, INPUT_HEADS, at)) for at in _groups(inputs)]
        o, state = zip(*parts, strict=True)
        return torch.cat(o, 2), torch.cat(state, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if all(dy is None for dy in given):
            return (None,) * len(inputs)
        gradients = tuple(None if x is None else torch.empty_like(x) for x in inputs)
        for at in _groups(inputs):
            part = [None if x is None else x.detach().requires_grad_() for x in _heads(inputs, INPUT_HEADS, at)]
            with torch.enable_grad():
                outputs = _equal_chunks(*part)  # type: ignore[arg-type]
            pairs = zip(outputs, _heads(given, OUTPUT_HEADS, at), strict=True)
            wanted, directions = zip(*((y, dy) for y, dy in pairs if dy is not None), strict=True)
            sources = [x for x in part if x is not None]
            found = iter(torch.autograd.grad(wanted, sources, directions, allow_unused=True, materialize_grads=True))
            for gradient in _heads(gradients, INPUT_HEADS, at):
                if gradient is not None:
                    gradient.copy_(next(found))
        return gradients


def _groups(inputs: Sequence[Tensor | None]) -> list[slice]:
    """The heads to work on at once."""
    q = inputs[0]
    assert q is not None
    b, t, h, p = q.shape
    return blocks(h, b * t * p * p)


def _heads(tensors: Sequence[Tensor | None], where: Sequence[int], at: slice) -> list[Any]:
    return [
        None if x is None else x.narrow(axis, at.start, at.stop - at.start)
        for x, axis in zip(tensors, where, strict=True)
    ]


def _outer(k: Tensor, v: Tensor) -> Tensor:
    return (k[..., :, None] * v[..., None, :]).flatten(-2)


def _read(q: Tensor, y: Tensor) -> Tensor:
    """A query times a matrix of its head."""
    return (q[..., None] * y.unflatten(-1, (q.shape[-1], -1))).sum(-2)
