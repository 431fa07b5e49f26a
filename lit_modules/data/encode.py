"""A group of a corpus' parts as one file of ids a split, which counts as finished once the facts about it are there."""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from lit_modules.data.cache import MISSING_OR_DAMAGED, replace_text, writing
from lit_modules.data.splits import Part
from lit_modules.data.tokenizer import Tokenizer, pieces, well_formed

BATCH = 2**20  # characters that are encoded at once
READ = 2**20  # bytes of a file that are summed at once
Facts = dict[str, dict[str, Any]]  # of each split: its file's name and sum, and what a TokenFile counts


class Piece(NamedTuple):
    """A piece of a document."""

    split: str
    text: str
    is_last: bool  # of its document


class Writer:
    """The ids of a split, as they come."""

    def __init__(self, path: Path, tokenizer: Tokenizer, opened: BinaryIO) -> None:
        self._path, self._file, self._end, self._dtype = path, opened, tokenizer.end, id_dtype(tokenizer)
        self._tokens = self._bytes = self._documents = self._sum = 0

    def add(self, piece: Piece, ids: np.ndarray) -> None:
        """Writes the ids of a piece, and `end` after the last of a document."""
        stored = (np.append(ids, self._end) if piece.is_last else ids).astype(self._dtype).tobytes()
        self._file.write(stored)
        self._sum = zlib.crc32(stored, self._sum)
        self._tokens += len(ids) + piece.is_last
        self._documents += piece.is_last
        self._bytes += len(piece.text.encode())

    def facts(self) -> dict[str, Any]:
        """What is kept about the file."""
        counts = {"tokens": self._tokens, "bytes": self._bytes, "documents": self._documents}
        return {"file": self._path.name, "sum": self._sum, **counts}


def id_dtype(tokenizer: Tokenizer) -> str:
    """The type that ids are stored as."""
    return "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"


def encode_group(
    parts: Sequence[Part], path: Path, tokenizer: Tokenizer, progress: Callable[[int], object] = lambda size: None
) -> None:
    """Encodes all documents of the parts, and writes the facts about it to `path`.

    Args:
        parts: What is encoded, in this order.
        path: The facts, a .json; the ids are in files beside it, named after this process too, in case a killed run has
            left one that is still at work.
        tokenizer: What encodes them.
        progress: Called with the UTF-8 bytes of each batch.
    """
    writers: dict[str, Writer] = {}
    with ExitStack() as files:
        for batch in _batches(chain.from_iterable(part.read() for part in parts)):
            encoded = tokenizer.encode_arrays([piece.text for piece in batch])
            with writing(path.parent):
                for piece, ids in zip(batch, encoded, strict=True):
                    if piece.split not in writers:
                        bin_path = path.with_suffix(f".{os.getpid()}.{piece.split}.bin")
                        opened = files.enter_context(bin_path.open("wb"))
                        writers[piece.split] = Writer(bin_path, tokenizer, opened)
                    writers[piece.split].add(piece, ids)
            progress(sum(len(piece.text.encode()) for piece in batch))
        with writing(path.parent):
            files.close()  # a full disk may say so only here
    with writing(path.parent):
        replace_text(path, json.dumps({split: writer.facts() for split, writer in writers.items()}))


def finished(path: Path) -> Facts | None:
    """The facts about a group, None if it has to be encoded again."""
    try:
        facts: Facts = json.loads(path.read_text(encoding="utf-8"))
        whole = all(_sum(path.parent / found["file"]) == found["sum"] for found in facts.values())
    except MISSING_OR_DAMAGED:
        return None
    return facts if whole else None


def _sum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(READ):
            total = zlib.crc32(block, total)
    return total


def _batches(documents: Iterable[tuple[str, str]]) -> Iterator[list[Piece]]:
    """Pieces of documents in order, in batches of BATCH characters or little more."""
    batch, size = list[Piece](), 0
    for split, document in documents:
        document = well_formed(document)
        left = len(document)
        for text in pieces(document):
            left -= len(text)
            batch.append(Piece(split, text, left == 0))
            size += len(text)
            if size >= BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch
