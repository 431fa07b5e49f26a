"""Words of group elements, whose product is asked at every position (arXiv:2404.08819, arXiv:2502.10297)."""

import re
from functools import reduce
from itertools import permutations
from typing import Any

import numpy as np

from lit_modules.data.synthetic.parts import Examples, Setting
from lit_modules.data.synthetic.task import Task
from mixers.checks import UsageError, at_least

LARGEST = 1000  # elements of a group


class GroupWords(Task):
    """The product of all group elements so far, asked at every position (arXiv:2404.08819).

    Ids are the elements of the group, 0 the neutral one; the answer at each position is the product of all elements up
    to it. For `S5` and `A5` this is NC¹-complete; `Z2` is parity, asked at every position.

    Args:
        group: `S3` or `S5` (all permutations of so many things), `A4` or `A5` (the even ones), `Z60` (the numbers
            modulo 60), or a product of such as `A4xZ5`.
        length: Elements in an example. A list makes a part of each.
        test_length: The same for validation and test.
        common: Options of all tasks.

    Raises:
        UsageError: If an option is out of range.
    """

    fixed_options = Task.fixed_options | {"group"}

    def __init__(
        self,
        *,
        group: str = "S3",
        length: int | list[int] = 128,
        test_length: int | list[int] = [128, 256, 512],  # noqa: B006  (jsonargparse shows and copies it)
        **common: Any,
    ) -> None:
        self.table = group_table(group)
        super().__init__(**common)

    @property
    def vocab_size(self) -> int:
        """How many ids the task has."""
        return len(self.table)

    def check(self, setting: Setting) -> None:
        """Raises UsageError where there are no examples of that form."""
        at_least(1, length=setting["length"])

    def make(self, setting: Setting, seed: np.random.SeedSequence, *, training: bool) -> Examples:
        """The examples of a part."""
        shape = setting["examples"], setting["length"]
        inputs = np.random.default_rng(seed).integers(len(self.table), size=shape)
        targets, product = np.empty_like(inputs), np.zeros(len(inputs), np.int64)
        for time in range(shape[1]):
            product = targets[:, time] = self.table[product, inputs[:, time]]
        return Examples(inputs, targets)


def group_table(name: str) -> np.ndarray:
    """The product of each element, by row, with each other, by column; the neutral element is 0.

    Raises:
        UsageError: The name is of no group, or of one with too many elements.
    """
    parts = name.split("x")
    if not all(re.fullmatch("[SAZ][1-9][0-9]{0,2}", part) for part in parts):
        raise UsageError(f"group={name!r} is not known: write such as S3, A5, Z60 or A4xZ5.")
    tables = [_table(part[0], int(part[1:]), name) for part in parts]
    return reduce(_product, tables)


def _table(kind: str, number: int, name: str) -> np.ndarray:
    largest = LARGEST if kind == "Z" else 6
    if number > largest:
        raise UsageError(f"group={name!r} is too large: write at most S6, A6 or Z{LARGEST}.")
    if kind == "Z":
        return np.add.outer(np.arange(number), np.arange(number)) % number
    elements = [p for p in permutations(range(number)) if kind == "S" or _is_even(p)]
    index = {element: i for i, element in enumerate(elements)}
    return np.array([[index[tuple(first[i] for i in second)] for second in elements] for first in elements])


def _is_even(permutation: tuple[int, ...]) -> bool:
    pairs = [(a, b) for i, a in enumerate(permutation) for b in permutation[i + 1 :]]
    return sum(a > b for a, b in pairs) % 2 == 0


def _product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The table of a direct product, whose element (a, b) has the index a · len(second) + b."""
    size = len(first) * len(second)
    if size > LARGEST:
        raise UsageError(f"group has {size} elements, too many: write one of at most {LARGEST}.")
    a, b = np.divmod(np.arange(size), len(second))
    return first[np.ix_(a, a)] * len(second) + second[np.ix_(b, b)]
