"""Local files as a corpus: which they are, and what tells whether they have changed."""

import glob
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from lit_modules.data.errors import missing_file, usage_error
from lit_modules.data.readers import COMPRESSIONS, READERS, file_parts, kind
from lit_modules.data.splits import Piece

SAMPLED = 100  # files whose ends are part of the key, beside their sizes and times
END_BYTES = 4096


def is_pattern(name: str) -> bool:
    """Whether a name stands for all files that match it, such as `texts/**/*.jsonl`."""
    return glob.has_magic(name) and not Path(name).expanduser().exists()


def is_path(name: str) -> bool:
    """Whether a name can only be that of a file or folder, there or not."""
    path = Path(name)
    return bool(kind(path)) or path.is_absolute() or name.startswith((".", "~"))


def find_files(name: str) -> tuple[Path, list[Path]]:
    """The readable files of a file, a folder or a pattern, in order of name, and the folder that they are all in.

    Raises:
        MissingFileError: If there are none.
        UsageError: If the name is that of a pipe, a device or a socket.
    """
    path = Path(name).expanduser()
    if is_pattern(name):
        folder = _fixed_part(path)
        found: Iterable[Path] = map(Path, glob.glob(str(path), recursive=True))
    elif path.is_dir():
        folder, found = path, path.rglob("*")
    elif path.is_file():
        folder, found = path.parent, [path]
    else:
        raise usage_error(f"corpus={name!r} is a pipe, a device or a socket: write the text to a file and name that.")
    files = sorted((file for file in found if kind(file) and file.is_file()), key=Path.as_posix)
    if not files:
        if is_pattern(name) and not glob.glob(str(path), recursive=True):
            raise missing_file(f"corpus={name!r} matches no file: check the pattern, seen from {str(Path.cwd())!r}.")
        raise missing_file(
            f"corpus={name!r} has nothing to read: give {', '.join(READERS)} files, of which .txt and .jsonl may be "
            f"compressed ({', '.join(COMPRESSIONS)})."
        )
    return folder, files


def fingerprint(folder: Path, files: Iterable[Path]) -> Iterator[str]:
    """What changes when the files do: names inside the folder, sizes and times, and the ends of the first files.

    The ends are there since archives may give all their files one time, and then another file could pass for this one.
    """
    for index, file in enumerate(files):
        facts = file.stat()
        yield f"{file.relative_to(folder).as_posix()} {facts.st_size} {facts.st_mtime_ns}"
        if index < SAMPLED:
            with file.open("rb") as opened:
                yield opened.read(END_BYTES).hex()
                opened.seek(max(0, facts.st_size - END_BYTES))
                yield opened.read(END_BYTES).hex()


def pieces(files: Iterable[Path], text_field: str) -> Iterator[Piece]:
    """The files in parts, in their order."""
    for file in files:
        parts = file_parts(file)
        size = file.stat().st_size // len(parts)
        yield from (Piece(str(file), size, partial(part.documents, text_field)) for part in parts)


def _fixed_part(pattern: Path) -> Path:
    """The folder above the first part of a pattern that stands for several names."""
    fixed = list[str]()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)
