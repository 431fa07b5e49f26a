"""Selective copying and induction heads, as in the papers of Mamba (arXiv:2312.00752) and MAD (arXiv:2403.17844)."""

from typing import Any

import numpy as np

from lit_modules.data.synthetic.parts import Examples, Setting, no_targets
from lit_modules.data.synthetic.task import Task
from mixers.checks import UsageError, at_least


class SelectiveCopying(Task):
    """Ids with any number of blanks between them, to be given back without these (arXiv:2312.00752, arXiv:2403.17844).

    The ids with the blanks are followed by the highest id and by as many blanks as there are ids, where the answers
    are the ids in their order. The blank is the highest id but one, and there are at least four ids. The defaults are
    MAD's; Mamba's paper has `length=4096`.

    Args:
        vocab_size: Ids, of which two have these uses.
        length: Ids in an example. A list makes a part of each.
        test_length: The same for validation and test; by default `length`.
        num_tokens: Ids to give back. A list makes a part of each.
        test_num_tokens: The same for validation and test; by default `num_tokens`.
        uniform: Whether the ids are at any places alike, as in Mamba's paper; otherwise each blank is put before an id
            that is drawn for it, as MAD has it, so that the last id is next to the question.
        examples: Examples to train on, of each part.
        common: Options of all tasks.

    Raises:
        UsageError: If an option is out of range.
    """

    fixed_options = Task.fixed_options | {"vocab_size"}
    varying = ("length", "num_tokens")

    def __init__(
        self,
        *,
        vocab_size: int = 16,
        length: int | list[int] = 256,
        test_length: int | list[int] | None = None,
        num_tokens: int | list[int] = 16,
        test_num_tokens: int | list[int] | None = None,
        uniform: bool = False,
        examples: int | list[int] = 12_800,
        **common: Any,
    ) -> None:
        super().__init__(examples=examples, **common)

    def check(self, setting: Setting) -> None:
        """Raises UsageError where there are no examples of that form."""
        at_least(4, vocab_size=self.vocab_size)
        at_least(1, num_tokens=setting["num_tokens"])
        if setting["length"] < (least := 2 * setting["num_tokens"] + 1):
            raise UsageError(
                f"length={setting['length']} has no room for num_tokens={setting['num_tokens']}: write {least} or more."
            )

    def make(self, setting: Setting, seed: np.random.SeedSequence, *, training: bool) -> Examples:
        """The examples of a part."""
        draw, examples, tokens = np.random.default_rng(seed), setting["examples"], setting["num_tokens"]
        before = setting["length"] - tokens - 1  # ids and blanks
        copied = draw.integers(self.vocab_size - 2, size=(examples, tokens))
        inputs = np.full((examples, setting["length"]), self.vocab_size - 2)
        inputs[:, before] = self.vocab_size - 1
        np.put_along_axis(inputs, self._places(draw, examples, tokens, before), copied, axis=1)
        targets = no_targets(inputs)
        targets[:, before + 1 :] = copied
        return Examples(inputs, targets)

    def _places(self, draw: np.random.Generator, examples: int, tokens: int, before: int) -> np.ndarray:
        """Where the ids are: (examples, tokens), rising."""
        if self.hparams["uniform"]:
            return np.sort(draw.random((examples, before)).argsort(axis=1)[:, :tokens], axis=1)
        id_after_blank = draw.integers(tokens, size=(examples, before - tokens))
        blanks = (id_after_blank[:, :, None] <= np.arange(tokens)).sum(1)  # before each id
        return np.arange(tokens) + blanks


class InductionHeads(Task):
    """The id that followed a special id, when that comes again at the end (arXiv:2212.14052, arXiv:2312.00752).

    The special id is the highest. It comes once among the others, at any place, and as the last id, where the answer is
    the id that followed it.

    Args:
        vocab_size: Ids, with the special one.
        length: Ids in an example. A list makes a part of each.
        test_length: The same for validation and test; by default `length`.
        common: Options of all tasks.

    Raises:
        UsageError: If an option is out of range.
    """

    fixed_options = Task.fixed_options | {"vocab_size"}

    def __init__(
        self,
        *,
        vocab_size: int = 16,
        length: int | list[int] = 256,
        test_length: int | list[int] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)

    def check(self, setting: Setting) -> None:
        """Raises UsageError where there are no examples of that form."""
        at_least(3, vocab_size=self.vocab_size, length=setting["length"])

    def make(self, setting: Setting, seed: np.random.SeedSequence, *, training: bool) -> Examples:
        """The examples of a part."""
        draw, examples, length = np.random.default_rng(seed), setting["examples"], setting["length"]
        inputs = draw.integers(self.vocab_size - 1, size=(examples, length))
        first, rows = draw.integers(length - 2, size=examples), np.arange(examples)
        inputs[rows, first] = inputs[:, -1] = self.vocab_size - 1
        targets = no_targets(inputs)
        targets[:, -1] = inputs[rows, first + 1]
        return Examples(inputs, targets)
