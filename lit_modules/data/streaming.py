"""Data sets that are read while training, without token files: for text that is larger than the disk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lit_modules.data import files
from lit_modules.data.corpora import Corpus, digest
from lit_modules.data.hub import load_rows
from lit_modules.data.packaged import find_reader
from lit_modules.data.readers import check_field, check_text, kind
from lit_modules.data.splits import WANTED, HashRule, Part, hash_rule
from lit_modules.data.tokenizer import Tokenizer, pieces
from mixers.checks import UsageError

WINDOW = 1000  # documents that are shuffled together
BYTES_PER_TOKEN = 6  # of text read for each token of validation and test: more than tokenizers need
BUILDERS = {".jsonl": "json", ".parquet": "parquet"}  # of the `datasets` library
State = dict[str, Any]
START: State = {"epoch": 0, "window": 0, "rows": None, "tokens": torch.zeros(0, dtype=torch.int64), "skip": 0}


@dataclass(frozen=True)
class Stream:
    """A data set of the Hub, or local files, through `datasets.load_dataset(..., streaming=True)`."""

    name: str
    text_field: str

    def splits(self) -> dict[str, Any]:
        """The data set's own splits, none of them read yet; raises UsageError if it cannot be had."""
        if find_reader(self.name) or not (self._is_local() or "/" in self.name):
            raise UsageError(f"streaming=True is for files and data sets of the Hub: corpus={self.name!r} is neither.")
        if not self._is_local():
            return dict(load_rows(self.name, streaming=True))
        _, found = files.find_files(self.name)
        kinds = {kind(file) for file in found}
        if len(kinds) > 1 or not kinds <= BUILDERS.keys():
            raise UsageError(
                f"corpus={self.name!r} has {', '.join(sorted(kinds))} files: streaming=True takes either .jsonl or "
                ".parquet files."
            )
        builder, data_files = BUILDERS[kinds.pop()], [str(file) for file in found]
        return dict(load_rows(builder, data_files=data_files, streaming=True))

    @cached_property
    def content(self) -> str:
        """A digest that changes when local files do; of the Hub only the name is known."""
        found = files.fingerprint(*files.find_files(self.name)) if self._is_local() else []
        return digest(["stream", self.name, self.text_field, *found])

    def documents(self, rows: Any) -> Iterator[str]:
        """The documents of some rows, as they come."""
        where = f"corpus={self.name!r}"
        for row in self._rows(rows):
            if self.text_field not in row:
                check_field(row, self.text_field, where)
            if (document := check_text(row[self.text_field], self.text_field, where)) and not document.isspace():
                yield document

    def _is_local(self) -> bool:
        return files.is_path(self.name) or files.is_pattern(self.name) or Path(self.name).expanduser().exists()

    def _rows(self, rows: Any) -> Iterator[Any]:
        try:
            yield from rows
        except Exception as error:  # of the library, of the network, of the files: many kinds, and one thing to say
            reason = " ".join(str(error.__cause__ or error).split())
            raise UsageError(f"corpus={self.name!r} cannot be read on ({reason}): mend that and go on.") from error

    def rule(self) -> HashRule:
        """Which documents of its training rows are held out: a tenth for each split that it has none of."""
        own = self.splits()
        return hash_rule(0, [split for split in WANTED if split not in own])

    def held_out(self, most: int) -> Iterator[tuple[str, str]]:
        """The first documents that are held out, with their split, of so many bytes in each."""
        own, rule = self.splits(), self.rule()
        for split in own.keys() & set(WANTED):
            yield from _first(((split, document) for document in self.documents(own[split])), {split}, most)
        found = ((rule.split(document), document) for document in self.documents(own["train"]))
        yield from _first(found, set(rule.wanted), most)

    def training(self, rows: Any, rule: HashRule) -> Iterator[str]:
        """The training documents of some rows, as they come."""
        return (document for document in self.documents(rows) if rule.split(document) == "train")


@dataclass(frozen=True)
class StreamedCorpus(Corpus):
    """A corpus whose training split is read as it is trained on; the others are the beginnings of theirs."""

    stream: Stream

    def documents(self, split: str) -> Iterator[str]:
        if split != "train":
            return super().documents(split)
        return self.stream.training(self.stream.splits()["train"], self.stream.rule())


def check_streaming(corpus: object, val_tokens: int | None) -> None:
    """Raises UsageError for what cannot be streamed."""
    if not isinstance(corpus, str):
        raise UsageError("streaming=True takes one corpus, neither documents nor a mixture: write its name.")
    if val_tokens is None:
        raise UsageError("streaming=True with val_tokens=None would read all of the stream: write a number of tokens.")


def stream_corpus(name: str, *, text_field: str, val_tokens: int) -> StreamedCorpus:
    """The corpus of that name, to be streamed; raises UsageError if it cannot be."""
    stream = Stream(name, text_field)
    key = digest([stream.content, str(val_tokens)])
    if "train" not in (own := stream.splits()):
        raise UsageError(f"corpus={name!r} has no split named 'train', only {', '.join(own)}: choose another.")
    part = Part(name, 0, partial(stream.held_out, val_tokens * BYTES_PER_TOKEN))
    return StreamedCorpus(name, key, ("train", *WANTED), partial(list, [part]), partial(list, [part]), stream)


@dataclass(eq=False)
class StreamBatches(IterableDataset[tuple[Tensor, State]]):
    """The batches of one process, each with the state to go on from after it.

    Documents are shuffled in windows of WINDOW, tokenised, and cut into blocks. Every process reads the whole stream,
    so that the order of the blocks is the same on any number of them.
    """

    stream: Stream
    tokenizer: Tokenizer
    block_size: int
    bos_token: int | None
    seed: int
    batch_size: int  # of all processes together
    rank: int
    world_size: int
    state: State  # where to begin

    def __iter__(self) -> Iterator[tuple[Tensor, State]]:
        blocks, each = self._blocks(self.state), self.batch_size // self.world_size
        while True:
            batch = list(islice(blocks, self.batch_size))
            mine = batch[self.rank * each : (self.rank + 1) * each]
            yield torch.stack([block for block, _ in mine]), batch[-1][1]

    def _blocks(self, state: State) -> Iterator[tuple[Tensor, State]]:
        length = self.block_size + (self.bos_token is None)  # one token is in two blocks: the last and the first
        start = [] if self.bos_token is None else [self.bos_token]
        left, skip = state["tokens"].tolist(), state["skip"]
        for window, documents in self._windows(state):
            window["tokens"], done = torch.tensor(left, dtype=torch.int64), 0
            for document in documents:
                encoded = self.tokenizer.encode_batch(list(pieces(document)))
                tokens = [*left, *chain.from_iterable(encoded), self.tokenizer.end]
                last = len(tokens) - length
                for first in range(0, last + 1, self.block_size):
                    done += 1
                    if done > skip:
                        yield torch.tensor([*start, *tokens[first : first + length]]), {**window, "skip": done}
                left = tokens[max(0, last // self.block_size + 1) * self.block_size :]
            skip = 0

    def _windows(self, state: State) -> Iterator[tuple[State, list[str]]]:
        """Shuffled documents, without end, and where the window begins."""
        rule = self.stream.rule()
        for epoch in count(state["epoch"]):
            rows, window, goes_on = self.stream.splits()["train"], 0, epoch == state["epoch"]
            if goes_on and state["rows"] is not None:
                rows.load_state_dict(state["rows"])
                window = state["window"]
            found = self.stream.training(iter(rows), rule)
            for number in count(window):
                begin = {"epoch": epoch, "window": number, "rows": rows.state_dict() if number else None}
                if not (documents := list(islice(found, WINDOW))):
                    break
                order = np.random.default_rng([self.seed, epoch, number]).permutation(len(documents))
                yield begin, [documents[index] for index in order]
            if number == 0:
                raise UsageError(f"corpus={self.stream.name!r} has no text in its train split: give it more documents.")


class StreamLoader:
    """Batches of a stream without end, loaded in one worker process or none.

    Args:
        stream: The documents.
        tokenizer: What encodes them.
        states: Where to go on after the last batches, by samples seen; it is kept up to date.
        samples_seen: How many have been seen, asked when iteration begins.
        num_workers: Worker processes wanted.
        options: The other options of `StreamBatches`.
    """

    KEPT = 8  # states: of the batches that were fetched ahead, and some before

    def __init__(
        self,
        stream: Stream,
        tokenizer: Tokenizer,
        states: dict[int, State],
        samples_seen: Callable[[], int],
        *,
        num_workers: int,
        **options: Any,
    ) -> None:
        self.states, self.samples_seen, self.num_workers = states, samples_seen, num_workers
        self.batches_from = partial(StreamBatches, stream, tokenizer, **options)

    def __iter__(self) -> Iterator[Tensor]:
        seen = self.samples_seen()
        batches = self.batches_from(state=self.states[seen])
        # More than one worker would each read the whole stream.
        loader = DataLoader(batches, batch_size=None, num_workers=min(1, self.num_workers))
        for batch, state in loader:
            seen += batches.batch_size
            self.states[seen] = state
            for old in list(self.states)[: -self.KEPT]:
                del self.states[old]
            yield batch


def _first(found: Iterator[tuple[str, str]], splits: set[str], most: int) -> Iterator[tuple[str, str]]:
    """What is found of these splits, until each has so many bytes."""
    left = dict.fromkeys(splits, most)
    while left and (pair := next(found, None)) is not None:
        split, document = pair
        if split in left:
            left[split] -= len(document.encode())
            if left[split] <= 0:
                del left[split]
            yield pair
