"""Each new run has a folder of its own."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from pytorch_lightning import Callback, LightningModule, Trainer
from small_runs import model, text, trainer

from lit_modules.training.run_folder import RunLogger, claim_version
from mixers.checks import UsageError

AT_ONCE = 16


def test_runs_that_start_at_once_have_different_folders(tmp_path: Path) -> None:
    gate = Barrier(AT_ONCE)

    def claim(_: int) -> int:
        gate.wait()
        return claim_version(tmp_path / "runs" / "retention")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        claimed = sorted(pool.map(claim, range(AT_ONCE)))
    assert claimed == list(range(AT_ONCE))


def test_numbers_go_on_from_the_highest(tmp_path: Path) -> None:
    for name in ("version_2", "version_10", "version_of_mine", "other"):
        (tmp_path / name).mkdir()
    assert claim_version(tmp_path) == 11
    assert RunLogger(tmp_path, "", None).log_dir == str(tmp_path / "version_12")


def test_a_logger_keeps_its_folder_and_makes_none_before_it_is_needed(tmp_path: Path) -> None:
    loggers = [RunLogger(tmp_path, "gru", None) for _ in range(2)]
    assert not list(tmp_path.iterdir())
    assert [logger.version for logger in loggers * 2] == [0, 1, 0, 1]
    assert RunLogger(tmp_path, "gru", "version_0").log_dir == loggers[0].log_dir


def test_two_runs_that_overlap_write_to_two_folders(tmp_path: Path) -> None:
    data = [text(tmp_path) for _ in range(2)]
    runs = [trainer(tmp_path, max_steps=1) for _ in range(2)]
    for run, own in zip(runs, data, strict=True):
        run.fit(model(own), datamodule=own)
    assert [Path(str(run.log_dir)).name for run in runs] == ["version_0", "version_1"]


def test_a_run_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    data, run = text(tmp_path, block_size=10**7), trainer(tmp_path, max_steps=1)
    with pytest.raises(UsageError, match="block_size=10000000"):
        run.fit(model(text(tmp_path)), datamodule=data)
    assert sorted(os.listdir(tmp_path)) == ["cache", "corpus.txt"]


def test_a_run_that_fails_while_it_trains_keeps_its_folder(tmp_path: Path) -> None:
    class Fails(Callback):
        def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                raise RuntimeError("enough")

    data, run = text(tmp_path), trainer(tmp_path, max_steps=2, callbacks=[Fails()])
    with pytest.raises(RuntimeError, match="enough"):
        run.fit(model(data), datamodule=data)
    assert list((tmp_path / "runs").glob("*/version_0/events*"))


def test_a_folder_that_another_run_uses_stays(tmp_path: Path) -> None:
    first, second = (RunLogger(tmp_path / "runs", "gru", None) for _ in range(2))
    folders = [Path(logger.log_dir) for logger in (first, second)]
    first.discard()
    assert [folder.exists() for folder in folders] == [False, True]
    (folders[1] / "config.yaml").touch()
    second.discard()
    assert folders[1].exists()
    RunLogger(tmp_path / "runs", "gru", "version_1").discard()
    assert folders[1].exists()
