"""Which documents are held out, and that files added later do not change it."""

from collections.abc import Iterator
from functools import partial
from itertools import chain

import pytest

from lit_modules.data.splits import HELD_OUT_BYTES, Part, Piece, hash_rule, split_by_hash, split_by_position


def piece(documents: list[str], size: int = 0) -> Piece:
    return Piece("piece", size, partial(iter, documents))


def splits(parts: list[Part]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"train": [], "test": [], "validation": []}
    for split, document in chain.from_iterable(part.read() for part in parts):
        found[split].append(document)
    return found


def numbered(count: int, name: str = "document") -> list[str]:
    return [f"{name} {index}" for index in range(count)]


def test_of_ten_documents_of_a_list_the_fifth_is_for_the_test_and_the_last_for_validation() -> None:
    found = splits(split_by_position(piece(numbered(31))))
    assert found["validation"] == ["document 9", "document 19", "document 29"]
    assert found["test"] == ["document 4", "document 14", "document 24"]
    assert sorted(chain.from_iterable(found.values())) == sorted(numbered(31))


@pytest.mark.parametrize("split", [split_by_position, lambda whole: split_by_hash([whole])])
@pytest.mark.parametrize(
    "documents", [["line of text\n" * 100], ["a\n" * 300, "b" * 50 + "\n", "c c\n" * 50], ["x" * 99]]
)
def test_of_a_few_documents_the_last_two_tenths_of_the_text_are_held_out(documents: list[str], split) -> None:
    train, test, validation = ("".join(found) for found in splits(split(piece(documents))).values())
    assert train + test + validation == "".join(documents)
    tenth = len("".join(documents)) / 10
    assert len(train) == pytest.approx(8 * tenth, abs=13)
    assert len(test) == pytest.approx(tenth, abs=13)
    assert train.endswith("\n") or "\n" not in documents[0]


def test_empty_documents_do_not_count() -> None:
    found = splits(split_by_position(piece(["", *numbered(10), " \n"])))
    assert found["validation"] == ["document 9"]
    for split in (split_by_position, lambda whole: split_by_hash([whole])):
        few = splits(split(piece([*["some text\n" * 10] * 9, ""])))
        assert "".join(few["validation"]) == "".join(few["test"]) == "some text\n" * 9


def test_documents_are_read_one_at_a_time() -> None:
    def endless() -> Iterator[str]:
        yield from numbered(200)
        while True:
            yield "text"

    [part] = split_by_hash([Piece("piece", 0, endless)])
    assert next(iter(part.read()))[1] == "document 0"


@pytest.mark.parametrize(("count", "each"), [(10, 1), (19, 1), (60, 6), (99, 9)])
def test_of_fewer_than_a_hundred_documents_exactly_a_tenth_is_held_out(count: int, each: int) -> None:
    found = splits(split_by_hash([piece(numbered(count))]))
    assert (len(found["test"]), len(found["validation"])) == (each, each)
    assert sorted(chain.from_iterable(found.values())) == sorted(numbered(count))


def test_equal_documents_are_in_the_same_split() -> None:
    found = splits(split_by_hash([piece(numbered(300) * 2)]))
    for one, other in (("train", "test"), ("train", "validation"), ("test", "validation")):
        assert not set(found[one]) & set(found[other])
    assert all(len(found[split]) == pytest.approx(60, abs=30) for split in ("test", "validation"))


def test_documents_added_do_not_move_the_others() -> None:
    before = splits(split_by_hash([piece(numbered(500))]))
    after = splits(split_by_hash([piece(numbered(300, "new")), piece(numbered(500)[::-1])]))
    for split, documents in before.items():
        assert set(documents) == {document for document in after[split] if document.startswith("document")}


def test_a_larger_corpus_holds_out_fewer_documents_all_of_them_held_out_before() -> None:
    small, large, larger = (hash_rule(size) for size in (10 * HELD_OUT_BYTES, 15 * HELD_OUT_BYTES, 10**11))
    documents = numbered(20_000)
    held = [{text: rule.split(text) for text in documents if rule.split(text) != "train"} for rule in (small, large)]
    assert held[1].items() <= held[0].items()
    assert len(held[0]) == pytest.approx(4000, abs=200)
    assert len(held[1]) == pytest.approx(2000, abs=150)
    share = larger.test_to / 2**64
    assert HELD_OUT_BYTES / 2 <= share * 10**11 <= HELD_OUT_BYTES


def test_a_data_set_with_a_validation_split_of_its_own_gives_up_none_for_it() -> None:
    found = splits(split_by_hash([piece(numbered(60))], ["test"]))
    assert (len(found["train"]), len(found["test"]), len(found["validation"])) == (54, 6, 0)
