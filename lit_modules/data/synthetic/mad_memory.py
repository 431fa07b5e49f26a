"""MAD's tasks of memory (arXiv:2403.17844): values that the weights have to keep, and ids that the state has to."""

from typing import Any

import numpy as np

from lit_modules.data.synthetic.parts import Examples, Setting, no_targets
from lit_modules.data.synthetic.task import Task
from mixers.checks import UsageError, at_least


class Memorization(Task):
    """Values that are the same in all examples, and so are kept by the weights (MAD, arXiv:2403.17844).

    An example is keys, of the lower half of the ids, each followed by the highest id, where the answer is the value of
    the key, of the upper half.

    Args:
        vocab_size: Ids: keys, values and the highest, which asks.
        length: Ids in an example, an even number. A list makes a part of each.
        test_length: The same for validation and test; by default `length`.
        examples: Examples to train on, of each part.
        map_seed: Seed of the values of the keys.
        common: Options of all tasks.

    Raises:
        UsageError: If an option is out of range.
    """

    fixed_options = Task.fixed_options | {"vocab_size", "map_seed"}

    def __init__(
        self,
        *,
        vocab_size: int = 256,
        length: int | list[int] = 32,
        test_length: int | list[int] | None = None,
        examples: int | list[int] = 256,
        map_seed: int = 12345,
        **common: Any,
    ) -> None:
        at_least(0, map_seed=map_seed)
        super().__init__(examples=examples, **common)

    def check(self, setting: Setting) -> None:
        """Raises UsageError where there are no examples of that form."""
        at_least(3, vocab_size=self.vocab_size)
        if setting["length"] % 2 or setting["length"] < 2:
            raise UsageError(f"length={setting['length']} is not of whole pairs: write an even number of 2 or more.")

    def make(self, setting: Setting, seed: np.random.SeedSequence, *, training: bool) -> Examples:
        """The examples of a part."""
        draw, shape = np.random.default_rng(seed), (setting["examples"], setting["length"] // 2)
        keys, values = memorized(self.vocab_size, self.hparams["map_seed"])
        asked = draw.integers(len(keys), size=shape)
        inputs = np.full((*shape, 2), self.vocab_size - 1)
        targets = no_targets(inputs)
        inputs[..., 0], targets[..., 1] = keys[asked], values[asked]
        return Examples(*(ids.reshape(shape[0], -1) for ids in (inputs, targets)))


def memorized(vocab_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys and their values as MAD has them, in its order: (keys,) each."""
    draw, half = np.random.default_rng(seed), (vocab_size - 1) // 2
    keys, values = draw.permutation(half), half + draw.permutation(vocab_size - 1 - half)
    return keys, values[:half]


class Compression(Task):
    """All ids of an example again, after the last of them (as MAD's compression, arXiv:2403.17844).

    Random ids are followed by as many times the highest id, where the answers are these ids in their order. MAD instead
    decodes all of them from the output at the first of these by a network of its own, which a language model does not
    have: here a mixer that keeps all that it has read, such as attention, may look back.

    Args:
        vocab_size: Ids, of which the highest is the one that asks.
        length: Random ids with the one that asks: an example has 2 · (`length` - 1) ids. A list makes a part of each.
        test_length: The same for validation and test; by default `length`.
        examples: Examples to train on, of each part.
        common: Options of all tasks.

    Raises:
        UsageError: If an option is out of range.
    """

    fixed_options = Task.fixed_options | {"vocab_size"}

    def __init__(
        self,
        *,
        vocab_size: int = 16,
        length: int | list[int] = 32,
        test_length: int | list[int] | None = None,
        examples: int | list[int] = 12_800,
        **common: Any,
    ) -> None:
        super().__init__(examples=examples, **common)

    def check(self, setting: Setting) -> None:
        """Raises UsageError where there are no examples of that form."""
        at_least(2, vocab_size=self.vocab_size, length=setting["length"])

    def make(self, setting: Setting, seed: np.random.SeedSequence, *, training: bool) -> Examples:
        """The examples of a part."""
        draw, ids = np.random.default_rng(seed), setting["length"] - 1
        read = draw.integers(self.vocab_size - 1, size=(setting["examples"], ids))
        inputs = np.concatenate([read, np.full_like(read, self.vocab_size - 1)], axis=1)
        return Examples(inputs, np.concatenate([no_targets(read), read], axis=1))
