"""A diagonal state space as matrix products over chunks, all of them at once, and recurrent between them.

Axes: as in reference.py; products want heads and chunks first, (h, i, 2, n, m, b) in short.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mixers.ops.chunks import blocks, by_chunks
from mixers.ops.precision import full_precision, in_product_dtype
from mixers.ops.state_space.reference import Modes, outer, powers, read, times

# A state (b, h, 2, n, m) for products, and back.
HEAD_FIRST, BATCH_FIRST = (1, 2, 3, 4, 0), (4, 0, 1, 2, 3)


class Chunk(NamedTuple):
    """A state space over c tokens, as matrices."""

    within: Tensor  # (h, c, c): from input s to output t ≥ s, K_{t-s}; 0 for later s
    read: Tensor  # (h, c, 2n): from the state before the chunk to an output
    write: Tensor  # (h, 2n, c): from an input to the state after the chunk
    through: Tensor  # (h, 2, n): from the state before to the state after, ā^c

    @classmethod
    def over(cls, c: int, modes: Modes, skip: Tensor) -> "Chunk":
        power = powers(modes, c + 1)
        re, im = times(modes.gain[..., None], power[..., 1:]).unbind(1)
        later = 2 * re[..., :-1].sum(1)  # K_i is 2 Re Σ g ā^i, as a state is read after i tokens
        taps = torch.cat([2 * modes.gain[:, :1].sum(-1) + skip[:, None], later], 1)
        # output t reads K_t … K_0 and nothing later: a window of the taps in reverse
        within = F.pad(taps.flip(1), (0, c - 1)).unfold(1, c, 1).flip(1)
        write = power[..., :-1].flip(-1).flatten(1, 2)
        return cls(within, torch.cat([2 * re, -2 * im], 1).mT, write, power[..., -1])


def chunkwise(u: Tensor, modes: Modes, skip: Tensor, state: Tensor | None, chunk_size: int) -> tuple[Tensor, Tensor]:
    """The output, and the state after it; the last chunk may be shorter."""
    return _with_matrices(_equal_chunks, [u], modes, skip, state, chunk_size)


def attention_chunkwise(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """The output, and the state after it; all outer products at once."""
    return _with_matrices(_equal_attention_chunks, in_product_dtype(q, k, v), *rest)


def attention_blocked(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """`attention_chunkwise` on a CPU: a few heads at a time, whose outer products a cache holds."""
    return _with_matrices(_Blocked.apply, in_product_dtype(q, k, v), *rest)


def _with_matrices(
    compute: Callable[..., Any], inputs: Sequence[Tensor], modes: Modes, skip: Tensor, state: Tensor | None, size: int
) -> tuple[Tensor, Tensor]:
    """The output for inputs (b, t, h, ·), and the state after it, by a function of equally long chunks.

    `compute` takes inputs (h, c, ·, i, b), the state (h, 2, n, m, b) or None and the fields of a `Chunk`, and gives the
    output and the state after it in the same axes.
    """

    def run(state: Tensor | None, *chunks: Tensor) -> tuple[Tensor, Tensor]:
        chunk = Chunk.over(chunks[0].shape[2], modes, skip)
        y, state = compute(*(x.permute(3, 2, 4, 1, 0).contiguous() for x in chunks), state, *chunk)
        return y.permute(4, 3, 1, 0, 2), state

    with full_precision(skip.device):
        y, now = by_chunks(run, size, inputs, None if state is None else state.permute(HEAD_FIRST))
    return y, now.permute(BATCH_FIRST)


def _equal_attention_chunks(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, *matrices: Tensor
) -> tuple[Tensor, Tensor]:
    """The outputs of (h, c, p, i, b), in the same order, and the state after them, (h, 2, n, p², b)."""
    y, state = _equal_chunks(outer(k, v, 2), state, *matrices)
    return read(q, y, 2), state


def _equal_chunks(u: Tensor, state: Tensor | None, *matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of (h, c, m, i, b), in the same order, and the state after them, (h, 2, n, m, b)."""
    chunk = Chunk(*matrices)
    within, *read, write_re, write_im = (
        x.to(u.dtype) for x in (chunk.within, *chunk.read.chunk(2, 2), *chunk.write.chunk(2, 1))
    )
    through, inputs = chunk.through[..., None, None].unbind(1), u.flatten(2)
    y = within @ inputs
    added = [(write @ inputs).view(*write.shape[:2], *u.shape[2:]).unbind(3) for write in (write_re, write_im)]
    if state is None:
        now = [torch.zeros_like(part[0], dtype=chunk.through.dtype) for part in added]
    else:
        now = list(state.unbind(1))
    before: list[list[Tensor]] = [[], []]
    for re, im in zip(*added, strict=True):
        for part, kept in zip(now, before, strict=True):
            kept.append(part)
        now = [
            torch.addcmul(torch.addcmul(re.to(now[0].dtype), now[0], through[0]), now[1], through[1], value=-1),
            torch.addcmul(torch.addcmul(im.to(now[0].dtype), now[0], through[1]), now[1], through[0]),
        ]
    if state is not None or u.shape[3] > 1:
        for by, kept in zip(read, before, strict=True):
            y.baddbmm_(by, torch.stack(kept, 3).to(u.dtype).flatten(2))
    return y.view(u.shape), torch.stack(now, 1)


class _Blocked(torch.autograd.Function):
    """`_equal_attention_chunks`, whose backward makes the outer products again."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        o, state = zip(*(_equal_attention_chunks(*_part(inputs, at)) for at in _heads(*inputs)), strict=True)
        return torch.cat(o), torch.cat(state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        gradients = tuple(None if x is None else torch.empty_like(x) for x in inputs)
        directions = [dy.contiguous() for dy in given if dy is not None]
        for at in _heads(*inputs) if directions else []:
            part = [None if x is None else x.detach().requires_grad_() for x in _part(inputs, at)]
            with torch.enable_grad():
                outputs = _equal_attention_chunks(*part)  # type: ignore[arg-type]
            wanted = [y for y, dy in zip(outputs, given, strict=True) if dy is not None]
            leaves = [x for x in part if x is not None]
            found = torch.autograd.grad(wanted, leaves, _part(directions, at), materialize_grads=True)
            for gradient, of_part in zip((g for g in gradients if g is not None), found, strict=True):
                gradient[at] = of_part
        return gradients if directions else (None,) * len(inputs)


def _heads(q: Tensor, *_: Any) -> list[slice]:
    """Which to work on at once."""
    return blocks(len(q), q[0].numel() * q.shape[2])


def _part(tensors: Sequence[Tensor | None], at: slice) -> list[Any]:
    return [None if x is None else x[at] for x in tensors]
