"""The committed results on synthetic tasks: what is reported and written about them follows from them."""

from pathlib import Path

import pandas as pd
import pytest
from small_runs import lines
from small_study import copy_results

from lit_modules.commands.compare import task_report
from lit_modules.commands.compare.results import kept_results
from lit_modules.commands.compare.study import Study, read_study
from lit_modules.commands.compare.tuning import Search, search_of, tuned
from lit_modules.evaluation.answers import ALL

PROJECT = Path(__file__).parent.parent
RESULTS = PROJECT / "docs" / "tasks"
PAGES = {"parity": "state_tracking", "s3": "state_tracking", "recall": "recall"}
STUDIES = sorted(path.parent.name for path in RESULTS.glob("*/results.parquet"))


def search(name: str) -> Search:
    return search_of(read_study(PROJECT / "configs" / "tasks" / f"{name}.yaml", RESULTS / name))


def page(name: str) -> str:
    return (PROJECT / "docs" / f"{PAGES[name]}.md").read_text(encoding="utf-8")


def accuracies(study: Study, part: str = ALL) -> pd.DataFrame:
    return kept_results(study).on_part(part)


@pytest.mark.parametrize("name", STUDIES)
def test_the_report_is_that_of_the_results(name: str, tmp_path: Path) -> None:
    copy_results(RESULTS / name, tmp_path)
    found = search_of(read_study(PROJECT / "configs" / "tasks" / f"{name}.yaml", tmp_path))
    task_report.write(kept_results(tuned(found)), found)
    for table in ("rows.csv", "tuning.csv"):
        made, committed = (pd.read_csv(folder / "report" / table) for folder in (tmp_path, RESULTS / name))
        pd.testing.assert_frame_equal(made, committed)
    made, committed = ((folder / "report" / "report.md").read_text("utf-8") for folder in (tmp_path, RESULTS / name))
    assert made == committed


@pytest.mark.parametrize("name", STUDIES)
def test_each_learning_rate_is_the_best_of_those_tried(name: str) -> None:
    tried, study = pd.read_csv(RESULTS / name / "report" / "tuning.csv"), tuned(search(name))
    for row, options in study.rows.items():
        of_row = tried[tried["row"] == row]
        assert of_row["lr"].tolist() == search(name).tuning.grid["lr"]
        assert options["model"]["lr"] == of_row.loc[of_row["loss"].idxmin(), "lr"]


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_shows_the_reports_tables(name: str) -> None:
    report, shown = (RESULTS / name / "report" / "report.md").read_text(encoding="utf-8"), page(name)
    for title in ("## Accuracy\n", "## Accuracy by part\n"):
        table = report.partition(title)[2].split("\n## ")[0]
        assert [line for line in table.splitlines() if line.startswith("| ") and line not in shown] == []


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_says_which_rows_are_missing(name: str) -> None:
    study = read_study(PROJECT / "configs" / "tasks" / f"{name}.yaml", RESULTS / name)
    counts = {line["row"]: int(line["runs"]) for line in lines(RESULTS / name / "report" / "rows.csv")}
    missing = [row for row in study.rows if counts.get(row, 0) < len(study.seeds)]
    said = page(name).partition(f"Not finished of `{name}`: ")[2].partition(".\n")[0]
    assert " ".join(said.split()) == "; ".join(missing)


def test_the_page_says_how_often_parity_is_learned() -> None:
    found = accuracies(tuned(search("parity")), "length=40")  # the longest of training
    shown = " ".join(page("parity").split())
    for most in (2, 1):
        seeds = found.loc[f"DeltaNet, β up to {most}"].dropna()
        assert f"with β up to {most} in {(seeds > 0.9).sum()} of {len(seeds)} runs" in shown


def test_the_page_says_how_well_s3_is_learned() -> None:
    study = tuned(search("s3"))
    here, further = ((100 * accuracies(study, f"length={length}").mean(axis=1)).round() for length in (16, 128))
    shown = " ".join(page("s3").split())
    assert f"eight times the length of training ({further.iloc[0]:.0f} and {further['LSTM']:.0f} %)" in shown
    one, two = here["DeltaNet, β up to 2"], here["Two delta steps, β up to 1"]
    others = here.drop(["Two delta steps, β up to 2", "LSTM", "DeltaNet, β up to 2", "Gated DeltaNet, β up to 2"])
    assert f"is at {one:.0f} % at the length of training, two with β up to 1 at {two:.0f}" in shown
    assert f"no other row is above {others.max():.0f}" in shown
