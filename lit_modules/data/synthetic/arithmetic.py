"""Modular arithmetic, with and without brackets (arXiv:2207.02098, arXiv:2411.12537)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_modules.data.synthetic.parts import Examples, Setting, stack
from lit_modules.data.synthetic.state_tracking import draw_lengths
from lit_modules.data.synthetic.task import Task
from mixers.checks import UsageError, at_least
from mixers.model.loss import IGNORED

SYMBOLS = "+-*="
BRACKETS = "+-*()="
SHORT = {1: ("", ""), 2: ("-", ""), 3: ("(", ")"), 4: ("(-", ")")}  # what is around a single number, by length


class ModularArithmetic(Task):
    """The value of an arithmetic expression modulo a number, asked at its equals sign (arXiv:2411.12537).

    Numbers have the ids 0 to `modulus` - 1, and the symbols `+-*=`, or `+-*()=` with brackets, and what fills up the
    end follow. Multiplication comes before the rest. Examples to train on have any length up to `length`, filled up at
    their end; those for validation and test have the length that is named. Without brackets, lengths are even.

    Args:
        modulus: The number to compute modulo.
        brackets: Whether each operation is in brackets; without, a finite state is enough.
        operators: Those that there are, of `+-*`.
        min_length: Fewest ids of an example to train on.
        length: Most ids of an example to train on. A list makes a part of each.
        test_length: Ids of an example for validation and test. A list makes a part of each.
        common: Options of all tasks.

    Raises:
        UsageError: If an option is out of range.
    """

    fixed_options = Task.fixed_options | {"modulus", "brackets"}

    def __init__(
        self,
        *,
        modulus: int = 5,
        brackets: bool = False,
        operators: str = "+-*",
        min_length: int = 3,
        length: int | list[int] = 40,
        test_length: int | list[int] = [40, 64, 128, 256],  # noqa: B006  (jsonargparse shows and copies it)
        **common: Any,
    ) -> None:
        at_least(2, modulus=modulus)
        at_least(2, min_length=min_length)
        if not operators or set(operators) - set("+-*") or len(set(operators)) < len(operators):
            raise UsageError(f"operators={operators!r} are not all of + - *, once each: write such as '+-'.")
        super().__init__(**common)

    @property
    def vocab_size(self) -> int:
        """How many ids the task has."""
        return self.hparams["modulus"] + len(self.symbols) + 1

    @property
    def symbols(self) -> str:
        """The symbols, in the order of their ids, which follow those of the numbers."""
        return BRACKETS if self.hparams["brackets"] else SYMBOLS

    def check(self, setting: Setting) -> None:
        """Raises UsageError where there are no examples of that form."""
        at_least(max(self.hparams["min_length"], 2), length=setting["length"])

    def make(self, setting: Setting, seed: np.random.SeedSequence, *, training: bool) -> Examples:
        """The examples of a part."""
        draw, longest = np.random.default_rng(seed), setting["length"]
        lengths = draw_lengths(
            draw, setting["examples"], longest, shortest=self.hparams["min_length"] if training else longest
        )
        return stack(self._example(draw, int(length), longest) for length in lengths)

    def _example(self, draw: np.random.Generator, length: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
        modulus, operators = self.hparams["modulus"], self.hparams["operators"]
        write = bracketed if self.hparams["brackets"] else flat
        expression, value = write(draw, length - 1, modulus, operators)
        ids = [part if isinstance(part, int) else modulus + self.symbols.index(part) for part in [*expression, "="]]
        inputs = np.full(longest, self.vocab_size - 1)
        targets = np.full(longest, IGNORED)
        inputs[: len(ids)], targets[len(ids) - 1] = ids, value
        return inputs, targets


Expression = tuple[list[int | str], int]  # numbers and symbols, and the value


def flat(draw: np.random.Generator, length: int, modulus: int, operators: Sequence[str]) -> Expression:
    """An expression without brackets of at most `length` numbers and symbols."""
    count = (length + 1) // 2
    numbers = draw.integers(modulus, size=count).tolist()
    between = [operators[index] for index in draw.integers(len(operators), size=count - 1)]
    written: list[int | str] = [numbers[0]]
    total, product = 0, numbers[0]
    for operator, number in zip(between, numbers[1:], strict=True):
        written += [operator, number]
        if operator == "*":
            product = product * number % modulus
        else:
            total, product = total + product, number if operator == "+" else -number
    return written, (total + product) % modulus


def bracketed(draw: np.random.Generator, length: int, modulus: int, operators: Sequence[str]) -> Expression:
    """An expression of exactly `length` numbers and symbols, with brackets around each operation."""
    if length in SHORT:
        (before, after), number = SHORT[length], int(draw.integers(modulus))
        return [*before, number, *after], -number % modulus if "-" in before else number
    left_length = int(draw.integers(1, length - 3))
    left, first = bracketed(draw, left_length, modulus, operators)
    right, second = bracketed(draw, length - 3 - left_length, modulus, operators)
    operator = operators[int(draw.integers(len(operators)))]
    value = {"+": first + second, "-": first - second, "*": first * second}[operator] % modulus
    return ["(", *left, operator, *right, ")"], value
