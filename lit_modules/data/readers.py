"""Documents out of files and rows, one at a time."""

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedReader, TextIOWrapper
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from lit_modules.data.errors import missing_file, usage_error
from lit_modules.data.tokenizer import END

ROWS = 1000  # rows of a data set that are read at once
PART_BYTES = 2**26  # of a large .jsonl or .parquet file that are read as one part
LINE_BYTES = 2**20  # read at once where lines are counted


def _open_zstd(file: Path) -> IO[bytes]:
    import pyarrow  # slow to import, and only this kind of file needs it

    return BufferedReader(pyarrow.input_stream(str(file), compression="zstd"))


COMPRESSIONS: dict[str, Callable[[Path], Any]] = {
    ".gz": partial(gzip.open, mode="rb"),
    ".bz2": partial(bz2.open, mode="rb"),
    ".xz": partial(lzma.open, mode="rb"),
    ".zst": _open_zstd,
}
DAMAGED = EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile


@dataclass(frozen=True)
class FilePart:
    """A file, or a range of it: of the bytes of a .jsonl file, or the row groups of a .parquet file."""

    file: Path
    start: int = 0
    stop: int | None = None

    def documents(self, text_field: str) -> Iterator[str]:
        """The documents whose line or row group begins in the range; raises UsageError for what cannot be read."""
        with _readable(self.file):
            yield from READERS[kind(self.file)](self, text_field)


def json_rows(file: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a .jsonl file, each with where it is; raises UsageError for what cannot be read."""
    with _readable(file):
        yield from ((f"line {number} of {str(file)!r}", row) for number, _, row in _json_rows(FilePart(file)))


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Makes UsageErrors of what goes wrong while a file is read."""
    where = repr(str(file))
    try:
        yield
    except UnicodeDecodeError as error:
        raise usage_error(f"{where} is not UTF-8 text: convert it first.") from error
    except FileNotFoundError as error:
        raise missing_file(f"{where} has vanished: put it back, or start again without it.") from error
    except DAMAGED as error:
        raise usage_error(f"{where} is cut off, or not compressed as its name says: replace it.") from error
    except OSError as error:
        raise usage_error(
            f"{where} cannot be read ({error.strerror or error}): replace it, or leave it out."
        ) from error


def kind(file: Path) -> str:
    """The suffix that says how a file is read, that of a compression left out; "" for none of READERS."""
    suffix = Path(file.stem).suffix if file.suffix in COMPRESSIONS else file.suffix
    return suffix if suffix in READERS and (suffix != ".parquet" or file.suffix == suffix) else ""


def file_parts(file: Path) -> list[FilePart]:
    """A file in ranges of about PART_BYTES, where it can be read from the middle."""
    if file.suffix == ".jsonl":
        starts = range(0, max(1, file.stat().st_size), PART_BYTES)
        return [FilePart(file, start, start + PART_BYTES) for start in starts]
    if file.suffix == ".parquet":
        return _row_groups(file)
    return [FilePart(file)]


def _open(file: Path) -> IO[bytes]:
    return COMPRESSIONS.get(file.suffix, lambda file: file.open("rb"))(file)


def _read_txt(part: FilePart, text_field: str) -> Iterator[str]:
    with TextIOWrapper(_open(part.file), encoding="utf-8-sig") as opened:
        for is_end, lines in groupby(opened, lambda line: line.rstrip("\n") == END):
            if not is_end:
                yield "".join(lines)


def _read_jsonl(part: FilePart, text_field: str) -> Iterator[str]:
    for number, line, row in _json_rows(part):
        if not isinstance(row, dict) or text_field not in row:
            check_field(row if isinstance(row, dict) else {}, text_field, _where(part, number))
        if not isinstance(row[text_field], str):
            yield check_text(row[text_field], text_field, _where(part, number))
            continue
        if "\\ud" in line or "\\uD" in line:  # JSON can spell half of a character, which is no text
            try:
                row[text_field].encode()
            except UnicodeEncodeError as error:
                message = f"{_where(part, number)} holds half of a character (a lone surrogate): correct or remove it."
                raise usage_error(message) from error
        yield row[text_field]


def _json_rows(part: FilePart) -> Iterator[tuple[int, str, Any]]:
    """The number, the text and the content of the lines that are not blank."""
    for number, encoded in enumerate(_lines(part), start=1):
        if not (line := encoded.decode().removeprefix("\ufeff")).strip():
            continue
        try:
            yield number, line, json.loads(line)
        except (ValueError, RecursionError) as error:  # also of numbers too long, and nesting too deep
            raise usage_error(f"{_where(part, number)} is not JSON: {error}.") from error


def _lines(part: FilePart) -> Iterator[bytes]:
    """The lines that begin in the range."""
    with _open(part.file) as opened:
        position = part.start
        if position:
            opened.seek(position - 1)
            position += len(opened.readline()) - 1
        for line in opened:
            if part.stop is not None and position >= part.stop:
                return
            yield line
            position += len(line)


def _where(part: FilePart, number: int) -> str:
    """What errors call the line `number`, from 1, of those that begin in the range."""
    if part.start:
        with part.file.open("rb") as opened:
            left = part.start - 1
            while left > 0 and (read := opened.read(min(left, LINE_BYTES))):
                number += read.count(b"\n")
                left -= len(read)
            number += 1  # the line that begins before the range, or at its start
    return f"line {number} of {str(part.file)!r}"


def _row_groups(file: Path) -> list[FilePart]:
    with _parquet(file) as table:
        parts, start, size = list[FilePart](), 0, 0
        for index in range(table.metadata.num_row_groups):
            size += table.metadata.row_group(index).total_byte_size
            if size >= PART_BYTES:
                parts.append(FilePart(file, start, index + 1))
                start, size = index + 1, 0
        if start < table.metadata.num_row_groups or not parts:
            parts.append(FilePart(file, start, table.metadata.num_row_groups))
        return parts


def _read_parquet(part: FilePart, text_field: str) -> Iterator[str]:
    where = repr(str(part.file))
    with _parquet(part.file) as table:
        check_field(table.schema_arrow.names, text_field, where)
        stop = table.metadata.num_row_groups if part.stop is None else part.stop
        for batch in table.iter_batches(row_groups=list(range(part.start, stop)), columns=[text_field]):
            yield from (check_text(value, text_field, where) for value in batch.column(0).to_pylist())


def _parquet(file: Path) -> Any:
    from pyarrow import ArrowInvalid  # slow to import, and only parquet needs it
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(file)
    except ArrowInvalid as error:
        raise usage_error(f"{str(file)!r} is not a whole .parquet file ({error}): replace it.") from error


READERS = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}


def read_rows(rows: Any, text_field: str, where: str) -> Iterator[str]:
    """The documents of a data set, which errors call `where`."""
    for batch in rows.select_columns([text_field]).iter(ROWS):
        yield from (check_text(value, text_field, where) for value in batch[text_field])


def check_field(fields: Iterable[str], text_field: str, where: str) -> None:
    """Raises a ValueError that names the fields of `where` if `text_field` is not one of them."""
    if text_field not in fields:
        there = ", ".join(fields) or "no fields at all"
        raise usage_error(f"{where} has no field text_field={text_field!r}: name one that is there ({there}).")


def check_text(value: Any, text_field: str, where: str) -> str:
    """The value of a field as text, empty if there is none; raises a ValueError for anything else."""
    if value is not None and not isinstance(value, str):
        kind = type(value).__name__
        raise usage_error(f"{where} has {kind} values in text_field={text_field!r}: name a field that holds text.")
    return value or ""
