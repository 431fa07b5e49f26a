"""A run that was stopped anywhere and goes on is the run that was never stopped, bit for bit."""

import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from small_runs import model, text, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

STEPS = 12


class At(pl.Callback):
    """Calls something when a batch of a given number begins, in training or in a validation."""

    def __init__(self, batch: int, call: Any, *, in_validation: bool = False):
        self.batch, self.call, self.in_validation = batch, call, in_validation

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        if not self.in_validation and trainer.fit_loop.total_batch_idx == self.batch:
            self.call()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int, dataloader_idx: int = 0
    ) -> None:
        if self.in_validation and trainer.fit_loop.total_batch_idx == self.batch:
            self.call()


class Died(Exception):
    """What ends a run with no time to save."""


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def die() -> None:
    raise Died


def run(folder: Path, *callbacks: pl.Callback, ckpt_path: str | None = None, **options: Any) -> dict[str, Tensor]:
    """Trains, or trains on, and returns the weights."""
    data = text(folder)
    module = model(data)
    options = {"max_steps": STEPS} | options
    trainer(folder, callbacks=list(callbacks), **options).fit(module, datamodule=data, ckpt_path=ckpt_path)
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of the only run in a folder, but for the speed."""
    [version] = (folder / "runs").glob("*/version_*")
    board = EventAccumulator(str(version)).Reload()
    names = [name for name in board.Tags()["scalars"] if name != "tokens_per_second"]
    return {name: sorted({(event.step, event.value) for event in board.Scalars(name)}) for name in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], dict[str, list[tuple[int, float]]]]:
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), curves(folder)


@pytest.mark.parametrize("batch", range(STEPS - 1))
def test_a_run_interrupted_in_any_batch_goes_on_as_if_it_had_not_been(batch: int, whole: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, At(batch, interrupt))
    assert stopped.value.code == 130
    torch.testing.assert_close(run(tmp_path, ckpt_path="last"), whole[0], rtol=0, atol=0)
    assert curves(tmp_path) == whole[1]


@pytest.mark.parametrize("batch", [3, 7])
def test_a_run_interrupted_in_a_validation_runs_it_again_and_goes_on(batch: int, whole: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, At(batch, interrupt, in_validation=True))
    torch.testing.assert_close(run(tmp_path, ckpt_path="last"), whole[0], rtol=0, atol=0)
    assert curves(tmp_path) == whole[1]


@pytest.mark.parametrize("batch", [4, 7, 9])
def test_a_run_that_died_goes_on_from_an_older_checkpoint_as_if_it_had_not(
    batch: int, whole: Any, tmp_path: Path
) -> None:
    with pytest.raises(Died):
        run(tmp_path, At(batch, die), save_every_n_steps=3)
    torch.testing.assert_close(run(tmp_path, ckpt_path="last", save_every_n_steps=3), whole[0], rtol=0, atol=0)
    assert curves(tmp_path) == whole[1]


@pytest.mark.parametrize("batch", [4, 5, 6, 7])
def test_an_accumulated_step_is_finished_before_the_run_stops(batch: int, tmp_path: Path) -> None:
    accumulated = {"accumulate_grad_batches": 3, "max_steps": 4, "val_check_interval": 2}
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = run(tmp_path / "whole", **accumulated)
    with pytest.raises(SystemExit):
        run(tmp_path / "parts", At(batch, interrupt), **accumulated)
    parts = run(tmp_path / "parts", ckpt_path="last", **accumulated)
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")


def test_sigterm_stops_a_run_with_its_own_code_and_leaves_the_handlers_as_they_were(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, At(2, lambda: signal.raise_signal(signal.SIGTERM)))
    assert stopped.value.code == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    ran: list[int] = []
    with pytest.raises(SystemExit):
        run(tmp_path, At(2, twice), At(3, lambda: ran.append(3)))
    assert not ran
    assert not list(tmp_path.rglob("last.ckpt"))


def test_a_stopped_run_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run(tmp_path, At(2, interrupt))
    told = capsys.readouterr().out
    assert "Stopped at step 3 of 12" in told
    assert "fit --ckpt_path=last" in told
