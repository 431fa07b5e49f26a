"""Sequences of any length in parts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

CACHE_ELEMENTS = 2**18  # worked on at once on a CPU, so that its cache holds several tensors of that many


def by_chunks(run: Callable[..., Any], size: int, inputs: Sequence[Tensor], state: Any) -> tuple[Any, ...]:
    """The outputs (b, t, ...) and the state after them of inputs (b, t, ...).

    `run(state, *chunks)` gives outputs (b, n, size, ...) and a state for chunks (b, n, size, ...); then what is left,
    if anything, is one shorter chunk.
    """
    outputs, length = [], inputs[0].shape[1]
    whole = length - length % size
    for start, end, c in ((0, whole, size), (whole, length, length - whole)):
        if end > start:
            *parts, state = run(state, *(x[:, start:end].unflatten(1, (-1, c)) for x in inputs))
            outputs.append([part.flatten(1, 2) for part in parts])
    if len(outputs) == 1:
        return *(part.contiguous() for part in outputs[0]), state
    return *(torch.cat(parts, 1) for parts in zip(*outputs, strict=True)), state


def slices(length: int, size: int) -> list[slice]:
    """Where to cut a dimension of that length into parts of that size; the last may be shorter."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def blocks(length: int, elements: int) -> list[slice]:
    """Where to cut it, with so many elements at each index, into parts that fit a cache."""
    return slices(length, max(1, CACHE_ELEMENTS // max(1, elements)))


def token_blocks(x: Tensor) -> list[slice]:
    """`blocks` of the tokens of x (b, t, ...)."""
    return blocks(x.shape[1], x[:, :1].numel())
