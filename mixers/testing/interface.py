"""Laws of use: what is ordinary works, what is wrong is refused, and every option is explained."""

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixers.testing.inputs import (
    DIM,
    Build,
    assert_same_states,
    clone,
    extend_in_pieces,
    make_input,
    make_mixer,
    must_work,
)


class _OtherState(NamedTuple):
    tensor: Tensor


def no_tokens_and_no_rows_are_ordinary(build: Build) -> None:
    """Zero tokens give an empty output and leave the state as it is; zero rows give an empty output and state."""
    mixer, x = make_mixer(build), make_input(rows=2)
    _, state = extend_in_pieces(mixer, x[:, :9], [9])
    advice = "torch.stack of an empty list, reshape(..., -1), a maximum over no elements, x[:, -1] of zero tokens"
    for rows, tokens in ((2, 0), (0, 9), (0, 1)):
        with must_work(f"an input of {rows} rows and {tokens} tokens", advice):
            piece, before = x[:rows, :tokens], state if rows else mixer.initial_state(0)
            whole, (y, after) = mixer(piece), mixer.extend(piece, clone(before))
        for name, output in (("forward", whole), ("extend", y)):
            found = tuple(output.shape[:2])
            assert found == (rows, tokens), f"{name} gives {found} for {rows} rows and {tokens} tokens"
        if tokens == 0:
            assert_same_states(after, before, "extend by zero tokens gives another state")


@torch.no_grad()
def bad_input_is_refused(build: Build) -> None:
    """With a ValueError: another width or rank, integers, a state of other rows or of another type."""
    mixer, x = make_mixer(build), make_input(rows=3)[:, :5]
    state = mixer.extend(x, mixer.initial_state(3))[1]
    for what, wrong in (
        (f"an input of width {DIM + 1}", torch.cat([x, x[..., :1]], -1)),
        ("an input of width 1", x[..., :1]),
        ("an input of 2 dimensions", x[0]),
        ("an input of 4 dimensions", x[None]),
        ("an input of integers", x.long()),
    ):
        _refuses(lambda: mixer(wrong), f"forward of {what}")  # noqa: B023
        _refuses(lambda: mixer.extend(wrong, state), f"extend of {what}")  # noqa: B023
    for what, other in (
        ("no state", None),
        ("a state of another type", _OtherState(x[:, 0])),
        ("a state of 1 row for 3", mixer.initial_state(1)),
        ("a state of 4 rows for 3", mixer.initial_state(4)),
    ):
        _refuses(lambda: mixer.extend(x, other), f"extend with {what}")  # noqa: B023


def every_option_has_a_default_and_a_help_line(build: Build) -> None:
    """The command line shows them; the width comes first, without a default."""
    cls = type(build(DIM))
    width, *options = list(inspect.signature(cls).parameters.values())
    documented = set(re.findall(r"^\s+(\w+): ", inspect.getdoc(cls) or "", re.MULTILINE))
    for option in options:
        assert option.kind is option.KEYWORD_ONLY, f"{option.name} is not keyword-only: write `*, {option.name}`"
        assert option.default is not option.empty, f"{option.name} has no default"
        assert option.name in documented, f"{option.name} has no line under `Args:` in {cls.__name__}'s docstring"
    assert width.default is width.empty, f"the width, {width.name}, has a default"


def _refuses(call: Callable[[], Any], what: str) -> None:
    try:
        call()
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(
            f"{what} raises {type(error).__name__}, not a ValueError that says what is wrong: {error}"
        ) from error
    raise AssertionError(f"{what} is taken without a word: raise a ValueError that says what is wrong")
