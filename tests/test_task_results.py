"""The committed results on synthetic tasks: what is reported and written about them follows from them."""

import itertools
from pathlib import Path

import pandas as pd
import pytest
from small_runs import lines
from small_study import copy_results

from lit_modules.commands.compare import task_report
from lit_modules.commands.compare.intervals import Difference, over_seeds
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


def test_the_page_says_who_recalls() -> None:
    study = tuned(search("recall"))
    shown = " ".join(page("recall").split())
    percent = (100 * accuracies(study).mean(axis=1)).map("{:.0f}".format)
    most = (100 * accuracies(study, "length=256,num_kv_pairs=64").mean(axis=1)).map("{:.0f}".format)
    kilobytes = pd.read_csv(RESULTS / "recall" / "report" / "rows.csv", index_col="row")["state_bytes"] / 1000
    state = kilobytes.map("{:.0f}".format)
    first, second, third = (percent[row] for row in ("Attention", "Gated DeltaNet", "Based"))
    for sentence in (
        f"Based answer {first}, {second} and {third} % of all questions, DeltaNet {percent['DeltaNet']} %",
        f"Attention's state is {state['Attention']} KB at 64 ids and grows; theirs are {state['Gated DeltaNet']}, "
        f"{state['Based']} and {state['DeltaNet']}.",
        f"Gated DeltaNet is at {most['Gated DeltaNet']} %, attention at {most['Attention']} %, Based at "
        f"{most['Based']} % and DeltaNet at {most['DeltaNet']} %; all others are below 40 %",
        f"GDN-2 ({percent['GDN-2']} %) and KDA ({percent['KDA']} %)",
        f"Lightning attention ({percent['Lightning attention']} %), linear attention "
        f"({percent['Linear attention']} %), mLSTM ({percent['mLSTM']} %), HGRN2 ({percent['HGRN2']} %) and RWKV-7 "
        f"({percent['RWKV-7']} %)",
        f"mLSTM gets {percent['mLSTM']} % with {state['mLSTM']} KB, H3 {percent['H3']} % with {state['H3']}",
    ):
        assert sentence in shown
    ahead = ["Attention", "Gated DeltaNet", "Based", "DeltaNet"]
    assert most.drop(ahead).astype(int).max() < 40
    named = [*ahead, "GDN-2", "KDA", "Lightning attention", "Linear attention", "mLSTM", "HGRN2", "RWKV-7"]
    assert percent.drop(named).astype(int).max() == 10


def test_the_page_says_which_rows_of_recall_are_told_apart() -> None:
    found = accuracies(tuned(search("recall")))

    def ahead(row: str, other: str) -> Difference:
        return over_seeds(100 * (found.loc[row] - found.loc[other]).to_numpy())

    for row in ("Gated DeltaNet", "Based", "DeltaNet"):
        assert ahead("Attention", row).low < 0 < ahead("Attention", row).high
    for row in ("GDN-2", "KDA"):
        assert ahead("Attention", row).low > 0
    assert ahead("DeltaNet", "GDN-2").low > 0
    order = ["Attention", "Gated DeltaNet", "RWKV-7", "DeltaNet", "Mamba-2", "GLA", "H3", "Hyena"]
    for row, other in itertools.pairwise(order):
        apart = ahead(row, other)
        verdict = "the same" if apart.low > 0 else "reversed" if apart.high < 0 else "not decided"
        here = f"{100 * found.loc[row].mean():.1f} | {apart.mean:+.1f} | {apart.low:+.1f} to {apart.high:+.1f}"
        assert f" | {here} | {verdict} |" in page("recall")
