"""Two processes train as one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import SMALL_WORDS, write_text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mixers import available

PROJECT = Path(__file__).parents[1]
STEPS = 20
# One program for all mixers: starting one takes longer than training does.
PROGRAM = """
import sys

import torch

from lit_modules.main import main

torch.set_num_threads(1)
root, names, *words = sys.argv[1:]
for name in names.split(","):
    main([*words, f"--model.mixer={name}", f"--trainer.default_root_dir={root}"])
    print("one of", torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1, "processes")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of every mixer, on one process and on two."""
    folder = tmp_path_factory.mktemp("runs")
    write_text(folder / "corpus.txt")
    (folder / "program.py").write_text(PROGRAM)
    # The learning rate and the warm-up are those of the default run. Adam turns rounding errors of tiny gradients into
    # steps of full size: at several times this rate Hyena drifts apart in float32 within 20 steps.
    words = [*SMALL_WORDS, "--model.warmup_steps=100"]
    words += [f"--trainer.max_steps={STEPS}", f"--trainer.val_check_interval={STEPS}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    for root, said in (("one", ["--trainer.devices=1"]), ("two", ["--trainer.strategy=ddp", "--trainer.devices=2"])):
        command = [sys.executable, "program.py", root, ",".join(sorted(available())), *words, *said]
        ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
        assert ran.returncode == 0, ran.stderr
        processes = len(said)  # and each of them says so
        assert ran.stdout.count(f"one of {processes} processes") == processes * len(available())
    return folder


@pytest.mark.parametrize("name", sorted(available()))
def test_two_processes_train_as_one_does(name: str, runs: Path) -> None:
    one, two = (runs / processes / name / "version_0" for processes in ("one", "two"))
    for tag in ("train/loss", "val/loss"):
        losses = [[event.value for event in EventAccumulator(str(run)).Reload().Scalars(tag)] for run in (one, two)]
        assert len(losses[0]) == (1 if tag == "val/loss" else STEPS)
        assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    weights = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (one, two)]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=1e-5)
