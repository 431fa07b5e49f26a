"""States of single rows, taken out of a batch and joined into one."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

Nested = TypeVar("Nested", bound=tuple)  # type: ignore[type-arg]


def select_rows(state: Nested, rows: Tensor | slice) -> Nested:
    """The state of some rows of a batch, in that order; `state` may be a mixer's or a model's."""
    taken: Nested = pytree.tree_map(lambda leaf: leaf[rows], state)
    return taken


def concat_states(states: Sequence[Nested]) -> Nested:
    """Rows of several batches as one batch. What has grown differently is filled up with zeros at its end."""
    joined: Nested = pytree.tree_map(_concatenate, *states)
    return joined


def _concatenate(*leaves: Any) -> Tensor:
    largest = [max(sizes) for sizes in zip(*(leaf.shape[1:] for leaf in leaves), strict=True)]
    return torch.cat([_filled(leaf, largest) for leaf in leaves])


def _filled(leaf: Tensor, sizes: list[int]) -> Tensor:
    missing = [(0, size - own) for size, own in zip(sizes, leaf.shape[1:], strict=True)]
    return F.pad(leaf, [amount for pair in reversed(missing) for amount in pair])
