"""What all synthetic tasks share: options, splits, order and tokenizer."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch.utils.data import ConcatDataset

from lit_modules.data.base import Batch, LanguageData
from lit_modules.data.batches import Share, SizedLoader
from lit_modules.data.registry import name_of
from lit_modules.data.synthetic.parts import Examples, Part, Setting, combine, part_batches, part_names
from lit_modules.data.tokenizer import Tokenizer, ids_tokenizer, read_tokenizer
from mixers.checks import UsageError, at_least, fits_memory

Split = Literal["train", "validation", "test"]
HeldOut = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
EXAMPLE_BYTES = 8  # of each position: an input and a target


class Task(LanguageData):
    """A task that is made from random numbers: the ids are no text, and targets are where the task asks something.

    All examples are made when they are first asked for, and kept in memory. Those for training depend on `seed`; those
    for validation and for the test are always the same. A split may have parts, such as several lengths: batches are
    of one part, and each part is measured by itself.

    A subclass makes the examples of a part.

    Args:
        examples: Examples to train on, of each part: a number, or a list with one for each part.
        val_examples: Examples of each part that a validation takes.
        test_examples: Examples of each part that a test takes.
        batch_size: Examples in an optimizer step over all processes together, each of which gets its equal share (with
            the trainer's `accumulate_grad_batches`, in each batch of a step).
        seed: Seed of the training examples and of their order.
        num_workers: Processes that load batches, for each training process.
        tokenizer: `ids`: each id is its own number, as text. A checkpoint of the same task has the same.

    Raises:
        UsageError: If an option is out of range.
    """

    has_text = False
    varying: ClassVar[tuple[str, ...]] = ("length",)  # options that may be lists, with `test_NAME` for other examples
    fixed_options: ClassVar[frozenset[str]] = frozenset({"tokenizer"})  # with which the weights are made

    def __init__(
        self,
        *,
        examples: int | list[int] = 100_000,
        val_examples: int = 1000,
        test_examples: int = 1000,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        tokenizer: str = "ids",
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, val_examples=val_examples, test_examples=test_examples)
        at_least(0, seed=seed, num_workers=num_workers)
        for number in [examples] if isinstance(examples, int) else examples:
            at_least(batch_size, examples=number)
        tokenizer = os.fspath(tokenizer)
        self.save_hyperparameters(logger=False)
        self.corpus, self.batch_size = name_of(type(self)), batch_size
        for split in SPLITS:
            parts = self.settings(split)
            if len(set(map(repr, parts))) < len(parts):
                raise UsageError(f"data={self.corpus!r} has two parts for {split} that are alike: leave one out.")
            for setting in parts:
                self.check(setting)
            size = sum(setting["length"] * setting["examples"] for setting in parts) * EXAMPLE_BYTES
            fits_memory(size, f"data={self.corpus!r} with all its examples")

    def __init_subclass__(cls, **options: Any) -> None:
        """Takes together the options of a task and of those that it is made from."""
        super().__init_subclass__(**options)
        bases = [base for base in cls.__mro__ if issubclass(base, Task)]
        parameters = [parameter for base in bases for parameter in signature(base.__init__).parameters.values()]
        names = {parameter.name for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY}
        cls.changeable_options = frozenset(names - cls.fixed_options)

    @property
    def vocab_size(self) -> int:
        """How many ids the task has: an option of it, unless they follow from others."""
        return self.hparams["vocab_size"]

    @abstractmethod
    def check(self, setting: Setting) -> None:
        """Raises UsageError where there are no examples of that form."""

    @abstractmethod
    def make(self, setting: Setting, seed: np.random.SeedSequence, *, training: bool) -> Examples:
        """The examples of a part, of which there are `setting["examples"]`."""

    def settings(self, split: Split) -> list[Setting]:
        """What the examples of each part of a split have in common; raises UsageError for lists that do not fit."""
        prefix = {"train": "", "validation": "val_", "test": "test_"}[split]
        options = {name: self.hparams[name] for name in self.varying}
        if split != "train":
            asked = {name: self.hparams.get(f"test_{name}") for name in self.varying}
            options |= {name: value for name, value in asked.items() if value is not None}
        return combine({**options, "examples": self.hparams[f"{prefix}examples"]})

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Each id as its own number."""
        own, name = ids_tokenizer(self.vocab_size), self.hparams["tokenizer"]
        if name != "ids" and read_tokenizer(name, cache_dir=Path()) != own:
            raise UsageError(
                f"tokenizer={name!r} does not have the {self.vocab_size} ids of data={self.corpus!r}: leave it out, or "
                "start from a checkpoint of the same task."
            )
        return own

    def parts(self, split: Split) -> list[Part]:
        """The parts of a split."""
        if split not in self._parts:
            found, make = self.settings(split), partial(self.make, training=split == "train")
            root = np.random.SeedSequence(
                self.hparams["seed"] if split == "train" else 0, spawn_key=(SPLITS.index(split),)
            )
            seeds = root.spawn(len(found))
            self._parts[split] = [Part(each, make(each, seed)) for each, seed in zip(found, seeds, strict=True)]
        return self._parts[split]

    @cached_property
    def _parts(self) -> dict[Split, list[Part]]:
        return {}

    def samples(self, split: Split) -> ConcatDataset[Batch]:
        """The examples of all parts, one part after another."""
        return ConcatDataset(self.parts(split))

    def prepare_data(self) -> None:
        """Nothing, since each process makes its own examples."""

    def batches_from(self, start: int, share: Share) -> Iterator[list[int]]:
        """The examples in each batch of this process, of one part each, without end from sample `start` on."""
        return part_batches(list(map(len, self.parts("train"))), seed=self.hparams["seed"], start=start, **share)

    def val_dataloader(self) -> list[SizedLoader]:
        """All validation examples, part by part, of which this process has every world-size-th."""
        return self._loaders("validation")

    def test_dataloader(self) -> list[SizedLoader]:
        """As `val_dataloader`, of the split that `measured` names."""
        return self._loaders(self.measured)

    measured: HeldOut = "test"  # what a test measures

    @property
    def validation_weights(self) -> dict[str, float]:
        """The share of each part in val/loss and val/accuracy, by its name: that of its examples."""
        return part_weights(self.settings("validation"))

    def order(self) -> dict[str, Any]:
        """All that the examples and their order depend on."""
        content = [part.digest for part in self.parts("train")]
        return {"content": content, "seed": self.hparams["seed"], "batch_size": self.batch_size}

    @property
    def validation_digest(self) -> str:
        """What val/loss is measured on: equal digests mean that two of them can be compared."""
        return hashlib.sha256(repr([part.digest for part in self.parts("validation")]).encode()).hexdigest()

    def _loaders(self, split: HeldOut) -> list[SizedLoader]:
        """Batches of each part, of about as many ids as in training."""
        share = self.share()
        ids = self.batch_size * max(setting["length"] for setting in self.settings("train"))
        loaders = []
        for part in self.parts(split):
            each = max(1, ids // part.block_size // share["world_size"])
            batch = Share(**{**share, "batch_size": each * share["world_size"]})
            loaders.append(SizedLoader(part, **batch, num_workers=self.hparams["num_workers"]))
        return loaders


def part_weights(settings: Sequence[Setting]) -> dict[str, float]:
    """The share of each part in all examples, by its name."""
    total = sum(setting["examples"] for setting in settings)
    shares = [setting["examples"] / total for setting in settings]
    return dict(zip(part_names(settings), shares, strict=True))
