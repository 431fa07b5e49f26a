"""Runs of several processes for the tests: all of them in one pair, since starting one takes longer than training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from small_runs import SMALL_WORDS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PROJECT = Path(__file__).parents[1]
PROGRAM = """
import json, sys

import torch

from lit_modules.main import main

torch.set_num_threads(1)
for words in json.load(open(sys.argv[1])):
    main(words)
print(f"one of {torch.distributed.get_world_size()} processes\\n", end="", flush=True)  # not in pieces
"""
# The second process, and no other, gets a SIGTERM once something is saved.
STOPPED_PROGRAM = """
import os, signal, threading, time
from pathlib import Path

def stop():
    while not list(Path("stopped").rglob("last.ckpt")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

if os.environ.get("LOCAL_RANK") == "1":
    threading.Thread(target=stop, daemon=True).start()
"""


def fit(root: str, *words: str) -> list[str]:
    """The words of a small run that is the same on any number of processes, in a folder of its own."""
    return [*SMALL_WORDS, "--trainer.gradient_clip_val=1", f"--trainer.default_root_dir={root}", *words]


def on(processes: int, strategy: str) -> list[str]:
    """The words that ask for a number of processes."""
    return [f"--trainer.strategy={strategy}", f"--trainer.devices={processes}"]


def start(
    folder: Path, jobs: list[list[str]], *launcher: str, program: str = PROGRAM
) -> subprocess.CompletedProcess[str]:
    """Does jobs one after another in one group of processes, which Lightning starts or a launcher."""
    (folder / "program.py").write_text(program)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "program.py", "jobs.json"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)


def saved(root: Path, mixer: str = "retention", name: str = "last") -> dict:
    """The content of a run's checkpoint."""
    return torch.load(checkpoints(root, mixer) / f"{name}.ckpt", weights_only=True)


def checkpoints(root: Path, mixer: str = "retention") -> Path:
    """The folder of a run's checkpoints."""
    return root / mixer / "version_0" / "checkpoints"


def curve(root: Path, mixer: str, tag: str) -> list[float]:
    """The values that the only run of a mixer logged."""
    (run,) = (root / mixer).iterdir()
    return [event.value for event in EventAccumulator(str(run)).Reload().Scalars(tag)]
