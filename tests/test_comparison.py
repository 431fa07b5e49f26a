"""The committed results of the comparison: what was chosen and what is reported follow from them."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_runs import lines

from lit_modules.commands.compare.intervals import two_way
from lit_modules.commands.compare.study import Options, Study, read_study
from lit_modules.commands.compare.tuning import search_of
from lit_modules.main import main

PROJECT = Path(__file__).parent.parent
RESULTS = PROJECT / "docs" / "comparison"


def study(name: str) -> Study:
    return read_study(PROJECT / "configs" / "comparison" / f"{name}.yaml", RESULTS / name)


def table(study: Study, name: str) -> list[dict[str, str]]:
    return lines(study.folder / "report" / f"{name}.csv")


def pieces(study: Study) -> dict[str, np.ndarray]:
    """The tokens and nats of each row: (seeds, pieces, 2)."""
    results = pd.read_parquet(study.folder / "results.parquet")
    found = results[results["kind"] == "pieces"].groupby("row", sort=False)
    return {
        str(row): np.array([seed[["tokens", "nats"]].to_numpy(float) for _, seed in of_row.groupby("seed")])
        for row, of_row in found
    }


def but_for_the_rate(options: Options) -> Options:
    return {**options["model"], "lr": None}


def test_each_learning_rate_is_the_best_of_those_tried() -> None:
    rates = study("rates")
    losses = {line["row"]: float(line["loss"]) for line in table(rates, "rows")}
    for row, options in study("laptop").rows.items():
        tried = [name for name in rates.rows if but_for_the_rate(rates.rows[name]) == but_for_the_rate(options)]
        best = min(tried, key=losses.__getitem__)
        assert options["model"]["lr"] == rates.rows[best]["model"]["lr"], row


@pytest.mark.parametrize("name", ["rates", "laptop", "neighbours", "longer"])
def test_no_run_was_left_out(name: str) -> None:
    expected = study(name)
    assert {row: len(seeds) for row, seeds in pieces(expected).items()} == dict.fromkeys(
        expected.rows, len(expected.seeds)
    )


@pytest.mark.parametrize("name", ["rates", "laptop", "neighbours", "longer"])
def test_the_numbers_of_each_row_are_those_of_its_pieces_of_text(name: str) -> None:
    found = pieces(study(name))
    first = next(iter(found.values()))
    for line, row in zip(table(study(name), "rows"), found.values(), strict=True):
        assert float(line["loss"]) == pytest.approx(row[..., 1].sum() / row[..., 0].sum())
        if row is not first:
            apart = two_way(row[..., 1] - first[..., 1], row[0, :, 0])
            assert tuple(float(line[column]) for column in ("difference", "low", "high")) == pytest.approx(apart)


def test_the_docs_show_the_reports_table() -> None:
    page = (PROJECT / "docs" / "comparison.md").read_text(encoding="utf-8")
    report = (RESULTS / "laptop" / "report" / "report.md").read_text(encoding="utf-8")
    quality = report.split("## Quality")[1].split("\n## ")[0]
    assert [line for line in quality.splitlines() if line.startswith("| ") and line not in page] == []


@pytest.mark.parametrize("name", ["laptop", "longer"])
def test_a_report_is_made_again_from_the_results_alone(name: str, tmp_path: Path) -> None:
    for kept in ("results.parquet", "cost.json"):
        if (RESULTS / name / kept).is_file():
            shutil.copy(RESULTS / name / kept, tmp_path)
    study = PROJECT / "configs" / "comparison" / f"{name}.yaml"
    main(["compare", str(study), f"--folder={tmp_path}", "--accelerator=cpu"])
    made, committed = (folder / "report" for folder in (tmp_path, RESULTS / name))
    pd.testing.assert_frame_equal(pd.read_csv(made / "rows.csv"), pd.read_csv(committed / "rows.csv"))
    assert (made / "report.md").read_text(encoding="utf-8") == (committed / "report.md").read_text(encoding="utf-8")
    assert "<svg" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_page_says_what_the_tuning_has_found_so_far() -> None:
    page = " ".join((PROJECT / "docs" / "comparison.md").read_text(encoding="utf-8").split())
    search = search_of(study("tokens"))
    tried = [each for row in search.study.rows for each in search.tried(row) if each.name in search.losses]
    assert f"{len(tried)} runs are done" in page
    best = {}
    for row in ("RetNet", "RWKV"):
        lines = [(search.losses[each.name], *each.values.values()) for each in tried if each.row == row]
        at_one_rate = min(loss for loss, _, ratio in lines if ratio == 1)
        loss, lr, ratio = min(lines)
        assert f"| {row} | {at_one_rate:.3f} | {loss:.3f} | {lr:g} | {ratio:g} |" in page
        best[row] = at_one_rate, loss
    leads = [theirs - ours for theirs, ours in zip(best["RetNet"], best["RWKV"], strict=True)]
    assert f"from {leads[0]:.2f} to {leads[1]:.2f}" in page, leads
