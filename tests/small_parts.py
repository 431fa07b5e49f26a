"""Parts of small corpora, in a module that a process of a pool imports quickly."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from lit_modules.data.corpora import Part

NAMES = ("train", "validation", "test")
Documents = Iterator[tuple[str, str]]


def part(documents: list[str], split: str = "train") -> Part:
    """A part with these documents in one split."""
    return Part("given", sum(len(document.encode()) for document in documents), partial(_read_list, documents, split))


def numbers(parts: int = 4, each: int = 5) -> list[Part]:
    """Parts with documents of every split in turn."""
    return [Part(f"p{n}", 300, partial(read_numbers, n * each, (n + 1) * each)) for n in range(parts)]


def slow_numbers(folder: Path) -> list[Part]:
    """The same, of which the third and fourth take a minute; each leaves its number and process in a folder."""
    return [Part(f"p{n}", 300, partial(_read_slowly, n, folder)) for n in range(4)]


def deadly() -> Part:
    """A part that kills the process that reads it."""
    return Part("deadly", 1, _read_and_die)


def without_torch(part: Part) -> Part:
    """A part that fails in a process that has imported torch by the time it is read."""
    return Part(part.name, part.size, partial(_read_without_torch, part.read))


def read_numbers(start: int, stop: int) -> Documents:
    """The documents of `numbers`, from one to another."""
    return ((NAMES[number % 3], f"document {number} é\n" * 3) for number in range(start, stop))


def _read_list(documents: list[str], split: str) -> Documents:
    return ((split, document) for document in documents)


def _read_slowly(number: int, folder: Path) -> Documents:
    (folder / f"{number}.{os.getpid()}").touch()
    if number >= 2:
        time.sleep(60)
    yield from read_numbers(number * 5, number * 5 + 5)


def _read_without_torch(read: Callable[[], Documents]) -> Documents:
    yield from read()
    if "torch" in sys.modules:
        raise AssertionError("this process has imported torch")


def _read_and_die() -> Documents:
    os.kill(os.getpid(), signal.SIGKILL)
    yield from ()
