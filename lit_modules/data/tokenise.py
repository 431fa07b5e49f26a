"""A corpus as token files, one a split: encoded once, in parallel, in groups that a killed run need not do again."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lit_modules.data.cache import built_once, replace_text, writing
from lit_modules.data.encode import Facts, encode_group, finished, id_dtype
from lit_modules.data.pool import Group, encode_in_pool, processes
from lit_modules.data.splits import Part
from lit_modules.data.token_file import CHUNK, TokenFile, digest
from lit_modules.data.tokenizer import Tokenizer

GROUP = 2**25  # bytes of parts that are encoded together: some seconds of work, lost when a run is killed
POOL_FROM = 4  # groups: starting processes takes as long as encoding fewer than these
COUNTS = ("tokens", "bytes", "documents")
BAR_DELAY = 2  # seconds: a progress bar appears only if tokenising takes longer


def token_files(path: Path, parts: Sequence[Part], tokenizer: Tokenizer) -> dict[str, TokenFile]:
    """The token file of each split with a document, which are written first if they are not there or not whole.

    Args:
        path: Where the facts about them are kept, a .json; the files lie beside it, `<stem>.<split>.bin`.
        parts: The corpus; the documents of a split follow each other in the order of the parts.
        tokenizer: What encodes them.

    Raises:
        ValueError: If the folder cannot be written, or a process that helps is killed.
    """
    return built_once(path, _read, lambda path: _build(path, parts, tokenizer))


def _read(path: Path) -> dict[str, TokenFile]:
    found = json.loads(path.read_text(encoding="utf-8"))
    files = {
        split: TokenFile(_split_path(path, split), **facts | {"chunks": tuple(facts["chunks"])})
        for split, facts in found.items()
    }
    for file in files.values():
        if file.path.stat().st_size != file.size or len(file.chunks) != -(-file.size // CHUNK):
            raise ValueError(f"{file.path} is not whole")
    return files


def _build(path: Path, parts: Sequence[Part], tokenizer: Tokenizer) -> dict[str, TokenFile]:
    with writing(path.parent):
        _folder(path).mkdir(exist_ok=True)
    groups = [([*parts[start:stop]], _folder(path) / f"{start:07}-{stop:07}.json") for start, stop in _groups(parts)]
    todo = [(group, where) for group, where in groups if finished(where) is None]
    total = _size(parts) if all(part.size for part in parts) else None
    _encode(todo, tokenizer, _size(parts) - sum(_size(group) for group, _ in todo), total)
    with writing(path.parent):
        files = _join(path, [json.loads(where.read_text(encoding="utf-8")) for _, where in groups], id_dtype(tokenizer))
        replace_text(path, json.dumps({split: _facts(file) for split, file in files.items()}))
        shutil.rmtree(_folder(path))
    return files


def _groups(parts: Sequence[Part]) -> Iterator[tuple[int, int]]:
    """Where parts of GROUP bytes together, or little more, begin and stop; one whose size is not known ends a group."""
    start = size = 0
    for stop, part in enumerate(parts, start=1):
        size += part.size
        if part.size == 0 or size >= GROUP or stop == len(parts):
            yield start, stop
            start, size = stop, 0


def _encode(groups: Sequence[Group], tokenizer: Tokenizer, done: int, total: int | None) -> None:
    """Encodes groups, shown by a bar of the corpus' bytes, of which some are done."""
    sizes = [_size(parts) for parts, _ in groups]
    with tqdm(desc="tokenising", total=total, initial=done, unit="B", unit_scale=True, delay=BAR_DELAY) as bar:
        if len(groups) >= POOL_FROM and processes(len(groups)) > 1:
            for index in encode_in_pool(groups, tokenizer):
                bar.update(sizes[index])
            return
        for (parts, where), size in zip(groups, sizes, strict=True):
            before = bar.n
            encode_group(parts, where, tokenizer, bar.update)
            if size:  # a file has other bytes than its text
                bar.update(before + size - bar.n)


def _join(path: Path, groups: list[Facts], dtype: str) -> dict[str, TokenFile]:
    """Puts the groups' ids together, and says what is in the files."""
    files = {}
    for split in sorted({split for group in groups for split in group}):
        found = [group[split] for group in groups if split in group]
        counts = {name: sum(facts[name] for facts in found) for name in COUNTS}
        joined, content, chunks = _split_path(path, split), hashlib.sha256(), list[str]()
        partial = joined.with_suffix(".partial")
        with partial.open("wb") as file:
            for chunk in _chunks(_folder(path) / facts["file"] for facts in found):
                file.write(chunk)
                content.update(chunk)
                chunks.append(digest(chunk))
        os.replace(partial, joined)
        files[split] = TokenFile(joined, dtype, **counts, content=content.hexdigest(), chunks=tuple(chunks))
    return files


def _chunks(paths: Iterable[Path]) -> Iterator[bytes]:
    """The content of files, one after another, in pieces of CHUNK bytes."""
    chunk = b""
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(CHUNK - len(chunk)):
                chunk += block
                if len(chunk) == CHUNK:
                    yield chunk
                    chunk = b""
    if chunk:
        yield chunk


def _size(parts: Sequence[Part]) -> int:
    return sum(part.size for part in parts)


def _folder(path: Path) -> Path:
    return path.with_suffix(".groups")


def _split_path(path: Path, split: str) -> Path:
    return path.with_suffix(f".{split}.bin")


def _facts(file: TokenFile) -> dict[str, Any]:
    return {name: value for name, value in asdict(file).items() if name != "path"}
