"""Documents out of files and rows, one at a time."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lit_modules.data.tokenizer import END
from mixers.checks import UsageError

ROWS = 1000  # rows of a data set that are read at once


def read_files(files: list[Path], text_field: str) -> Iterator[str]:
    """The documents of .txt, .jsonl and .parquet files, in the order of the files.

    Raises:
        ValueError: If a file is not what its suffix says, or has no such field or no text in it.
    """
    for file in files:
        try:
            yield from READERS[file.suffix](file, text_field)
        except UnicodeDecodeError as error:
            raise UsageError(f"{str(file)!r} is not UTF-8 text: convert it first.") from error


def _read_txt(file: Path, text_field: str) -> Iterator[str]:
    lines: list[str] = []
    with file.open(encoding="utf-8-sig") as opened:
        for line in opened:
            if line.rstrip("\n") == END:
                yield "".join(lines)
                lines = []
            else:
                lines.append(line)
    yield "".join(lines)


def _read_jsonl(file: Path, text_field: str) -> Iterator[str]:
    with file.open(encoding="utf-8-sig") as opened:
        for number, line in enumerate(opened, start=1):
            if not line.isspace():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UsageError(f"line {number} of {str(file)!r} is not JSON: {error}.") from error
                where = f"line {number} of {str(file)!r}"
                check_field(row if isinstance(row, dict) else {}, text_field, where)
                yield _as_text(row[text_field], text_field, where)


def _read_parquet(file: Path, text_field: str) -> Iterator[str]:
    # slow to import, and only parquet needs it
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as table:
        check_field(table.schema_arrow.names, text_field, repr(str(file)))
        for batch in table.iter_batches(columns=[text_field]):
            for value in batch.column(0).to_pylist():
                yield _as_text(value, text_field, repr(str(file)))


READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def read_rows(rows: Any, text_field: str, where: str) -> Iterator[str]:
    """The documents of a data set, which errors call `where`."""
    for batch in rows.select_columns([text_field]).iter(ROWS):
        for value in batch[text_field]:
            yield _as_text(value, text_field, where)


def check_field(fields: Iterable[str], text_field: str, where: str) -> None:
    """Raises a ValueError that names the fields of `where` if `text_field` is not one of them."""
    if text_field not in fields:
        there = ", ".join(fields) or "no fields at all"
        raise UsageError(f"{where} has no field text_field={text_field!r}: name one that is there ({there}).")


def _as_text(value: object, text_field: str, where: str) -> str:
    if value is not None and not isinstance(value, str):
        raise UsageError(
            f"{where} has {type(value).__name__} values in text_field={text_field!r}: name a field that holds text."
        )
    return value or ""
