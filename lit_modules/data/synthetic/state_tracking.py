"""Parity: the simplest task for which a state has to be kept exactly, however long the example is."""

from typing import Any

import numpy as np

from lit_modules.data.synthetic.parts import Examples, Setting, no_targets
from lit_modules.data.synthetic.task import Task
from mixers.checks import at_least

FILL = 0  # after the end of an example that is shorter than others


class Parity(Task):
    """Whether the number of ones is even or odd, asked at the end (arXiv:2411.12537).

    Id 1 is a zero and id 2 a one, and the answer is that of the sum of all, modulo 2. Examples to train on have any
    length up to `length`, filled up with id 0 at their end; those for validation and test have one length.

    Args:
        min_length: Fewest ids of an example to train on.
        length: Most ids of an example to train on. A list makes a part of each.
        test_length: Ids of an example for validation and test. A list makes a part of each.
        common: Options of all tasks.

    Raises:
        UsageError: If an option is out of range.
    """

    vocab_size = 3

    def __init__(
        self,
        *,
        min_length: int = 3,
        length: int | list[int] = 40,
        test_length: int | list[int] = [40, 64, 128, 256],  # noqa: B006  (jsonargparse shows and copies it)
        **common: Any,
    ) -> None:
        at_least(1, min_length=min_length)
        super().__init__(**common)

    def check(self, setting: Setting) -> None:
        """Raises UsageError where there are no examples of that form."""
        at_least(self.hparams["min_length"], length=setting["length"])

    def make(self, setting: Setting, seed: np.random.SeedSequence, *, training: bool) -> Examples:
        """The examples of a part."""
        draw, shape = np.random.default_rng(seed), (setting["examples"], setting["length"])
        lengths = draw_lengths(draw, *shape, shortest=self.hparams["min_length"] if training else shape[1])
        bits = draw.integers(2, size=shape) * (np.arange(shape[1]) < lengths[:, None])
        inputs = np.where(np.arange(shape[1]) < lengths[:, None], bits + 1, FILL)
        return Examples(inputs, last_target(inputs, lengths, bits.sum(1) % 2 + 1))


def draw_lengths(draw: np.random.Generator, examples: int, longest: int, *, shortest: int) -> np.ndarray:
    """Any lengths from the shortest to the longest: (examples,)."""
    return draw.integers(shortest, longest + 1, size=examples)


def last_target(inputs: np.ndarray, lengths: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The answer (examples,) at the last id of each example, and no other target."""
    targets = no_targets(inputs)
    targets[np.arange(len(inputs)), lengths - 1] = answers
    return targets
