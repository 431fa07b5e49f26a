"""Prompts with responses, and conversations: data for fine-tuning, with the loss on the responses only."""

import hashlib
import inspect
import json
import os
from collections.abc import Iterable
from functools import cached_property
from itertools import chain, compress
from operator import not_
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.utilities import rank_zero_info

from lit_modules.data.base import LanguageData
from lit_modules.data.cache import default_cache
from lit_modules.data.chat import ChatTemplate, Message, messages_of, read_template
from lit_modules.data.examples import Encoded, Examples, TooLong, encode
from lit_modules.data.readers import json_rows
from lit_modules.data.tokenizer import Tokenizer, read_tokenizer
from mixers.checks import MissingFileError, UsageError, at_least, one_of

HELD_OUT_OF = 10  # one conversation in so many is for validation
Split = Literal["train", "validation"]


class Instructions(LanguageData):
    """Prompts with responses, or conversations: the model reads all of them, and learns to predict the responses.

    A row is {"prompt": TEXT, "response": TEXT} or {"messages": [{"role": ROLE, "content": TEXT}, ...]} with the roles
    system, user and assistant; the messages of the assistant are predicted, each closed by the end-of-text token. Each
    conversation is a sequence of its own, filled up to `block_size`.

    Without a file for validation, one conversation in ten is held out, chosen by a hash of its text, so that adding
    others does not move it. All conversations are kept in memory.

    Args:
        corpus: A .jsonl file with a conversation in each row, or a folder of such files. In Python also a list of rows.
        validation: The same for validation; by default a tenth of `corpus`.
        tokenizer: `bytes`, a tokenizer.json file, the tokenizer of a checkpoint (.ckpt file), or a model's name on the
            Hub as `owner/name`; with `init_from` it is that of the checkpoint. In Python also a tokenizer.
        template: A jinja2 chat template, which is given `messages` and `add_generation_prompt`; by default `User:` or
            `Assistant:` on a line before each message.
        block_size: Most tokens to read of a conversation, of which there is one sequence.
        too_long: What becomes of conversations that are longer than `block_size`: `refuse` ends with an error,
            `truncate` cuts their end off, `skip` leaves them out.
        batch_size: Conversations in an optimizer step over all processes together, each of which gets its equal share
            (with the trainer's `accumulate_grad_batches`, in each batch of a step).
        seed: Seed of the training order.
        num_workers: Processes that load batches, for each training process.
        cache_dir: The folder for tokenizers that are downloaded; else the environment variable LIT_MIXERS_CACHE, else
            `~/.cache/lit-mixers`.

    Raises:
        UsageError: If an option is out of range.
    """

    def __init__(
        self,
        corpus: str | list[dict[str, Any]],
        *,
        validation: str | list[dict[str, Any]] | None = None,
        tokenizer: str | Tokenizer = "bytes",
        template: str | None = None,
        block_size: int = 256,
        too_long: TooLong = "refuse",
        batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        at_least(1, block_size=block_size, batch_size=batch_size)
        at_least(0, seed=seed, num_workers=num_workers)
        one_of(("refuse", "truncate", "skip"), too_long=too_long)
        self._source, self._validation = corpus, validation
        self._tokenizer = tokenizer
        self._template = read_template(template)
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache()
        # Objects among the hyperparameters would make a checkpoint that cannot be read without unpickling.
        corpus, validation = _name(corpus), None if validation is None else _name(validation)
        tokenizer = "given" if isinstance(tokenizer, Tokenizer) else os.fspath(tokenizer)
        self.save_hyperparameters(logger=False)
        self.corpus, self.block_size, self.batch_size = corpus, block_size, batch_size

    changeable_options = frozenset(inspect.signature(__init__).parameters) - {"self", "tokenizer"}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read when first asked for."""
        if isinstance(self._tokenizer, Tokenizer):
            return self._tokenizer
        if self._tokenizer == "bpe":
            raise UsageError(
                "tokenizer='bpe' would be trained on the conversations alone: write the path of a checkpoint or of a "
                "tokenizer.json, or 'bytes'; with init_from leave it out."
            )
        return read_tokenizer(self._tokenizer, cache_dir=self.cache_dir)

    @property
    def chat_template(self) -> ChatTemplate:
        """What conversations are written as."""
        return self._template

    def samples(self, split: Split) -> Examples:
        """The conversations of a split, each a `Batch` of (block_size,)."""
        return self._splits[split]

    def order(self) -> dict[str, Any]:
        """All that the samples and their training order depend on: the conversations' ids, and the seed."""
        return {"content": self.samples("train").content, "seed": self.hparams["seed"]}

    @property
    def validation_digest(self) -> str:
        """What val/loss is measured on: equal digests mean that two of them can be compared."""
        return self.samples("validation").content

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds under "Instructions": also the template, for the prompts that `generate` is given."""
        return {**super().state_dict(), "template": self._template.source}

    @cached_property
    def _splits(self) -> dict[Split, Examples]:
        rows = _conversations(self._source)
        if self._validation is not None:
            return {
                "train": self._examples("train", rows),
                "validation": self._examples("validation", _conversations(self._validation)),
            }
        held_out = [_is_held_out(messages) for _, messages in rows]
        first = list(compress(rows, map(not_, held_out)))
        second = list(compress(rows, held_out))
        if not first or not second:
            raise UsageError(
                f"corpus={self.corpus!r} has {len(rows)} conversations, of which none is for "
                f"{'validation' if first else 'training'}: give more, or name a file for validation in data.validation."
            )
        return {"train": self._examples("train", first), "validation": self._examples("validation", second)}

    def _examples(self, split: Split, rows: list[tuple[str, list[Message]]]) -> Examples:
        encoded: Iterable[Encoded] = encode(rows, self._template, self.tokenizer)
        examples = Examples(encoded, self.block_size, self.hparams["too_long"], end=self.tokenizer.end)
        whose = f"the {'training' if split == 'train' else split} split of corpus={self.corpus!r}"
        if not len(examples):
            raise UsageError(f"{whose} has no conversation of at most data.block_size={self.block_size} tokens.")
        if examples.too_long:
            done = "are cut" if self.hparams["too_long"] == "truncate" else "are left out"
            lost = f", {examples.without_response} of them left out since none of the response remains" * bool(
                examples.without_response
            )
            rank_zero_info(
                f"{examples.too_long:,} of {examples.read:,} conversations in {whose} have more than data.block_size="
                f"{self.block_size} tokens, and {done}{lost}."
            )
        return examples


def _name(source: str | list[dict[str, Any]]) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else f"{len(source)} given conversations"


def _conversations(source: str | list[dict[str, Any]]) -> list[tuple[str, list[Message]]]:
    """All conversations, each with where it is."""
    if not isinstance(source, str | os.PathLike):
        rows: Iterable[tuple[str, Any]] = ((f"corpus[{index}]", row) for index, row in enumerate(source))
    else:
        path = Path(source).expanduser()
        files = (
            sorted(path.rglob("*.jsonl")) if path.is_dir() else [path] * (path.suffix == ".jsonl" and path.is_file())
        )
        if not files:
            raise MissingFileError(
                f"corpus={os.fspath(source)!r} is not there or no .jsonl file: write the path of a .jsonl file with a "
                "prompt and a response in each row, or of a folder of such files."
            )
        rows = chain.from_iterable(map(json_rows, files))
    found = [(where, messages_of(row, where)) for where, row in rows]
    if not found:
        raise UsageError(f"corpus={_name(source)!r} has no rows: give it a prompt and a response in each.")
    return found


def _is_held_out(messages: list[Message]) -> bool:
    digest = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8]) % HELD_OUT_OF == 0
