"""What the laws share: a mixer and an input to try it on, and the ways to say that results are equal."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from mixers.mixer import Mixer

Build = Callable[[int], Mixer[Any]]

DIM = 32
LENGTH = 150  # no power of two, nor a multiple of a chunk
EXACT = 1e-9


def make_mixer(build: Build) -> Mixer[Any]:
    """The mixer in float64, with the same weights each time."""
    torch.manual_seed(0)
    return build(DIM).double()


def make_input(*, rows: int, length: int = LENGTH) -> Tensor:
    """Normal numbers, (rows, length, DIM), in float64."""
    return torch.randn(rows, length, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def extend_in_pieces(mixer: Mixer[Any], x: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Any]:
    """Outputs and state after `extend` over pieces of these lengths, from the initial state."""
    state, outputs = mixer.initial_state(len(x)), []
    for piece in x[:, : sum(lengths)].split(list(lengths), 1):
        y, state = mixer.extend(piece, state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


def clone(state: Any) -> Any:
    return pytree.tree_map(torch.clone, state)


def assert_same(actual: Tensor, expected: Tensor, what: str) -> None:
    """Equal to 1e-9; `what` says how they may differ, and what to look for."""
    assert_close(actual, expected, rtol=EXACT, atol=EXACT, msg=lambda message: f"{what}.\n{message}")


def assert_same_states(actual: Any, expected: Any, what: str) -> None:
    """Equal leaf by leaf, shapes and dtypes included."""
    leaves, structure = pytree.tree_flatten(actual)
    expected_leaves, expected_structure = pytree.tree_flatten(expected)
    assert structure == expected_structure, f"{what}: the state is {structure}, not {expected_structure}"
    for leaf, expected_leaf in zip(leaves, expected_leaves, strict=True):
        assert_same(leaf, expected_leaf, what)


@contextmanager
def must_work(what: str, advice: str) -> Iterator[None]:
    """Within it an exception becomes an AssertionError that says what failed and what to look for."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{what} raises {type(error).__name__}: {error}\nWhat to look for: {advice}") from error
