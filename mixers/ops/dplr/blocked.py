"""The diagonal-plus-rank-one rule on a CPU: one chunk after the other, with a custom backward.

It computes what `chunkwise` does, in pieces that caches hold. For the gradients only the state before each chunk is
kept; what lies within a chunk is computed again.

Axes: as in chunkwise.py.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.chunks import slices
from mixers.ops.dplr.chunk import Chunk, load, store
from mixers.ops.dplr.chunkwise import largest_power_of_two
from mixers.ops.dplr.reference import zero_state
from mixers.ops.precision import full_precision


def blocked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    state: Tensor | None,
    chunk_size: int,
    lower_bound: float = -torch.inf,
) -> tuple[Tensor, Tensor]:
    """The output and the state after it; chunks are a power of two long."""
    inputs = [x.to(log_decay.dtype) for x in (q, k, v, a, b)]
    output, state = _Blocked.apply(*inputs, log_decay, state, largest_power_of_two(chunk_size))
    return output.to(v.dtype), state


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        *inputs, state, ctx.size = arguments
        _, k, v, _, _, log_decay = inputs
        ctx.begins, output = state is None, torch.empty_like(v)
        state = zero_state(k, v, log_decay) if state is None else state
        after, kept = state.flatten(0, 1), []
        with full_precision(v.device):
            for at in slices(v.shape[1], ctx.size):
                kept.append(after)
                chunk = Chunk.of(inputs, at)
                uv = chunk.pairs(after)
                store(torch.bmm(chunk.scores[:, 1::2], uv).baddbmm_(chunk.far[:, 1::2], after), output[:, at])
                after = torch.baddbmm(chunk.through * after, chunk.near.mT, uv)
        ctx.save_for_backward(*inputs, *kept)
        return output, after.view(state.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor | None, dstate: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: checkpoints give them only once
        inputs, kept, v = saved[:6], saved[6:], saved[2]
        do = torch.zeros_like(v) if do is None else do
        dafter = torch.zeros_like(kept[0]) if dstate is None else dstate.flatten(0, 1)
        gradients = [torch.empty_like(x) for x in inputs]
        with full_precision(v.device):
            for at, before in zip(reversed(slices(v.shape[1], ctx.size)), reversed(kept), strict=True):
                chunk = Chunk.of(inputs, at)
                *parts, dafter = chunk.gradients(load(do[:, at], chunk.v.shape[1]), before, dafter)
                for part, gradient in zip(parts, gradients, strict=True):
                    store(part, gradient[:, at])
        return *gradients, None if ctx.begins else dafter.unflatten(0, (v.shape[0], v.shape[2])), None
