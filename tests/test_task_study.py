"""A study on a synthetic task: what it asks for, what its report says, and the rates it chooses."""

import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from small_runs import lines
from small_study import compared
from small_task_study import STUDY, prepare_task

from lit_modules.commands.compare import task_report
from lit_modules.commands.compare.results import kept_results
from lit_modules.commands.compare.runner import LAST, TRAINED_WITH
from lit_modules.commands.compare.study import Study, read_study
from lit_modules.commands.compare.tuning import search_of, tuned
from lit_modules.training import checkpoint
from lit_modules.training.cli import run_command
from mixers.checks import UsageError


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    folder = tmp_path_factory.mktemp("task")
    yield from compared(prepare_task(folder))


def test_every_row_has_the_accuracy_of_its_runs(done: Study) -> None:
    runs = pd.read_csv(done.folder / "report" / "runs.csv")
    for line in lines(done.folder / "report" / "rows.csv"):
        own = runs[(runs["row"] == line["row"]) & (runs["part"] == "all")]["accuracy"]
        found = [float(line[name]) for name in ("accuracy", "lowest", "highest")]
        assert found == pytest.approx([own.mean(), own.min(), own.max()])
        assert int(line["runs"]) == 2
    of_all = runs[runs["part"] == "all"].pivot(index="row", columns="seed", values="accuracy")
    apart = of_all.loc["LSTM"] - of_all.loc["Attention"]
    half = 12.706 * apart.std() / math.sqrt(2)  # Student's t with one degree of freedom
    [line] = [line for line in lines(done.folder / "report" / "rows.csv") if line["row"] == "LSTM"]
    expected = [apart.mean(), apart.mean() - half, apart.mean() + half]
    assert [float(line[name]) for name in ("difference", "low", "high")] == pytest.approx(expected, abs=1e-4)


def test_the_accuracies_are_those_of_test(done: Study) -> None:
    runs = pd.read_csv(done.folder / "report" / "runs.csv")
    own = runs[(runs["row"] == "LSTM") & (runs["seed"] == 1)]
    tested = pd.read_csv(done.folder / "lstm" / "seed_1" / "test" / "accuracy.csv")
    assert own["part"].tolist() == ["all", "length=6", "length=12"]
    for column in ("part", "length", "targets", "accuracy", "loss"):
        assert own[column].tolist() == pytest.approx(tested[column].tolist(), nan_ok=True), column


def test_the_rate_of_each_row_is_the_best_of_the_grid(done: Study) -> None:
    tried = pd.read_csv(done.folder / "report" / "tuning.csv")
    assert tried.groupby("row").size().to_dict() == {"Attention": 2, "LSTM": 2}
    for row, of_row in tried.groupby("row"):
        best = of_row.loc[of_row["loss"].idxmin()]
        assert best["best"]
        run = Path("attention" if row == "Attention" else "lstm", "seed_0", "options.yaml")
        assert f"lr: {best['lr']:g}" in (done.folder / run).read_text(encoding="utf-8")


def test_what_tuning_trained_is_not_trained_again_and_is_the_same(done: Study, tmp_path: Path) -> None:
    run = tuned(search_of(done)).run("LSTM", 0)
    assert not (run.folder / "config.yaml").exists()  # fit writes one
    assert (tuned(search_of(done)).run("LSTM", 1).folder / "config.yaml").exists()
    logger = f"--trainer.logger.init_args.save_dir={tmp_path}"
    run_command(["fit", f"--config={run.folder / TRAINED_WITH}", f"--trainer.default_root_dir={tmp_path}", logger])
    taken_over, alone = (
        checkpoint.read_file(folder / LAST)["state_dict"] for folder in (run.folder, tmp_path / "lstm" / "seed_0")
    )
    torch.testing.assert_close(taken_over, alone, rtol=0, atol=0)


def test_a_report_has_accuracy_by_part_and_against_the_state(done: Study) -> None:
    report = (done.folder / "report" / "report.md").read_text(encoding="utf-8")
    for title in ("Accuracy", "Accuracy by part", "Accuracy by length", "Sizes", "Tuning"):
        assert f"## {title}\n" in report
    assert "| length=6 ↑ | length=12 ↑ |" in report
    for picture in ("state", "length"):
        assert f"]({picture}.svg)" in report
        assert "<svg" in (done.folder / "report" / f"{picture}.svg").read_text(encoding="utf-8")


def test_the_state_is_that_after_the_longest_example_of_training(done: Study) -> None:
    sizes = task_report.sizes_of(done)
    keys_and_values, position = 2 * 6 * 16 * 4, 8
    assert sizes["Attention"].state_bytes == keys_and_values + position
    assert sizes["LSTM"].state_bytes == 2 * 16 * 4


def test_a_row_without_runs_has_no_numbers_and_one_run_has_no_spread(done: Study) -> None:
    study = tuned(search_of(done))
    results = kept_results(study)
    alone = results.table[(results.table["row"] == "Attention") & (results.table["seed"] == 0)]
    table = task_report.quality(type(results)(study, alone, {})).data
    assert "(" not in table.loc["Attention", "accuracy ↑"]
    assert table.loc["LSTM", "accuracy ↑"] == "–"
    assert table["runs"].tolist() == ["1 of 2", "0 of 2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": [{"steps": 4, "seeds": 1}]}, "budgets are tokens of text, and data='parity' has none"),
        ({"test": {"contexts": [128]}}, "test.contexts is for text: for data='parity'"),
        ({"rows": {"A": {"data": {"name": "mqar"}}}}, "row 'A' has data.name='mqar', others 'parity'"),
        ({"fit": {**STUDY["fit"], "data": {"name": "partiy"}}}, "data='partiy' is not known"),
        ({"fit": {**STUDY["fit"], "trainer": {}}}, "fit needs trainer.max_steps"),
    ],
)
def test_what_only_text_has_is_answered_in_a_sentence(changes, message, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_study(prepare_task(tmp_path, **changes))
