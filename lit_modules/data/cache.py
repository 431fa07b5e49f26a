"""Files that are made once, however many processes ask for them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

T = TypeVar("T")


def default_cache() -> Path:
    """The folder for all that is kept between runs: LIT_MIXERS_CACHE, else `~/.cache/lit-mixers`."""
    return Path(os.environ.get("LIT_MIXERS_CACHE") or "~/.cache/lit-mixers").expanduser()


def built_once(path: Path, find: Callable[[Path], T | None], build: Callable[[Path], T]) -> T:
    """What `find` finds at `path`, else what `build` makes there; one process builds, others wait and find it."""
    if found := find(path):
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        return find(path) or build(path)


def replace_text(path: Path, text: str) -> None:
    """Writes a file in one step, so that nobody ever reads half of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
