"""Files that are made once, however many processes ask for them."""

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from lit_modules.data.errors import usage_error

T = TypeVar("T")
LAYOUT = "3"  # part of every name in the cache: to be raised when cleaning, splitting or the files change
MISSING_OR_DAMAGED = OSError, ValueError, TypeError, LookupError, AttributeError
# A full disk or quota, a folder that may not be written, a file larger than the disk takes, an unwritable mount.
NOT_WRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EROFS, errno.ENOTDIR}
PATIENCE = 2  # seconds that a process waits for another before it says so
log = logging.getLogger(__name__)


def default_cache() -> Path:
    """The folder for all that is kept between runs: LIT_MIXERS_CACHE, else `~/.cache/lit-mixers`."""
    return Path(os.environ.get("LIT_MIXERS_CACHE") or "~/.cache/lit-mixers").expanduser()


def cached_path(folder: Path, suffix: str, *facts: str) -> Path:
    """The path of a file that depends on these facts alone."""
    return folder / (hashlib.sha256("\0".join((LAYOUT, *facts)).encode()).hexdigest() + suffix)


def built_once(path: Path, read: Callable[[Path], T], build: Callable[[Path], T]) -> T:
    """What `read` reads at `path`, else what `build` makes there; one process builds, others wait and read it.

    The lock is the operating system's: it goes with the process that holds it, however that ends.
    """
    with suppress(*MISSING_OR_DAMAGED):
        return read(path)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(path)
    try:
        with suppress(*MISSING_OR_DAMAGED):
            return read(path)
        return build(path)
    finally:
        lock.release()


def _locked(path: Path) -> FileLock:
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        log.warning("Another run is making %r: waiting for it.", str(path))
        lock.acquire()
    return lock


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns the errors of a disk or folder that cannot be written into a sentence that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise usage_error(
            f"the cache folder {str(folder)!r} cannot be written ({error.strerror}): make room there, or name another "
            "folder in data.cache_dir or the environment variable LIT_MIXERS_CACHE."
        ) from error


def replace_text(path: Path, text: str) -> None:
    """Writes a file in one step, so that nobody ever reads half of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
