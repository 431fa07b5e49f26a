"""The training of a BPE: on what text, how long it takes, and what is shown meanwhile."""

import hashlib
import json
import random
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from small_parts import part, read_numbers

from lit_modules.data import bpe
from lit_modules.data.bpe import cached_bpe, training_text
from lit_modules.data.corpora import Corpus, Part, load_corpus
from lit_modules.data.tokenizer import Tokenizer, bytes_tokenizer, train_bpe


class Given(Corpus):
    """A corpus of the parts given."""

    def __init__(self, *parts: Part) -> None:
        object.__setattr__(self, "given", list(parts))

    parts = property(lambda self: self.given)  # type: ignore[assignment]

    def documents(self, split: str):
        return (document for part in self.parts for name, document in part.read() if name == split)


def test_the_bpe_of_sotu_is_the_one_that_results_are_about(tmp_path: Path) -> None:
    model = json.loads(train_bpe(load_corpus("sotu", cache_dir=tmp_path).documents("train"), 8192).to_json())["model"]
    content = json.dumps([model["vocab"], [list(merge) for merge in model["merges"]]], ensure_ascii=True)
    assert (
        hashlib.sha256(content.encode()).hexdigest()
        == "7f6c29f8f5c15498ccb05a05c1fa130bc0aed41ab92c3e643e46163c669961dd"
    )


def test_text_without_spaces_takes_seconds() -> None:
    dna = "".join(random.Random(0).choices("ACGT", k=500_000))
    start = time.process_time()
    tokenizer = train_bpe([dna], 4096)
    assert time.process_time() - start < 10  # it was minutes while such a text was a single word
    assert tokenizer.vocab_size == 4096
    assert len(tokenizer.encode(dna[:1000])) < 300


def test_a_small_corpus_is_used_whole_and_only_for_training() -> None:
    numbers = Given(*(Part("", 300, partial(read_numbers, n, n + 5)) for n in (0, 5, 10)))
    assert list(training_text(numbers)) == [text for name, text in read_numbers(0, 15) if name == "train"]


@pytest.mark.parametrize(("sizes", "lengths"), [((400, 100), [80, 20]), ((400, 0), [50, 50])])
def test_a_large_corpus_gives_the_beginning_of_each_part(
    sizes: tuple[int, int], lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpe, "TRAINING_TEXT", 100)
    parts = [replace(part([letter * 30] * 20), size=size) for letter, size in zip("ab", sizes, strict=True)]
    text = "".join(training_text(Given(*parts)))
    assert [text.count(letter) for letter in "ab"] == lengths
    assert text == "a" * lengths[0] + "b" * lengths[1]


def test_a_slow_training_shows_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(documents: object, vocab_size: int) -> Tokenizer:
        assert list(documents) == ["some text"]  # type: ignore[call-overload]
        time.sleep(0.5)
        return bytes_tokenizer()

    monkeypatch.setattr(bpe, "train_bpe", slow)
    for name in ("TICK", "BAR_DELAY"):
        monkeypatch.setattr(bpe, name, 0.05)
    cached_bpe(tmp_path / "a.json", lambda: ["some text"], 300)
    shown = capsys.readouterr().err
    assert "training the tokenizer: 9.00 characters" in shown
    assert shown.count("\r") > 2


def test_a_training_shows_nothing_if_it_is_quick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached_bpe(tmp_path / "a.json", lambda: ["some text"], 300)
    assert capsys.readouterr().err == ""
