"""What any data for a language model offers: a tokenizer, batches in a reproducible order, and the position in it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from pytorch_lightning import LightningDataModule
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lit_modules.data.batches import Loader, Share, SizedLoader, share_of_batch, shuffled_batches
from lit_modules.data.tokenizer import Tokenizer
from lit_modules.lightning_internals import batches_done
from mixers.checks import UsageError


class Samples(Protocol):
    """A data set of known length, as torch's loaders take it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Batch(NamedTuple):
    """Ids that are read, and the id to predict after each of them; -100 where nothing is predicted."""

    inputs: Tensor  # (batch, time), int64
    targets: Tensor  # (batch, time), int64


def as_batch(batch: Any) -> Batch:
    """Inputs and targets of a pair, or of ids (batch, time + 1), of which each but the first is predicted."""
    return Batch(batch[:, :-1], batch[:, 1:]) if isinstance(batch, Tensor) else Batch(*batch)


class LanguageData(LightningDataModule, ABC):
    """Data that a language model is trained on: what the model, the trainer and checkpoints use of it.

    The training order depends on `seed` alone: it is the same on any number of processes and workers, and a resumed
    run goes on with the very next sample. A subclass sets `corpus` and `batch_size`, and has the options `seed`,
    `num_workers` and `tokenizer` among its `hparams`.
    """

    has_text: ClassVar[bool] = True  # whether the ids are those of text, which a model trained on them can write
    changeable_options: ClassVar[frozenset[str]] = frozenset()  # with which a run may be resumed at other values
    corpus: str  # what messages and tables call the data
    batch_size: int  # samples in a batch, over all processes together
    _resumed_samples = _resumed_batches = 0

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, trained or read when first asked for."""

    @abstractmethod
    def samples(self, split: Literal["train", "validation"]) -> Samples:
        """The samples of a split, each a tensor of ids (time + 1,) or a `Batch` without its first dimension."""

    @abstractmethod
    def order(self) -> dict[str, Any]:
        """All that the samples and their training order depend on, as plain values."""

    @property
    @abstractmethod
    def validation_digest(self) -> str:
        """What val/loss is measured on: equal digests mean that two of them can be compared."""

    @property
    def vocab_size(self) -> int:
        """How many ids the tokenizer has."""
        return self.tokenizer.vocab_size

    @property
    def start_token(self) -> int | None:
        """The id that begins a document for the model; None if each row is mixed as a whole."""
        return None

    @property
    def validation_weights(self) -> dict[str, float]:
        """The share of each validation loader in val/loss, by the name of its part of the data."""
        return {"": 1.0}

    @property
    def samples_seen(self) -> int:
        """Samples trained on so far, by all processes together."""
        return self._resumed_samples + (batches_done(self.trainer) - self._resumed_batches) * self.batch_size

    def prepare_data(self) -> None:
        """Prepares the samples that the trainer needs."""
        if self.fitting:
            self.samples("train")
        self.samples("validation")

    def setup(self, stage: str) -> None:
        """Finds the samples, and begins at the first if the trainer is new."""
        self.prepare_data()
        if batches_done(self.trainer) == 0:  # what an earlier trainer resumed from no longer counts
            self._resumed_samples = self._resumed_batches = 0

    def train_dataloader(self) -> Iterable[Any]:
        """Endless batches of this process, beginning with the first sample not yet seen."""
        samples, share = self.samples("train"), self.share()

        def batches() -> Iterator[list[int]]:
            return self.batches_from(0 if self.overfits else self.samples_seen, share)

        return Loader(samples, batches, num_workers=self.hparams["num_workers"])

    def batches_from(self, start: int, share: Share) -> Iterator[list[int]]:
        """The training samples in each batch of this process, without end from sample `start` on."""
        return shuffled_batches(len(self.samples("train")), seed=self.hparams["seed"], start=start, **share)

    def val_dataloader(self) -> SizedLoader | list[SizedLoader]:
        """All validation samples once, of which this process has every world-size-th."""
        return SizedLoader(self.samples("validation"), **self.share(), num_workers=self.hparams["num_workers"])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds under the class's name: the tokenizer, the training order and the position in it."""
        position = {"samples_seen": self.samples_seen, "batches": batches_done(self.trainer)}
        tokenizer, validation = self.tokenizer.to_json(), self.validation_digest
        return {"tokenizer": tokenizer, "validation": validation, **position, **self.order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the checkpoint stopped; says so if the order has changed and therefore starts anew.

        Raises:
            UsageError: If the checkpoint was trained with another tokenizer.
        """
        if Tokenizer.from_json(state_dict["tokenizer"]) != self.tokenizer:
            raise UsageError(
                f"tokenizer={self.hparams['tokenizer']!r} on corpus={self.corpus!r} is not the tokenizer this "
                "checkpoint was trained with: write the checkpoint's path there to use its own."
            )
        if not self.fitting:
            return
        if state_dict.get("validation", self.validation_digest) != self.validation_digest:
            rank_zero_info(
                "The validation data is not the checkpoint's: val/loss cannot be compared with that of the run so far."
            )
        if changed := ", ".join(name for name, value in self.order().items() if state_dict.get(name) != value):
            rank_zero_info(f"The training order starts anew, since these are not the checkpoint's: {changed}.")
        self._resumed_samples = 0 if changed else state_dict["samples_seen"]
        self._resumed_batches = state_dict["batches"]

    @property
    def overfits(self) -> bool:
        """Whether the trainer asks for the same batches in every epoch."""
        return self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]

    @property
    def fitting(self) -> bool:
        """Whether the training split is needed: always but in a trainer that only evaluates."""
        return self.trainer is None or self.trainer.state.fn in (None, TrainerFn.FITTING)

    def share(self) -> Share:
        """What part of a batch this process has."""
        return share_of_batch(self.batch_size, self.trainer)
