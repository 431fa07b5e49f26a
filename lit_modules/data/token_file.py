"""A split as one flat file of token ids, written once and memory-mapped from then on."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lit_modules.data.cache import built_once, replace_text
from lit_modules.data.tokenizer import Tokenizer, pieces

BATCH = 2**20  # characters that are encoded at once, in parallel
IDS = 2**22  # ids whose lengths are summed at once
BAR_DELAY = 2  # seconds: a progress bar appears only if tokenising takes longer


@dataclass(frozen=True)
class TokenFile:
    """The token ids of a split, each document followed by the tokenizer's `end`."""

    path: Path
    dtype: str  # what an id is stored as, "uint16" or "uint32"
    tokens: int  # ends included
    bytes: int  # of the documents in UTF-8
    documents: int
    content: str  # a digest of the ids: equal digests mean equal files

    def open(self) -> np.ndarray:
        """The ids, memory-mapped: (tokens,)."""
        return np.memmap(self.path, dtype=self.dtype, mode="r")


def token_file(path: Path, documents: Callable[[], Iterable[str]], tokenizer: Tokenizer) -> TokenFile:
    """The token file at `path`, which is written from `documents` first if it is not there or not whole."""
    return built_once(path, _read, lambda path: _write(path, documents(), tokenizer))


def count_bytes(file: TokenFile, start: int, stop: int, tokenizer: Tokenizer) -> int:
    """The UTF-8 bytes of the text of tokens `start` to `stop`; end tokens have none.

    Exact for byte-level tokenizers, which name a token by one character for each byte; a tokenizer is taken for one if
    all names together have as many characters as the file has bytes. With others, tokens have the file's average.
    """
    lengths = tokenizer.name_lengths()
    if _sum_lengths(file.open(), lengths) == file.bytes:
        return _sum_lengths(file.open()[start:stop], lengths)
    return round(file.bytes * (stop - start) / file.tokens)


def _sum_lengths(ids: np.ndarray, lengths: np.ndarray) -> int:
    return sum(int(lengths[ids[start : start + IDS]].sum()) for start in range(0, len(ids), IDS))


def _read(path: Path) -> TokenFile:
    file = TokenFile(path, **json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    if path.stat().st_size != file.tokens * np.dtype(file.dtype).itemsize:
        raise ValueError(f"{path} is not whole")
    return file


def _write(path: Path, documents: Iterable[str], tokenizer: Tokenizer) -> TokenFile:
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    partial, digest = path.with_suffix(".partial"), hashlib.sha256()
    tokens = size = count = 0
    with partial.open("wb") as file, tqdm(desc="tokenising", unit="B", unit_scale=True, delay=BAR_DELAY) as bar:
        for batch in _batches(documents):
            encoded = tokenizer.encode_batch([text for text, _ in batch])
            for (text, is_last), ids in zip(batch, encoded, strict=True):
                stored = np.array([*ids, tokenizer.end] if is_last else ids, dtype).tobytes()
                file.write(stored)
                digest.update(stored)
                tokens += len(ids) + is_last
                count += is_last
                size += len(text.encode())
            bar.update(size - bar.n)
    written = TokenFile(path, dtype, tokens, size, count, digest.hexdigest())
    facts = {name: value for name, value in asdict(written).items() if name != "path"}
    os.replace(partial, path)
    replace_text(path.with_suffix(".json"), json.dumps(facts))
    return written


def _batches(documents: Iterable[str]) -> Iterator[list[tuple[str, bool]]]:
    """Pieces of documents in batches, and for each piece whether it is the last of its document."""
    batch, size = list[tuple[str, bool]](), 0
    for document in documents:
        left = len(document)
        for piece in pieces(document):
            left -= len(piece)
            batch.append((piece, left == 0))
            size += len(piece)
            if size >= BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch
