"""Files that are made once, however many processes ask for them."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

T = TypeVar("T")
LAYOUT = "2"  # part of every name in the cache: to be raised when cleaning, splitting or the files change
MISSING_OR_DAMAGED = OSError, ValueError, TypeError


def default_cache() -> Path:
    """The folder for all that is kept between runs: LIT_MIXERS_CACHE, else `~/.cache/lit-mixers`."""
    return Path(os.environ.get("LIT_MIXERS_CACHE") or "~/.cache/lit-mixers").expanduser()


def cached_path(folder: Path, suffix: str, *facts: str) -> Path:
    """The path of a file that depends on these facts alone."""
    return folder / (hashlib.sha256("\0".join((LAYOUT, *facts)).encode()).hexdigest() + suffix)


def built_once(path: Path, read: Callable[[Path], T], build: Callable[[Path], T]) -> T:
    """What `read` reads at `path`, else what `build` makes there; one process builds, others wait and read it."""
    with suppress(*MISSING_OR_DAMAGED):
        return read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        with suppress(*MISSING_OR_DAMAGED):
            return read(path)
        return build(path)


def replace_text(path: Path, text: str) -> None:
    """Writes a file in one step, so that nobody ever reads half of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
