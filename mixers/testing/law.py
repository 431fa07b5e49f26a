"""What a law is, and what laws share: a mixer and an input to try it on, and what equal means."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from mixers.mixer import Mixer

Build = Callable[[int], Mixer[Any]]
Check = Callable[[Mixer[Any], Tensor], None]

LAWS: list[Callable[[Build], None]] = []

DIM = 32
LENGTH = 150  # no power of two, nor a multiple of a chunk


def law(*, rows: int, length: int = LENGTH, device: str = "cpu") -> Callable[[Check], Callable[[Build], None]]:
    """Adds a check of a mixer and of normal numbers (rows, length, DIM) to the laws, both in float64.

    Whatever fails in it is an AssertionError that begins with the check's docstring. Gradients have to be enabled.
    """

    def add(check: Check) -> Callable[[Build], None]:
        @functools.wraps(check)
        def checked(build: Build) -> None:
            try:
                with torch.device(device):
                    torch.manual_seed(0)
                    mixer = build(DIM).double()
                    torch.manual_seed(1)
                    x = torch.randn(rows, length, DIM, dtype=torch.float64)
                with torch.no_grad():
                    check(mixer, x)
            except Exception as error:
                kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
                raise AssertionError(f"{' '.join((check.__doc__ or '').split())}\n{kind}{error}") from error

        LAWS.append(checked)
        return checked

    return add


def extend_in_pieces(mixer: Mixer[Any], x: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Any]:
    """Outputs and state after `extend` over pieces of these lengths, from the initial state."""
    state, outputs = mixer.initial_state(len(x)), []
    for piece in x[:, : sum(lengths)].split(list(lengths), 1):
        y, state = mixer.extend(piece, state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


def clone(state: Any) -> Any:
    return pytree.tree_map(torch.clone, state)


def assert_same(actual: Any, expected: Any, what: str) -> None:
    """Tensors, or states and dictionaries of them, equal to 1e-9, shapes and dtypes included."""
    found, wanted = pytree.tree_structure(actual), pytree.tree_structure(expected)
    assert found == wanted, f"{what}: it is {found}, not {wanted}"
    assert_close(actual, expected, rtol=1e-9, atol=1e-9, msg=lambda message: f"{what}.\n{message}")
