"""A study: what it says, the runs that it carries out, and the report of them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from small_runs import lines
from small_study import BROKEN, STUDY, prepare
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_modules.commands.compare import report, results, runner
from lit_modules.commands.compare.results import kept_results
from lit_modules.commands.compare.runner import status, why_it_failed
from lit_modules.commands.compare.study import Study, read_study
from lit_modules.main import main
from mixers import LanguageModel, Retention

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study carried out, one row of which cannot be."""
    folder = tmp_path_factory.mktemp("study")
    path = prepare(folder, seeds=[0], rows={**STUDY["rows"], "Broken": BROKEN})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")  # as many as in this process, for the same rounding
        with pytest.raises(SystemExit, match=r"^1$"):  # a run failed
            main(["compare", str(path), f"--folder={folder / 'out'}", "--accelerator=cpu"])
    return read_study(path, folder / "out")


def test_every_run_that_can_finish_does(done: Study) -> None:
    assert [status(run) for run in done.runs()] == ["finished", "finished", "failed"]


def test_a_row_that_fails_says_why_and_the_others_have_their_numbers(done: Study) -> None:
    assert re.fullmatch(
        r"the loss is not finite at step \d+, where the learning rate is \S+: .*", why_it_failed(done.runs()[2])
    )
    retnet, linear, broken = lines(done.folder / "report" / "rows.csv")
    assert (broken["runs"], broken["loss"]) == ("0", "")
    assert "seed 0: the loss is not finite" in broken["failed"]
    assert float(linear["difference"]) == pytest.approx(float(linear["loss"]) - float(retnet["loss"]))
    assert float(linear["low"]) < float(linear["difference"]) < float(linear["high"])


def test_the_losses_are_those_of_test(done: Study) -> None:
    runs = lines(done.folder / "report" / "runs.csv")
    assert [(run["row"], run["corpus"]) for run in runs] == [
        (row, corpus) for row in ("RetNet", "Linear, one head") for corpus in ("corpus.txt", "other.txt")
    ]
    tested = lines(done.folder / "retnet" / "seed_0" / "test" / "corpora.csv")
    assert float(runs[0]["loss"]) == float(tested[0]["loss"])


