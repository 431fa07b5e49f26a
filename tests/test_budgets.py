"""Studies with tuning and budgets: each row at its best learning rates, compared after several numbers of steps."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from small_runs import lines
from small_study import STUDY, compared, copy_results, prepare

from lit_modules.commands.compare import tuning
from lit_modules.commands.compare.budgets import at_budget
from lit_modules.commands.compare.study import Study, read_study
from lit_modules.main import main
from mixers.checks import UsageError

PARTS: dict[str, object] = {
    "fit": {**STUDY["fit"], "trainer": {k: v for k, v in STUDY["fit"]["trainer"].items() if k != "max_steps"}},
    "tuning": {"grid": {"lr": [0.01, 0.1]}, "check_next": ["RetNet"]},
    "budgets": [{"steps": 8, "seeds": 2, "minor_seeds": 1}, {"steps": 12, "seeds": 1}, {"steps": 16, "seeds": 1}],
    "minor_rows": ["Linear, one head"],
    "test": {"split": "test", "contexts": []},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    folder = tmp_path_factory.mktemp("budgets")
    yield from compared(prepare(folder, **PARTS))


def test_every_row_is_compared_at_every_budget(done: Study) -> None:
    found = [(line["row"], line["tokens"], line["runs"]) for line in lines(done.folder / "report" / "tokens.csv")]
    assert found == [
        ("RetNet", "1024", "2"), ("Linear, one head", "1024", "1"),
        ("RetNet", "1536", "1"), ("Linear, one head", "1536", "1"),
        ("RetNet", "2048", "1"), ("Linear, one head", "2048", "1"),
    ]  # fmt: skip


def test_the_best_of_the_tuning_is_what_the_runs_have_and_is_not_on_an_edge(done: Study) -> None:
    tried = pd.read_csv(done.folder / "report" / "tuning.csv")
    for row in done.rows:
        values = tried[tried["row"] == row]
        [best] = values[values["best"]].to_dict("records")
        assert best["loss"] == values["loss"].min()
        folder = next((done.folder / "steps_8").glob(f"{row[:3].lower()}*"))
        options = yaml.safe_load((folder / "seed_0" / "options.yaml").read_text(encoding="utf-8"))
        assert options["model"]["lr"] == best["lr"]
        assert values["lr"].min() < best["lr"] < values["lr"].max()


def test_a_run_that_branched_off_is_the_run_that_went_straight(done: Study, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(done.folder.parent)
    folder = done.folder / "steps_16" / "retnet" / "seed_0"
    options = yaml.safe_load((folder / "options.yaml").read_text(encoding="utf-8"))
    options["trainer"]["logger"]["init_args"]["save_dir"] = str(tmp_path)
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    main(["fit", f"--config={tmp_path / 'options.yaml'}"])
    straight = torch.load(tmp_path / "retnet/seed_0/checkpoints/last.ckpt", weights_only=True)
    branched = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert straight["global_step"] == branched["global_step"] == 16
    torch.testing.assert_close(branched["state_dict"], straight["state_dict"], rtol=0, atol=0)


def test_trunks_end_where_the_last_budget_branches_off(done: Study) -> None:
    last = torch.load(done.folder / "trunks" / "retnet" / "seed_0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 16 - 3
    assert last["hyper_parameters"]["schedule"] == "constant"


def test_the_report_is_written_again_from_the_kept_results_alone(done: Study, tmp_path: Path) -> None:
    copy_results(done.folder, tmp_path)
    shutil.copy(done.folder / "steps_8" / "cost.json", tmp_path / "steps_8")
    main(["compare", "small.yaml", f"--folder={tmp_path}", "--accelerator=cpu"])
    for name in ("tokens.csv", "trends.csv", "tuning.csv", "report.md", "tokens.svg"):
        assert (tmp_path / "report" / name).read_bytes() == (done.folder / "report" / name).read_bytes(), name


def test_rows_that_are_not_tuned_yet_are_left_out(done: Study, tmp_path: Path) -> None:
    for path in done.folder.rglob("results.parquet"):
        kept = pd.read_parquet(path)
        copied = tmp_path / path.relative_to(done.folder)
        copied.parent.mkdir(parents=True, exist_ok=True)
        kept[kept["row"].str.startswith("RetNet")].to_parquet(copied)
    shutil.copytree(done.folder / "steps_8" / "retnet", tmp_path / "steps_8" / "retnet")
    main(["compare", "small.yaml", f"--folder={tmp_path}", "--rows=[RetNet]", "--accelerator=cpu"])
    found = [(line["row"], line["tokens"]) for line in lines(tmp_path / "report" / "tokens.csv")]
    assert found == [("RetNet", "1024"), ("RetNet", "1536"), ("RetNet", "2048")]
    assert not (tmp_path / "trunks").exists()
    assert not list(tmp_path.rglob("cost.json")), "costs are measured of all rows, in turns"


def test_the_neighbours_of_rows_that_were_not_asked_for_are_left_alone(done: Study, tmp_path: Path) -> None:
    copy_results(done.folder, tmp_path)
    shutil.copy(done.folder / "steps_8" / "cost.json", tmp_path / "steps_8")
    shutil.rmtree(tmp_path / "tuning_check")
    main(["compare", "small.yaml", f"--folder={tmp_path}", '--rows=["Linear, one head"]', "--accelerator=cpu"])
    assert not list(tmp_path.rglob("*.ckpt"))


Losses = dict[tuple[float, float], float]


def search(losses: Losses) -> tuning.Search:
    fit = {"data": {"block_size": 1, "batch_size": 1}, "trainer": {"max_steps": 1}}
    grid = tuning.Tuning({"lr": [1, 2], "mixer_lr_ratio": [1, 2]})
    named = {f"A, lr {lr:g}, mixer_lr_ratio {ratio:g}": loss for (lr, ratio), loss in losses.items()}
    return tuning.Search(Study("x", Path(), {"A": {}}, fit, tuning=grid), named)


def test_tuning_goes_on_to_the_neighbours_of_the_best_until_none_is_better() -> None:
    known: Losses = {}
    for _ in range(10):
        tried = [(each.values["lr"], each.values["mixer_lr_ratio"]) for each in search(known).tried("A")]
        if not (missing := {*tried} - known.keys()):
            break
        assert search(known).best("A") is None
        known |= {(lr, ratio): abs(lr - 8) + abs(ratio - 0.5) for lr, ratio in missing}
    best = search(known).best("A")
    assert best is not None
    assert best.values == {"lr": 8, "mixer_lr_ratio": 0.5}
    assert {(lr, ratio) for lr in (4, 8, 16) for ratio in (0.25, 0.5, 1)} <= known.keys()


def test_tuning_without_an_end_says_so() -> None:
    with pytest.raises(UsageError, match=r"tuning goes on beyond \[1, 2\] without a best: give a grid that holds it"):
        tuning.value_at([1, 2], 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning": {"grid": {}}}, "tuning.grid={} should name options"),
        ({"tuning": {"grid": {"lr": [0.1]}}}, r"tuning.grid.lr=\[0.1\] should be two or more numbers"),
        ({"tuning": {"grid": {"lr": [0.2, 0.1]}}}, "should be two or more numbers above 0, ascending"),
        ({"tuning": {"grid": {"lr": [0.1, 0.2]}, "check_next": ["B"]}}, "tuning.check_next has 'B', which is no row"),
        ({"minor_rows": ["B"]}, "minor_rows has 'B', which is no row"),
        ({"budgets": [{"steps": 8, "seeds": 3}]}, "budgets.seeds=3 is out of range"),
        ({"budgets": [{"steps": 8, "seeds": 1}, {"steps": 8, "seeds": 1}]}, "should be numbers that ascend"),
        ({"budgets": [{"steps": 1, "seeds": 1}]}, "budgets.steps=1 is too small"),
        ({"budgets": [{"steps": 8, "seeds": 1, "cooldown_steps": 8}]}, "budgets.cooldown_steps=8 is out of range"),
    ],
)
def test_a_study_that_asks_for_the_impossible_is_answered_in_a_sentence(changes, message, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_study(prepare(tmp_path, **{**PARTS, **changes}))


def test_the_study_of_a_budget_is_a_plain_one(done: Study) -> None:
    study = at_budget(done, done.budgets[0])
    assert [(run.row, run.seed) for run in study.runs()] == [("RetNet", 0), ("Linear, one head", 0), ("RetNet", 1)]
    run = study.run("RetNet", 1)
    assert run.trunk is not None
    assert (run.options["trainer"]["max_steps"], run.trunk.options["trainer"]["max_steps"]) == (8, 7)
