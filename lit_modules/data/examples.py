"""Conversations as token ids, of which some are predicted: one sequence each, all of one length."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from lit_modules.data.base import Batch
from lit_modules.data.chat import ChatTemplate, Message
from lit_modules.data.tokenizer import Tokenizer
from mixers.checks import UsageError
from mixers.model.loss import IGNORED

TooLong = Literal["refuse", "truncate", "skip"]
TOGETHER = 1000  # conversations that are encoded at once, in parallel


class Encoded(NamedTuple):
    """The ids of a conversation, and which of them the model is to predict."""

    where: str  # what errors call it
    ids: np.ndarray  # (tokens,)
    predicted: np.ndarray  # (tokens,), bool


def encode(
    conversations: Iterable[tuple[str, list[Message]]], template: ChatTemplate, tokenizer: Tokenizer
) -> Iterator[Encoded]:
    """The conversations as ids: answers are predicted, with the end token after each; what is between them is read.

    An answer is encoded apart from what precedes it, as it is when the model is to answer.
    """
    remaining = iter(conversations)
    while group := list(islice(remaining, TOGETHER)):
        parts = [list(template.parts(messages)) for _, messages in group]
        texts = iter(tokenizer.encode_batch(list(chain.from_iterable(chain.from_iterable(parts)))))
        for (where, _), turns in zip(group, parts, strict=True):
            ids, predicted = list[int](), list[bool]()
            for _ in turns:
                before, answer = next(texts), [*next(texts), tokenizer.end]
                ids += before + answer
                predicted += [False] * len(before) + [True] * len(answer)
            yield Encoded(where, np.array(ids, np.int32), np.array(predicted, bool))


class Examples(Dataset[Batch]):
    """Sequences of `block_size` tokens, one a conversation, filled up with end tokens that are not predicted.

    Args:
        encoded: The conversations.
        block_size: Tokens to predict after, so that a conversation may have one more.
        too_long: What becomes of longer ones, as `Instructions` has it.
        end: The id to fill up with.

    Raises:
        UsageError: If one is longer and `too_long` is "refuse".
    """

    def __init__(self, encoded: Iterable[Encoded], block_size: int, too_long: TooLong, *, end: int) -> None:
        self.block_size, self.end = block_size, end
        self.read = self.too_long = self.without_response = 0
        kept, limit, digest = list[Encoded](), block_size + 1, hashlib.sha256()
        longest: Encoded | None = None
        for one in encoded:
            self.read += 1
            if len(one.ids) > limit:
                self.too_long += 1
                longest = max(longest or one, one, key=lambda each: len(each.ids))
                if too_long != "truncate":
                    continue
                one = Encoded(one.where, one.ids[:limit], one.predicted[:limit])
                if not one.predicted[1:].any():
                    self.without_response += 1
                    continue
            kept.append(one)
            digest.update(len(one.ids).to_bytes(8, "little") + one.ids.tobytes() + one.predicted.tobytes())
        if longest and too_long == "refuse":
            raise UsageError(
                f"{self.too_long} of {self.read} conversations are longer than data.block_size={block_size}, "
                f"{longest.where} by most with {len(longest.ids) - 1} tokens: write a larger data.block_size, or "
                "data.too_long=truncate or skip."
            )
        self.content = digest.hexdigest()  # equal digests mean equal samples
        # One array for all, since a list of many would be copied by each worker that looks at it.
        self._starts = np.cumsum([0, *(len(one.ids) for one in kept)])
        self._ids = np.concatenate([one.ids for one in kept]) if kept else np.empty(0, np.int32)
        self._predicted = np.concatenate([one.predicted for one in kept]) if kept else np.empty(0, bool)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Batch:
        """Conversation `index`: ids and targets, (block_size,) each."""
        part = slice(self._starts[index], self._starts[index + 1])
        ids, predicted = self._ids[part], self._predicted[part]
        inputs = np.full(self.block_size, self.end, np.int64)
        targets = np.full(self.block_size, IGNORED, np.int64)
        inputs[: len(ids) - 1] = ids[:-1]
        targets[: len(ids) - 1] = np.where(predicted, ids, IGNORED)[1:]
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets))