def test_a_run_is_an_ordinary_one_that_fit_can_do_alone(done: Study, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(done.folder.parent)
    options = yaml.safe_load((done.folder / "retnet" / "seed_0" / "options.yaml").read_text(encoding="utf-8"))
    options["trainer"]["logger"]["init_args"]["save_dir"] = str(tmp_path)
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    main(["fit", f"--config={tmp_path / 'options.yaml'}"])
    run = Path("retnet", "seed_0", "checkpoints", "last.ckpt")
    ours, theirs = (torch.load(root / run, weights_only=True)["state_dict"] for root in (tmp_path, done.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_page_needs_nothing_beside_it_and_has_every_row_and_picture(done: Study) -> None:
    page = (done.folder / "report" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)|src=|@import|url\((?!#)", page)
    assert page.count("<svg") == 4
    for row in ("RetNet", "Linear, one head", "Broken", "The paper&#39;s Table 1, measured", "other.txt"):
        assert row in page
    assert 'name="viewport"' in page
    assert "@media print" in page


def test_markdown_shows_the_same_tables(done: Study) -> None:
    text = (done.folder / "report" / "report.md").read_text(encoding="utf-8")
    assert "| RetNet | " in text
    for picture in re.findall(r"\]\((\w+\.svg)\)", text):
        assert (done.folder / "report" / picture).is_file()


def test_tensorboard_has_the_runs_with_what_they_were_made_of(done: Study) -> None:
    events = EventAccumulator(str(done.folder / "tensorboard" / "retnet" / "seed_0")).Reload()
    assert events.Scalars("test/loss")[0].value == pytest.approx(kept_results(done).losses.loc["RetNet", 0])
    assert {"test/last 128 of 128", "test/last 128 of 256", "test/loss by position"} <= {*events.Tags()["scalars"]}
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")


def test_cost_is_measured_and_kept(done: Study) -> None:
    kept = json.loads((done.folder / "cost.json").read_text(encoding="utf-8"))
    cost = kept["rows"]["RetNet"]
    model = LanguageModel(lambda dim: Retention(dim, num_heads=2), vocab_size=257, dim=16, depth=1)
    assert cost["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert cost["state_bytes"][1][0] == cost["state_bytes"][1][1]  # 8 · 16 · 2 + 8 · 2 numbers and a position
    assert cost["state_bytes"][1][0] == 4 * (2 * 8 * 16 + 2 * 8) + 8
    assert cost["tokens_per_second"] is not None
    assert cost["tokens_per_second"] > 0


def test_a_log_shows_how_far_the_measuring_is(done: Study, capsys, monkeypatch) -> None:
    monkeypatch.chdir(done.folder.parent)
    (done.folder / "cost.json").unlink()
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["compare", "small.yaml", f"--folder={done.folder}", "--accelerator=cpu"])
    assert "round 1 of 1" in capsys.readouterr().out


def test_what_is_finished_is_not_done_again(done: Study, capsys, monkeypatch) -> None:
    monkeypatch.chdir(done.folder.parent)
    checkpoints = sorted(done.folder.rglob("*.ckpt"))
    before = [path.stat().st_mtime_ns for path in checkpoints]
    report = (done.folder / "report" / "index.html").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["compare", "small.yaml", f"--folder={done.folder}", "--accelerator=cpu"])
    assert "3 runs, 3 of them done" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in checkpoints] == before
    assert (done.folder / "report" / "index.html").read_text(encoding="utf-8") == report


def test_a_run_that_was_tested_otherwise_is_tested_again_and_not_trained(done: Study) -> None:
    other = replace(done, test={**done.test, "max_tokens": 200}).runs()[0]
    assert status(other) == "trained"
    [argv] = runner.commands(other)
    assert argv[0] == "test"
    assert "--max_tokens=200" in argv


def test_each_run_is_read_once_however_often_a_report_is_written(done: Study, tmp_path: Path, monkeypatch) -> None:
    copy = replace(done, folder=Path(shutil.copytree(done.folder, tmp_path / "copy")))
    (copy.folder / "results.parquet").unlink()
    reads = []
    monkeypatch.setattr(
        results, "read", lambda run, digest, read=results.read: reads.append(run.name) or read(run, digest)
    )
    collected = kept_results(copy)
    for run in copy.runs():
        collected = collected.add([run])
        report.write(collected, None)
    report.write(collected.add(copy.runs()), None)
    assert reads == [run.name for run in copy.runs() if status(run) == "finished"]
    collected.keep()
    assert kept_results(copy).add(copy.runs()).losses.equals(collected.losses)
    assert len(reads) == 2, "results.parquet has them"


def test_other_options_for_a_run_that_is_there_are_refused(done: Study, monkeypatch, capsys) -> None:
    monkeypatch.chdir(done.folder.parent)
    changed = yaml.safe_load(Path("small.yaml").read_text(encoding="utf-8"))
    changed["fit"]["model"]["dim"] = 32
    Path("changed.yaml").write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "changed.yaml", f"--folder={done.folder}"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"error: model\.dim=32 of RetNet, seed 0 is not what '.*' was begun with, 16: .*", error)


def report_of(folder: Path) -> list[str]:
    return [(folder / "report" / name).read_text(encoding="utf-8") for name in ("rows.csv", "runs.csv", "curves.svg")]


def test_a_study_killed_in_the_middle_goes_on_to_the_same_report(tmp_path: Path) -> None:
    path = prepare(tmp_path, seeds=[0])
    words = [sys.executable, str(PROJECT / "cli.py"), "compare", str(path), "--rows=[RetNet]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(folder: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*words, f"--folder={folder}"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
        )

    undisturbed = start("whole")
    killed = start("killed")
    checkpoint = tmp_path / "killed" / "retnet" / "seed_0" / "checkpoints" / "last.ckpt"
    while not checkpoint.is_file() and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "report").exists()
    assert start("killed").wait() == 0
    assert undisturbed.wait() == 0
    assert report_of(tmp_path / "killed") == report_of(tmp_path / "whole")


def test_a_row_is_no_different_from_itself(done: Study) -> None:
    assert kept_results(done).difference("RetNet", "RetNet") == (0, 0, 0)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out of memory"),
        (MemoryError(), "out of memory"),
        (FloatingPointError("the training loss is nan"), "the training loss is nan"),
        (ValueError("two\nlines"), "ValueError: two lines"),
    ],
)
def test_a_run_says_in_a_sentence_why_it_failed(error: Exception, reason: str) -> None:
    assert runner.reason(error) == reason


def test_a_process_that_was_killed_is_said_to_have_been() -> None:
    assert runner.meaning(-signal.SIGKILL) == "SIGKILL, most likely because memory ran out"
    assert runner.meaning(-signal.SIGSEGV) == "SIGSEGV"
    assert runner.meaning(3) == "exit code 3"
