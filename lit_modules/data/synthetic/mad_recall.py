"""MAD's recall tasks (arXiv:2403.17844): pairs of a key and a value, keys come again, and so do their values."""

from functools import partial
from typing import Any

import numpy as np

from lit_modules.data.synthetic.parts import Examples, Setting, stack
from lit_modules.data.synthetic.task import Task
from mixers.checks import UsageError, at_least, between
from mixers.model.loss import IGNORED


class InContextRecall(Task):
    """Recall of values by keys that come many times (MAD, arXiv:2403.17844).

    An example is pairs of a key, of the lower half of the ids, and a value, of the upper half: each key has a value of
    its own in each example, and the last pair is of a key seen before. In training each next id is predicted, as by a
    language model; in validation and test the values of keys that were seen before.

    Args:
        vocab_size: Ids, half of them keys.
        length: Ids in an example, an even number. A list makes a part of each.
        test_length: The same for validation and test; by default `length`.
        examples: Examples to train on, of each part.
        common: Options of all tasks.

    Raises:
        UsageError: If an option is out of range.
    """

    fixed_options = Task.fixed_options | {"vocab_size"}
    noise_ids, noise = 0, 0.0

    def __init__(
        self,
        *,
        vocab_size: int = 16,
        length: int | list[int] = 128,
        test_length: int | list[int] | None = None,
        examples: int | list[int] = 12_800,
        **common: Any,
    ) -> None:
        super().__init__(examples=examples, **common)

    def check(self, setting: Setting) -> None:
        """Raises UsageError where there are no examples of that form."""
        at_least(4 + self.noise_ids, vocab_size=self.vocab_size)
        if setting["length"] % 2 or setting["length"] < 4:
            raise UsageError(f"length={setting['length']} is not of whole pairs: write an even number of 4 or more.")

    def make(self, setting: Setting, seed: np.random.SeedSequence, *, training: bool) -> Examples:
        """The examples of a part."""
        make_one = partial(
            recall,
            np.random.default_rng(seed),
            ids=self.vocab_size - self.noise_ids,
            length=setting["length"],
            noise_ids=self.noise_ids,
            noise=self.noise,
            training=training,
        )
        return stack(make_one() for _ in range(setting["examples"]))


class NoisyRecall(InContextRecall):
    """`in_context_recall` with some of the pairs replaced by noise (MAD, arXiv:2403.17844).

    Args:
        vocab_size: Ids, with those of the noise, which are the highest.
        noise_ids: Ids of the noise.
        noise: The probability that a pair is replaced by two ids of the noise.
        common: Options of `in_context_recall`.

    Raises:
        UsageError: If an option is out of range.
    """

    fixed_options = InContextRecall.fixed_options | {"noise_ids"}

    def __init__(self, *, vocab_size: int = 32, noise_ids: int = 16, noise: float = 0.2, **common: Any) -> None:
        at_least(1, noise_ids=noise_ids)
        between(0, 0.99, noise=noise)
        self.noise_ids, self.noise = noise_ids, noise
        super().__init__(vocab_size=vocab_size, **common)


def recall(
    draw: np.random.Generator, *, ids: int, length: int, noise_ids: int, noise: float, training: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What MAD's generator makes with several queries: inputs and targets, (length - 1,) each.

    Args:
        draw: The random numbers.
        ids: Keys and values together; the noise has the ids above.
        length: Ids in the pairs.
        noise_ids: Ids of the noise.
        noise: Its probability.
        training: Whether every next id is a target.
    """
    half, pairs = ids // 2, length // 2
    value_of: dict[int, int] = {}
    read, asked = list[int](), list[int]()
    kept = draw.integers(pairs)  # a pair that is no noise
    for pair in range(pairs - 1):
        if noise and pair != kept and draw.random() < noise:
            read += (ids + draw.integers(noise_ids, size=2)).tolist()
            asked += [IGNORED, IGNORED]
            continue
        key = int(draw.integers(half))
        is_new = key not in value_of
        if is_new:
            value_of[key] = half + int(draw.integers(ids - half))
        read += [key, value_of[key]]
        asked += [IGNORED, IGNORED if is_new else value_of[key]]
    key = list(value_of)[draw.integers(len(value_of))]
    read += [key, value_of[key]]
    asked += [IGNORED, value_of[key]]
    return np.array(read[:-1]), np.array(read[1:] if training else asked[1:])
