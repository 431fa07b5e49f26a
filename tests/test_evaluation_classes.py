"""The losses by class of a test: every number computed again by loops."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_evaluation import column, read
from small_parts import part
from small_runs import model, text, trainer, write_text

from lit_modules.data.batches import Blocks
from lit_modules.data.datamodule import Text
from lit_modules.data.tokenise import token_files
from lit_modules.data.tokenizer import bytes_tokenizer
from lit_modules.evaluation import classes, occurrences
from lit_modules.evaluation.classes import class_sums, position_starts, range_names
from lit_modules.evaluation.occurrences import count_training, pair_keys, repeated
from lit_modules.evaluation.scores import Evaluation, Scores

POSITIONS = ["1", "2", "3 to 4", "5 to 8", "9 to 16", "17 to 32", "33 to 40"]
FREQUENCIES = ["0", "1 to 9", "10 to 99", "100 to 999", "1000 to 9999", "10000 to 99999"]
PAIRS = ["0", "1 to 9", "10 to 99", "100 to 999", "1000 or more"]


def name_of(number: int, names: list[str]) -> str:
    """The range that a number is in."""
    [name] = [
        name for name in names if int(name.split()[0]) <= number <= float(name.replace("more", "inf").split()[-1])
    ]
    return name


def folder_of(tmp_path: Path, data: Text, **options: Any) -> tuple[Path, torch.Tensor]:
    """The folder of the tables of a test by an untrained model, and the losses that they are of."""
    module = model(data, start_token=data.start_token).eval()
    trainer(tmp_path, logger=False).test(module, datamodule=data, contexts=[], **options)
    evaluation = Evaluation(data, "test", [], [], options.get("max_tokens"))
    scores = Scores(evaluation)
    running = trainer(tmp_path, logger=False, callbacks=[scores])
    super(type(running), running).test(module, datamodule=evaluation, verbose=False)
    return tmp_path / "runs" / "test", scores.nats[0]


@pytest.mark.parametrize("options", [{}, {"bos": True}], ids=str)
def test_losses_by_class_are_those_of_a_loop_over_the_tokens(options: dict[str, Any], tmp_path: Path) -> None:
    data = text(tmp_path, block_size=40, **options)
    folder, nats = folder_of(tmp_path, data, max_tokens=900)
    train = data.token_file("train").open().tolist()
    counts, pair_counts = Counter(train), Counter(pairwise(train))
    expected: Counter[tuple[str, str, str]] = Counter()
    tokens: Counter[tuple[str, str, str]] = Counter()
    blocks = Blocks(data.token_file("test"), "it", 40, bos_token=data.bos_token, max_tokens=900, spread=True)
    assert len(blocks) == 22
    for index, losses in enumerate(nats.tolist()):
        pairs = list(pairwise(blocks[index].tolist()))
        for place, (pair, loss) in enumerate(zip(pairs, losses, strict=True)):
            piece = str(index // 51)
            position = name_of(place + 1, POSITIONS)
            frequency = name_of(counts[pair[1]], FREQUENCIES)
            recall = f"{'repeated' if pair in pairs[:place] else 'new'} {name_of(pair_counts[pair], PAIRS)}"
            for kind, name in (("position", position), ("frequency", frequency), ("recall", recall)):
                tokens[kind, name, piece] += 1
                expected[kind, name, piece] += loss
    rows = read(folder, "classes")
    assert {tuple(row[name] for name in ("kind", "class", "piece")) for row in rows} == set(tokens)
    for row in rows:
        key = row["kind"], row["class"], row["piece"]
        assert int(row["tokens"]) == tokens[key]
        assert float(row["nats"]) == pytest.approx(expected[key], rel=1e-6)
    assert {name for kind, name, _ in tokens if kind == "recall"} >= {"new 100 to 999", "repeated 100 to 999"}


def test_the_classes_of_a_kind_add_up_to_their_corpus(tmp_path: Path) -> None:
    write_text(tmp_path / "other.txt", words=800)
    data = text(write_text(tmp_path / "corpus.txt", words=8000).parent)
    folder, _ = folder_of(tmp_path, data, corpora=[str(tmp_path / "other.txt")])
    rows = read(folder, "classes")
    assert len(read(folder, "pieces")) > 3
    for corpus in read(folder, "corpora"):
        for kind in ("position", "frequency", "recall"):
            own = [row for row in rows if (row["corpus"], row["kind"]) == (corpus["corpus"], kind)]
            assert sum(column(own, "tokens")) == float(corpus["tokens"])
            assert sum(column(own, "nats")) == pytest.approx(float(corpus["loss"]) * float(corpus["tokens"]))
        pieces = [row for row in read(folder, "pieces") if row["corpus"] == corpus["corpus"]]
        for piece in pieces:  # as long as a corpus has no more than so many
            own = [row for row in rows if (row["corpus"], row["piece"]) == (corpus["corpus"], piece["piece"])]
            assert sum(column(own, "nats")) == pytest.approx(3 * float(piece["nats"]))


def test_a_long_text_has_longer_pieces_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "MOST_PIECES", 4)
    file = token_files(tmp_path / "x.json", [part(["01 23 45 67 89" * 3000])], bytes_tokenizer())["train"]
    blocks = Blocks(file, "it", block_size=1000)
    sums = list(class_sums(blocks, np.ones((len(blocks), 1000)), None, None))
    assert [total.tokens for total in sums if total.name == "new"] == [11 * 14] * 3 + [9 * 14 + 1]
    assert sum(total.nats for total in sums if total.kind == "recall") == 42_000


@pytest.mark.parametrize("start_token", [None, 0])
def test_a_pair_is_repeated_if_it_stood_earlier_in_its_row_or_document(start_token: int | None) -> None:
    ids = np.random.default_rng(0).integers(0, 5, (7, 60))
    found = repeated(ids, start_token)
    for row, of_row in zip(ids.tolist(), found.tolist(), strict=True):
        known: set[tuple[int, int]] = set()
        for pair, is_repeated in zip(pairwise(row), of_row, strict=True):
            if pair[0] == start_token:
                known.clear()
            assert is_repeated == (pair in known)
            known.add(pair)
    assert 0 < found.mean() < 1
    assert repeated(ids[:, :2]).tolist() == [[False]] * 7


def test_pairs_are_counted_across_the_stretches_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occurrences, "IDS", 7)
    generator = np.random.default_rng(0)
    documents = ["".join(generator.choice(list("abc"), 50)) for _ in range(2)]
    file = token_files(tmp_path / "x.json", [part(documents)], bytes_tokenizer())["train"]
    ids = file.open().tolist()
    some, pairs = np.array([ids[:30], [97, 5] * 15]), Counter(pairwise(ids))
    counts = count_training([file, file], np.unique(pair_keys(some)), 257)
    assert counts.of_tokens(np.array(ids)).tolist() == [2 * ids.count(token) for token in ids]
    assert counts.of_pairs(pair_keys(some)).tolist() == [
        [2 * pairs[pair] for pair in pairwise(row)] for row in some.tolist()
    ]


def test_of_a_long_file_stretches_from_all_parts_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occurrences, "IDS", 10)
    monkeypatch.setattr(occurrences, "COUNTED", 4)
    file = token_files(tmp_path / "x.json", [part(["a" * 40 + "b" * 40 + "c" * 19])], bytes_tokenizer())["train"]
    counts = count_training([file], pair_keys(np.array([97, 97])), 257)
    assert [counts.tokens[ord(letter)] for letter in "abc"] == [3 * 20, 3 * 10, 3 * 9]  # from 0, 30, 60 and 90 on
    assert counts.pairs.tolist() == [3 * 19]


def test_isolated_documents_recall_nothing_of_others(tmp_path: Path) -> None:
    documents = [f"{index} people\n" * 2 for index in range(60)]
    options: dict[str, Any] = {"tokenizer": "bytes", "block_size": 100, "cache_dir": str(tmp_path)}
    seen = {}
    for isolate in (False, True):
        data = Text(documents, isolate_documents=isolate, **options)
        folder, _ = folder_of(tmp_path / str(isolate), data)
        rows = read(folder, "classes")
        seen[isolate] = sum(float(row["tokens"]) for row in rows if row["class"].startswith("repeated"))
    assert 0 < seen[True] < seen[False]


def test_without_training_text_tokens_are_new_or_repeated(tmp_path: Path) -> None:
    file = token_files(tmp_path / "x.json", [part(["abcabc"])], bytes_tokenizer())["train"]
    sums = class_sums(Blocks(file, "it", block_size=6), np.arange(6.0)[None], None, None)
    assert [tuple(total) for total in sums if total.kind == "recall"] == [
        ("recall", "new", 0, 4, 0.0 + 1 + 2 + 5),
        ("recall", "repeated", 0, 2, 3.0 + 4),
    ]


def test_of_a_streamed_text_there_are_no_frequencies(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"row {index} of the text\n" * 3}) for index in range(200)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    options: dict[str, Any] = {"tokenizer": "bytes", "block_size": 32, "cache_dir": str(tmp_path)}
    data = Text(str(tmp_path / "rows.jsonl"), streaming=True, val_tokens=320, **options)
    folder, _ = folder_of(tmp_path, data)
    rows = read(folder, "classes")
    assert {row["class"] for row in rows if row["kind"] == "recall"} == {"new", "repeated"}
    assert {row["kind"] for row in rows} == {"position", "recall"}


@pytest.mark.parametrize(
    ("length", "names"), [(1, ["1"]), (2, ["1", "2"]), (3, ["1", "2", "3"]), (6, ["1", "2", "3 to 4", "5 to 6"])]
)
def test_ranges_of_positions_end_at_powers_of_two_and_with_the_block(length: int, names: list[str]) -> None:
    assert range_names(position_starts(length), length + 1) == names
