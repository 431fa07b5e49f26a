"""Documents out of files and rows, one at a time."""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from lit_modules.data.tokenizer import END
from mixers.checks import UsageError

ROWS = 1000  # rows of a data set that are read at once


def read_files(files: list[Path], text_field: str) -> Iterator[str]:
    """The documents of .txt, .jsonl and .parquet files; raises ValueError for one that is not what its suffix says."""
    for file in files:
        try:
            yield from READERS[file.suffix](file, text_field)
        except UnicodeDecodeError as error:
            raise UsageError(f"{str(file)!r} is not UTF-8 text: convert it first.") from error


def _read_txt(file: Path, text_field: str) -> Iterator[str]:
    with file.open(encoding="utf-8-sig") as opened:
        for is_end, lines in groupby(opened, lambda line: line.rstrip("\n") == END):
            if not is_end:
                yield "".join(lines)


def _read_jsonl(file: Path, text_field: str) -> Iterator[str]:
    with file.open(encoding="utf-8-sig") as opened:
        for number, line in enumerate(opened, start=1):
            if line.isspace():
                continue
            where = f"line {number} of {str(file)!r}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UsageError(f"{where} is not JSON: {error}.") from error
            check_field(row if isinstance(row, dict) else {}, text_field, where)
            yield from _texts([row[text_field]], text_field, where)


def _read_parquet(file: Path, text_field: str) -> Iterator[str]:
    from pyarrow.parquet import ParquetFile  # slow to import, and only parquet needs it

    with ParquetFile(file) as table:
        check_field(table.schema_arrow.names, text_field, repr(str(file)))
        for batch in table.iter_batches(columns=[text_field]):
            yield from _texts(batch.column(0).to_pylist(), text_field, repr(str(file)))


READERS = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}


def read_rows(rows: Any, text_field: str, where: str) -> Iterator[str]:
    """The documents of a data set, which errors call `where`."""
    for batch in rows.select_columns([text_field]).iter(ROWS):
        yield from _texts(batch[text_field], text_field, where)


def check_field(fields: Iterable[str], text_field: str, where: str) -> None:
    """Raises a ValueError that names the fields of `where` if `text_field` is not one of them."""
    if text_field not in fields:
        there = ", ".join(fields) or "no fields at all"
        raise UsageError(f"{where} has no field text_field={text_field!r}: name one that is there ({there}).")


def _texts(values: Iterable[Any], text_field: str, where: str) -> Iterator[str]:
    for value in values:
        if value is not None and not isinstance(value, str):
            kind = type(value).__name__
            raise UsageError(f"{where} has {kind} values in text_field={text_field!r}: name a field that holds text.")
        yield value or ""
