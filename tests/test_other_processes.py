"""A process that a run needs is killed, or fails: the run ends with one sentence, and can go on."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import SMALL_WORDS, says, write_text
from torch import Tensor
from torch.utils.data import get_worker_info
from torch.utils.data._utils import signal_handling

from lit_modules.data.batches import Blocks
from lit_modules.main import main
from lit_modules.training.language_model import LitLanguageModel
from mixers.checks import UsageError

PROJECT = Path(__file__).parents[1]
# Of two processes the second kills itself in its fourth step.
PROGRAM = """
import os
import signal
import sys

import torch

from lit_modules.main import main
from lit_modules.training.language_model import LitLanguageModel

step = LitLanguageModel.training_step


def die(self, batch, batch_idx):
    if self.global_rank == 1 and batch_idx == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)


LitLanguageModel.training_step = die
torch.set_num_threads(1)
main(sys.argv[1:])
"""
WORKERS = ["--data.num_workers=2", "--trainer.max_steps=40", "--trainer.limit_val_batches=0"]


def before_step(number: int, call: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls something before a training step."""
    step = LitLanguageModel.training_step

    def training_step(self: LitLanguageModel, batch: Tensor, batch_idx: int) -> Tensor:
        if batch_idx == number:
            call()
        return step(self, batch, batch_idx)

    monkeypatch.setattr(LitLanguageModel, "training_step", training_step)


def saved_step() -> int:
    [last] = Path("runs").rglob("last.ckpt")
    return int(torch.load(last, weights_only=True)["global_step"])


@pytest.mark.parametrize(
    ("handler", "ended", "saved"),
    [(True, "is killed by signal: Killed", [3]), (False, "exited unexpectedly", range(3, 40, 3))],
)
def test_a_killed_worker_ends_the_run_and_it_goes_on(
    handler: bool,
    ended: str,
    saved: Sequence[int],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """torch learns of it by a signal; without its handler, as in a process's second run, when it waits for a batch."""

    def kill() -> None:
        if not handler:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        worker = multiprocessing.active_children()[0]
        worker.kill()
        wait([worker.sentinel])
        time.sleep(1)  # the signal, if it is heard, comes right after

    with monkeypatch.context() as patch:
        patch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
        before_step(5, kill, patch)
        sentence = says([*words, *WORKERS, "--trainer.save_every_n_steps=3"], capsys)
    assert sentence.startswith(f"a process that reads the training text ended too early (it {ended})")
    assert saved_step() in saved
    main(["fit", "--ckpt_path=last"])
    assert saved_step() == 40


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UsageError("cache/x.bin has changed: start again."), "cache/x.bin has changed: start again."),
        (FileNotFoundError(2, "No such file", "x.bin"), "the training text cannot be read ([Errno 2] No such file: 'x"),
    ],
)
def test_what_a_worker_says_is_one_sentence(
    error: Exception,
    sentence: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(self: Blocks) -> np.ndarray:
        assert get_worker_info() is not None
        raise error

    monkeypatch.setattr(Blocks, "_ids", property(fail))
    assert says([*words, *WORKERS], capsys).startswith(sentence)


def test_an_error_of_our_own_in_a_worker_keeps_its_traceback(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Blocks) -> np.ndarray:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Blocks, "_ids", property(fail))
    with pytest.raises(RuntimeError, match="a bug"):
        main([*words, *WORKERS])


def test_of_two_processes_the_other_ends_when_one_is_killed_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(Path("corpus.txt"))
    Path("program.py").write_text(PROGRAM)
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.save_every_n_steps=1"]
    command = [sys.executable, "program.py", *SMALL_WORDS, "--model.dim=16", *two, "--trainer.process_timeout=0.5"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 2
    assert ran.stderr.count("error: another process of this run was killed, or has not answered within") == 1
    assert saved_step() == 3
    main(["fit", "--ckpt_path=last", "--trainer.devices=1", "--trainer.strategy=auto"])
    assert saved_step() == 4
