"""A recurrence on a CPU: a segment of the sequence at a time, computed again for its gradients.

Segments that a cache holds are faster than the whole, of which every step makes new tensors of megabytes. And only the
state before each of them is kept for the gradients, which are computed from the last segment to the first.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.chunks import slices

Tensors = Sequence[Tensor]
Run = Callable[[Tensors, Tensors, Tensors], tuple[Tensors, Tensors]]


def by_segments(run: Run, size: int, inputs: Tensors, weights: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
    """The outputs (b, t, ...) and the state after them of inputs (b, t, ...).

    `run(inputs, weights, state)` gives the outputs of the next inputs (b, size or less, ...) and the state after them;
    the weights are those tensors that are not cut.
    """
    results = _Segments.apply(run, size, len(inputs), len(weights), *inputs, *weights, *state)
    return results[: -len(state)], results[-len(state) :]


class _Segments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Run, size: int, inputs: int, weights: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.run, ctx.inputs, ctx.weights = run, inputs, weights
        sequences, fixed, state = _apart(tensors, inputs, weights)
        ctx.segments = slices(sequences[0].shape[1], size)
        results: list[Tensor] = []
        kept: list[Tensor] = []
        for at in ctx.segments:
            kept += state
            parts, state = run([x[:, at] for x in sequences], fixed, state)
            if not results:
                results = [part.new_empty(part.shape[0], sequences[0].shape[1], *part.shape[2:]) for part in parts]
            for result, part in zip(results, parts, strict=True):
                result[:, at] = part
        ctx.save_for_backward(*sequences, *fixed, *kept)
        return *results, *state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        sequences, fixed, kept = _apart(ctx.saved_tensors, ctx.inputs, ctx.weights)
        count = len(kept) // len(ctx.segments)  # of tensors in a state
        d_results: Sequence[Tensor | None] = given[:-count]
        d_state: Sequence[Tensor | None] = given[-count:]
        d_sequences = [torch.empty_like(x) for x in sequences]
        d_fixed = [torch.zeros_like(x) for x in fixed]
        for at in reversed(ctx.segments):
            state, kept = kept[-count:], kept[:-count]
            leaves = [x.detach().requires_grad_() for x in (*(x[:, at] for x in sequences), *fixed, *state)]
            with torch.enable_grad():
                parts, after = ctx.run(*_apart(leaves, ctx.inputs, ctx.weights))
            directions = [*(None if d is None else d[:, at] for d in d_results), *d_state]
            used = [(y, d) for y, d in zip((*parts, *after), directions, strict=True) if d is not None]
            found = torch.autograd.grad([y for y, _ in used], leaves, [d for _, d in used], materialize_grads=True)
            of_sequences, of_fixed, d_state = _apart(found, ctx.inputs, ctx.weights)
            for d, part in zip(d_sequences, of_sequences, strict=True):
                d[:, at] = part
            for d, part in zip(d_fixed, of_fixed, strict=True):
                d += part
        return None, None, None, None, *d_sequences, *d_fixed, *d_state


def _apart(tensors: Tensors, inputs: int, weights: int) -> tuple[Tensors, Tensors, Tensors]:
    """Inputs, weights and state."""
    return tensors[:inputs], tensors[inputs : inputs + weights], tensors[inputs + weights :]
