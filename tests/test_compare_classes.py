"""The losses by class in the report of a study."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lit_modules.commands.compare import tables
from lit_modules.commands.compare.intervals import two_way
from lit_modules.commands.compare.results import Results, kept_results
from lit_modules.commands.compare.run_tables import COLUMNS, read
from lit_modules.commands.compare.study import Study

CLASSES = {"new 0": [700, 0, 400, 100], "repeated 0": [300, 1000, 600, 200]}  # tokens in each piece
APART = {"new 0": 0.1, "repeated 0": -0.2}  # nats per token, of the second row


def write_tests(study: Study) -> None:
    """The tables of a test of each run, of a corpus that it was trained on and of another."""
    for number, run in enumerate(study.runs()):
        second, noise = run.row == "Second", np.random.default_rng(number).normal(0, 0.01, (2, 4))
        rows = [
            (corpus, "recall", name, piece, tokens, tokens * (3 + APART[name] * second + noise[place, piece]))
            for corpus in ("own", "other")
            for place, (name, of_pieces) in enumerate(CLASSES.items())
            for piece, tokens in enumerate(of_pieces)
            if tokens
        ]
        classes = pd.DataFrame(rows, columns=["corpus", "kind", "class", "piece", "tokens", "nats"])
        pieces = classes.groupby(["corpus", "piece"], sort=False)[["tokens", "nats"]].sum().reset_index()
        corpora = classes.groupby("corpus", sort=False)[["tokens", "nats"]].sum().reset_index()
        corpora = corpora.assign(loss=corpora["nats"] / corpora["tokens"], bits_per_byte=1.0)
        (run.folder / "test").mkdir(parents=True)
        for name, table in {"classes": classes, "pieces": pieces, "corpora": corpora}.items():
            table.to_csv(run.folder / "test" / f"{name}.csv", index=False)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    fit = {"trainer": {"max_steps": 1}, "data": {"block_size": 1, "batch_size": 1}}
    study = Study("it", tmp_path, {"First": {}, "Second": {}}, fit, [0, 1, 2])
    write_tests(study)
    table = pd.concat([read(run, study.digest(run.row)) for run in study.runs()], ignore_index=True)
    return Results(study, table, {})


def test_each_class_has_its_difference_with_an_interval(results: Results) -> None:
    shown = tables.by_class(results, "recall")
    assert list(shown.data.index) == ["First", "Second"]
    assert list(shown.data.columns) == ["new 0 ↓", "repeated 0 ↓"]
    assert "new 0 36.4%, repeated 0 63.6%" in shown.note
    for name, tokens in CLASSES.items():
        losses = {}
        for row in ("First", "Second"):
            of_seeds = [pd.read_csv(run.folder / "test" / "classes.csv") for run in results.study.runs([row])]
            own = [
                table[(table["corpus"] == "own") & (table["class"] == name)]["nats"].to_numpy() for table in of_seeds
            ]
            losses[row] = np.stack(own)
        there = np.array([number for number in tokens if number], float)
        expected = two_way(losses["Second"] - losses["First"], there)
        assert expected.mean == pytest.approx(APART[name], abs=0.02)
        half = (expected.high - expected.low) / 2
        assert shown.data.loc["Second", f"{name} ↓"] == f"{expected.mean:+.3f} ± {half:.3f}"
        assert float(shown.data.loc["First", f"{name} ↓"]) == pytest.approx(
            losses["First"].sum() / 3 / sum(tokens), abs=1e-3
        )


def test_classes_of_all_corpora_are_kept_and_read_again(results: Results) -> None:
    results.keep()
    again = kept_results(results.study)
    pd.testing.assert_frame_equal(again.table, results.table)
    assert set(again.of("classes")["corpus"]) == {"own", "other"}


def test_results_that_were_kept_before_there_were_classes_are_still_read(results: Results) -> None:
    path = results.study.folder / "results.parquet"
    old = results.table[results.table["kind"] != "classes"].drop(columns=["by", "class"])
    old.to_parquet(path, index=False)
    again = kept_results(results.study)
    assert list(again.table.columns) == list(COLUMNS)
    assert len(again.table) == len(old) > 0
    assert tables.by_class(again, "recall").data.empty


def test_ranges_are_in_order_and_shares_are_those_of_the_mixture(tmp_path: Path) -> None:
    data = {"block_size": 1, "batch_size": 1, "corpus": {"first": 1, "second": 3}}
    study = Study("it", tmp_path, {"First": {}}, {"trainer": {"max_steps": 1}, "data": data}, [0])
    tokens = {("first", "10 to 99"): 8, ("second", "1 to 9"): 6, ("second", "10 to 99"): 2}
    classes = [
        {"kind": "classes", "corpus": corpus, "by": "frequency", "class": name, "at": 0, "tokens": number}
        for (corpus, name), number in tokens.items()
    ]
    corpora = [{"kind": "corpora", "corpus": corpus, "tokens": 8} for corpus in ("first", "second")]
    table = pd.DataFrame(classes + corpora, columns=list(COLUMNS)).assign(row="First", seed=0, nats=1.0, loss=1.0)
    shown = tables.by_class(Results(study, table, {}), "frequency")
    assert list(shown.data.columns) == ["1 to 9 ↓", "10 to 99 ↓"]
    assert "1 to 9 56.2%, 10 to 99 43.8%" in shown.note
