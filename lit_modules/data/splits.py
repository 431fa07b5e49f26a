"""Which documents are for training, which for validation, and which for the test."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from typing import overload

Documents = Callable[[], Iterable[str]]
WANTED = ("test", "validation")  # the splits held out of the training text
PERIOD = 10
HELD_OUT = {4: "test", 9: "validation"}  # positions in ten documents of a list
FEW = 10  # distinct documents: with fewer, the text itself is cut
MANY = 100  # distinct documents: with fewer, exactly a tenth is held out, so that there is one
HELD_OUT_BYTES = 100 * 10**6  # of each split at most, of a corpus whose size is known
HASHES = 2**64


@dataclass(frozen=True)
class Part:
    """A piece of a corpus that one process reads: a file, a range of its bytes or rows, or all of a small corpus."""

    name: str  # for messages
    size: int  # bytes, for the progress bar; 0 if unknown
    read: Callable[[], Iterator[tuple[str, str]]]  # (split, document) in order; can be pickled


class LazyParts(Sequence[Part]):
    """Parts that are found when they are first asked for, which reads something of every file."""

    def __init__(self, find: Callable[[], list[Part]]) -> None:
        self._find = find

    @cached_property
    def _found(self) -> list[Part]:
        return self._find()

    @overload
    def __getitem__(self, index: int) -> Part: ...
    @overload
    def __getitem__(self, index: slice) -> list[Part]: ...
    def __getitem__(self, index: int | slice) -> Part | list[Part]:
        return self._found[index]

    def __len__(self) -> int:
        return len(self._found)


@dataclass(frozen=True)
class Piece:
    """A part before its documents are split."""

    name: str
    size: int
    documents: Documents  # can be pickled


@dataclass(frozen=True)
class HashRule:
    """Documents by a hash of their text: the lowest hashes for the test, the highest for validation."""

    test_to: int
    validation_from: int
    wanted: Sequence[str] = WANTED

    def split(self, document: str) -> str:
        """The split of a document."""
        value = document_hash(document)
        if value <= self.test_to and "test" in self.wanted:
            return "test"
        return "validation" if value >= self.validation_from and "validation" in self.wanted else "train"


def document_hash(document: str) -> int:
    """A number below HASHES that is the same on every machine."""
    return int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest(), "big")


def split_by_hash(pieces: Sequence[Piece], wanted: Sequence[str] = WANTED) -> list[Part]:
    """Documents held out by their own text, so that others beside them change little.

    A tenth of the documents for each split; of more than 1 GB of files half as many, of more than 2 GB a quarter and so
    on, each time out of those before: what is held out is 50 to 100 MB, and nothing trained on is held out later. Of
    fewer than a hundred distinct documents exactly a tenth, and of fewer than ten the last tenths of the text.
    """
    documents = with_text(chain.from_iterable(piece.documents() for piece in pieces))
    hashes = sorted(_distinct(documents))
    if len(hashes) < FEW:
        size = sum(piece.size for piece in pieces)
        return [Part(pieces[0].name, size, partial(_read_tenths, pieces, wanted))] if pieces else []
    if len(hashes) < MANY:
        each = len(hashes) // PERIOD
        rule = HashRule(hashes[each - 1], hashes[-each], wanted)
    else:
        rule = hash_rule(sum(piece.size for piece in pieces), wanted)
    return [Part(piece.name, piece.size, partial(_read_by_hash, piece.documents, rule)) for piece in pieces]


def hash_rule(size: int, wanted: Sequence[str] = WANTED) -> HashRule:
    """The rule for a corpus of many documents and so many bytes."""
    one_in = PERIOD
    while size / one_in > HELD_OUT_BYTES:
        one_in *= 2
    return HashRule(HASHES // one_in, HASHES - HASHES // one_in, wanted)


def split_by_position(piece: Piece) -> list[Part]:
    """Of every ten documents the fifth for the test and the last for validation, spread evenly over a fixed list.

    With fewer than ten documents, the last tenth of the text is for validation and the one before it for the test, cut
    at a line end where there is one.
    """
    return [Part(piece.name, piece.size, partial(_read_by_position, piece))]


def all_as(split: str, pieces: Iterable[Piece]) -> list[Part]:
    """All documents in one split."""
    return [Part(piece.name, piece.size, partial(_read_as, split, piece.documents)) for piece in pieces]


def with_text(documents: Iterable[str]) -> Iterator[str]:
    """The documents that are not empty or blank."""
    return (document for document in documents if document and not document.isspace())


def _distinct(documents: Iterator[str]) -> set[int]:
    hashes = set[int]()
    for document in islice(documents, MANY):
        hashes.add(document_hash(document))
    return hashes


def _read_by_hash(documents: Documents, rule: HashRule) -> Iterator[tuple[str, str]]:
    return ((rule.split(document), document) for document in with_text(documents()))


def _read_as(split: str, documents: Documents) -> Iterator[tuple[str, str]]:
    return ((split, document) for document in with_text(documents()))


def _read_by_position(piece: Piece) -> Iterator[tuple[str, str]]:
    found = with_text(piece.documents())
    first = list(islice(found, PERIOD))
    if len(first) < PERIOD:
        yield from _tenths(first, WANTED)
        return
    for index, document in enumerate(chain(first, found)):
        yield HELD_OUT.get(index % PERIOD, "train"), document


def _read_tenths(pieces: Sequence[Piece], wanted: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield from _tenths(list(with_text(chain.from_iterable(piece.documents() for piece in pieces))), wanted)


def _tenths(documents: list[str], wanted: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The documents of each split, of a few documents, in the order of their text."""
    total = sum(map(len, documents))
    train, rest = _cut(documents, total * (PERIOD - len(wanted)) // PERIOD)
    test, validation = _cut(rest, total // PERIOD) if len(wanted) == len(WANTED) else (rest, rest)
    for split, found in (("train", train), ("test", test), ("validation", validation)):
        if split == "train" or split in wanted:
            yield from ((split, document) for document in with_text(found))


def _cut(documents: list[str], length: int) -> tuple[list[str], list[str]]:
    """At most the first `length` characters, up to a line end of the document there if it has one; and the rest."""
    for index, document in enumerate(documents):
        if len(document) > length:
            cut = document.rfind("\n", 0, length) + 1 or length
            return [*documents[:index], document[:cut]], [document[cut:], *documents[index + 1 :]]
        length -= len(document)
    return documents, []
