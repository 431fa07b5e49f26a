"""Token ids in one flat file, memory-mapped; every chunk is compared with its digest when it is first read."""

import hashlib
import mmap
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lit_modules.data.tokenizer import Tokenizer
from mixers.checks import UsageError

CHUNK = 2**20  # bytes that have a digest of their own
IDS = 2**22  # ids whose lengths are summed at once


@dataclass(frozen=True)
class TokenFile:
    """The token ids of a split, each document followed by the tokenizer's `end`."""

    path: Path
    dtype: str  # what an id is stored as, "uint16" or "uint32"
    tokens: int  # ends included
    bytes: int  # of the documents in UTF-8
    documents: int
    content: str  # a digest of the ids: equal digests mean equal files
    chunks: tuple[str, ...] = field(repr=False)  # the digest of each CHUNK bytes, the last of what is left

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.tokens * np.dtype(self.dtype).itemsize

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the documents per token, ends included."""
        return self.bytes / self.tokens

    def open(self) -> "Ids":
        """The ids, memory-mapped."""
        return Ids(self)


class Ids:
    """The ids of a token file: `ids[start:stop]` and `len(ids)`, as of an array.

    Raises:
        ValueError: When what is read is not what was written, or the file has become shorter or is gone.
    """

    def __init__(self, file: TokenFile) -> None:
        self._file = file
        try:
            with file.path.open("rb") as opened:
                self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # it is not there, or empty
            raise self._damaged("cannot be read") from error
        self._check_size()
        self._ids = np.frombuffer(self._map, file.dtype)
        self._checked = np.zeros(len(file.chunks), bool)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, part: slice) -> np.ndarray:
        self._check_size()  # to read a mapped file beyond its end would end the process
        start, stop, _ = part.indices(len(self))
        width = self._ids.itemsize
        for chunk in range(start * width // CHUNK, -(-stop * width // CHUNK) if stop > start else 0):
            if not self._checked[chunk]:
                self._check(chunk)
        return self._ids[part]

    def tolist(self) -> list[int]:
        """All ids."""
        return self[:].tolist()

    def _check(self, chunk: int) -> None:
        if digest(self._map[chunk * CHUNK : (chunk + 1) * CHUNK]) != self._file.chunks[chunk]:
            raise self._damaged("is damaged: its content is not what was written")
        self._checked[chunk] = True

    def _check_size(self) -> None:
        if self._map.size() != self._file.size:
            raise self._damaged("is damaged: it has another length than was written")

    def _damaged(self, what: str) -> UsageError:
        name = str(self._file.path)
        return UsageError(f"the token file {name!r} {what}; delete it and start again, then it is made anew.")


def digest(data: bytes) -> str:
    """What a chunk is recognised by."""
    return hashlib.sha256(data).hexdigest()


def count_bytes(file: TokenFile, spans: Iterable[tuple[int, int]], tokenizer: Tokenizer) -> int:
    """The UTF-8 bytes of the text of the tokens from each start to its stop; end tokens have none.

    Exact for byte-level tokenizers, which name a token by one character for each byte; a tokenizer is taken for one if
    all names together have as many characters as the file has bytes. With others, tokens have the file's average.
    """
    lengths, ids = tokenizer.name_lengths(), file.open()
    if _sum_lengths(ids, 0, len(ids), lengths) == file.bytes:
        return sum(_sum_lengths(ids, start, stop, lengths) for start, stop in spans)
    return round(file.bytes * sum(stop - start for start, stop in spans) / file.tokens)


def _sum_lengths(ids: Ids, start: int, stop: int, lengths: np.ndarray) -> int:
    return sum(int(lengths[ids[at : min(at + IDS, stop)]].sum()) for at in range(start, stop, IDS))
