"""The format of checkpoint files: what torch.save writes, and a digest with which every byte can be checked."""

import hashlib
import os
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import IO

from mixers.checks import UsageError

# torch writes zip files. Ours end in a comment, which torch reads over, with a digest of all that stands before it.
MARK = b"sha256:"
COMMENT_SIZE = len(MARK) + 2 * hashlib.sha256().digest_size
TRAILER_START = COMMENT_SIZE.to_bytes(2, "little") + MARK  # a zip file gives the length of its comment before it
NO_COMMENT = bytes(2)  # the length, as torch writes it
ZIP_END, ZIP_END_SIZE = b"PK\5\6", 22
CHUNK = 2**20  # bytes that are digested at once


class DigestedFile:
    """A file that torch.save writes to, with a digest of its bytes.

    torch ends the process, or speaks of something else, if a write fails; so the first error waits for `finish`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.size = 0  # bytes that the whole file needs, written or not
        self._file, self._digest = file, hashlib.sha256()
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.size += len(data)
        if self._error is None:
            try:
                self._file.write(data)
                self._digest.update(data)
            except OSError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """What torch asks for; `finish` does it."""

    def finish(self) -> None:
        """Writes the digest and waits until all is on the disk; raises OSError for any write that failed."""
        if self._error is not None:
            raise self._error
        self._file.seek(-len(NO_COMMENT), os.SEEK_END)
        self._file.write(TRAILER_START + self._digest.hexdigest().encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def file_sha256(path: Path) -> str:
    """The sha256 of all bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path) -> None:
    """Raises UsageError for a checkpoint file whose bytes are not those that were saved.

    A file is read once in each process, unless it changes. Files of earlier versions have no digest; of those the
    checksums of the tensors are compared.
    """
    state = path.stat()
    _verify(path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache
def _verify(path: Path, *state: int) -> None:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        trailer = _end(file, size, len(NO_COMMENT) + COMMENT_SIZE)
        if trailer.startswith(TRAILER_START):
            whole = _digest(file, size - len(trailer)) == trailer.removeprefix(TRAILER_START).decode("ascii", "replace")
        else:
            end = _end(file, size, ZIP_END_SIZE)
            whole = end.startswith(ZIP_END) and end.endswith(NO_COMMENT) and _records_are_whole(file)
    if not whole:
        raise UsageError(
            f"ckpt_path={str(path)!r} is damaged, or no checkpoint of lit-mixers: write the path of another that fit "
            "saved, or last."
        )


def _end(file: IO[bytes], size: int, count: int) -> bytes:
    file.seek(max(0, size - count))
    return file.read(count)


def _digest(file: IO[bytes], size: int) -> str:
    """The digest of the first bytes of a file, as if it ended there without a comment."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (data := file.read(min(CHUNK, size))):
        digest.update(data)
        size -= len(data)
    digest.update(NO_COMMENT)
    return digest.hexdigest()


def _records_are_whole(file: IO[bytes]) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError):
        return False
