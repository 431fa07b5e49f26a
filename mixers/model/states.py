"""Rows of states, selected from a batch and joined into one."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

Nested = TypeVar("Nested", bound=tuple)  # type: ignore[type-arg]


def select_rows(state: Nested, rows: Tensor | slice) -> Nested:
    """The state of some rows of a batch, in that order; `state` may be a mixer's or a model's."""
    return pytree.tree_map(lambda leaf: leaf[rows], state)


def concat_states(states: Sequence[Nested]) -> Nested:
    """Rows of several batches as one batch. What has grown differently is padded with zeros at its end."""
    return pytree.tree_map(_concatenate, *states)


def where_rows(rows: Tensor, state: Nested, other: Nested) -> Nested:
    """`state` in the rows (batch,) that are true and `other` in the rest, in the shapes and dtypes of `other`."""

    def choose(mine: Tensor, others: Tensor) -> Tensor:
        mine = _padded(mine.to(others.dtype), others.shape[1:])
        return torch.where(rows.view(-1, *[1] * (mine.dim() - 1)), mine, others)

    return pytree.tree_map(choose, state, other)


def _concatenate(*leaves: Any) -> Tensor:
    largest = [max(sizes) for sizes in zip(*(leaf.shape[1:] for leaf in leaves), strict=True)]
    return torch.cat([_padded(leaf, largest) for leaf in leaves])


def _padded(leaf: Tensor, sizes: Sequence[int]) -> Tensor:
    missing = [(0, size - own) for size, own in zip(sizes, leaf.shape[1:], strict=True)]
    return F.pad(leaf, [amount for pair in reversed(missing) for amount in pair])
