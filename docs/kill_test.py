"""Kills a training run again and again, and checks that it ends as if nothing had happened.

Each life of the run is a process that is killed (SIGKILL, which no program can see coming) at a random moment of a
random phase: while it tokenises, trains, validates or saves. The next life goes on from its last checkpoint, or starts
anew while there is none. A run that reaches its end has to have the weights, the optimizer's state and the best
checkpoint of a run that nobody disturbed, bit for bit. Then the next run begins, until all kills are used up.

    OMP_NUM_THREADS=1 python docs/kill_test.py --kills=100

What is drawn is seeded; where a kill then strikes depends on the clock, too.
"""

import argparse
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lit_modules.data.datamodule import Text
from lit_modules.main import main
from lit_modules.training.checkpoint_io import CheckpointFiles
from lit_modules.training.language_model import LitLanguageModel

# A phase begins when its function is called.
PHASES: dict[str, tuple[Any, str]] = {
    "tokenising": (Text, "prepare_data"),
    "training": (LitLanguageModel, "training_step"),
    "validating": (LitLanguageModel, "validation_step"),
    "saving": (CheckpointFiles, "save_checkpoint"),
}
COUNT = struct.Struct("Q")
# Of a kill: the most calls of the phase's function that it lets pass, and the most seconds that it then waits.
PATIENCE = {"tokenising": (1, 0.4), "training": (8, 0.02), "validating": (3, 0.02), "saving": (3, 0.01)}
POLL = 2e-4  # seconds
WORDS = ("the", "state", "of", "union", "is", "strong", "and", "its", "people", "are", "free", "to", "say", "what")
OPTIONS = (
    "--data.corpus=corpus",
    "--data.tokenizer=bpe",
    "--data.vocab_size=300",
    "--data.block_size=32",
    "--data.batch_size=4",
    "--data.cache_dir=cache",
    "--model.mixer=retention",
    "--model.mixer.num_heads=2",
    "--model.overrides.1=attention",
    "--model.dim=32",
    "--model.depth=2",
    "--model.dropout=0.1",
    "--trainer.val_check_interval=10",
    "--trainer.limit_val_batches=2",
    "--trainer.save_every_n_steps=4",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",
)


class Calls:
    """How often each phase has begun in a child process, as its parent sees it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, COUNT.size * len(PHASES))

    def reset(self) -> None:
        self._memory[:] = bytes(len(self._memory))

    def of(self, phase: str) -> int:
        [count] = COUNT.unpack_from(self._memory, self._offset(phase))
        return int(count)

    def counted(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that counts its calls as those of a phase."""

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            COUNT.pack_into(self._memory, self._offset(phase), self.of(phase) + 1)
            return function(*arguments, **options)

        return call

    def _offset(self, phase: str) -> int:
        return COUNT.size * list(PHASES).index(phase)


def write_corpus(folder: Path, *, files: int = 40, words: int = 3000) -> None:
    """Files of random words, always the same."""
    rng = random.Random(0)
    folder.mkdir()
    for number in range(files):
        (folder / f"{number}.txt").write_text(" ".join(rng.choices(WORDS, k=words)), encoding="utf-8")


def start(argv: Sequence[str], log: Path) -> int:
    """Starts the command line in a process of its own, forked so that it need not import torch, and returns its id."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        with log.open("w", buffering=1) as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            main(argv)
            code = 0
    finally:
        os._exit(code)


def kill_in(phase: str, pid: int, calls: Calls, rng: random.Random) -> int:
    """Kills a process at a random moment of a phase, unless it has ended before; returns its exit code."""
    most_calls, most_seconds = PATIENCE[phase]
    wanted, wait = rng.randint(1, most_calls), rng.uniform(0, most_seconds)
    while calls.of(phase) < wanted:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(POLL)
    time.sleep(wait)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def differences(found: Path, expected: Path) -> list[str]:
    """The parts in which two runs differ, of their last and their best checkpoint."""
    parts = []
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (torch.load(next(root.rglob(name)), weights_only=True) for root in (found, expected))
        for part in ("state_dict", "optimizer_states", "global_step"):
            try:
                torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
            except AssertionError:
                parts.append(f"{part} of {name}")
    return parts


def fail(reason: str, log: Path) -> None:
    """Ends the test with what the process said last."""
    sys.exit(f"{reason}\n{log.read_text(errors='replace')[-4000:]}")


def run(kills: int, steps: int, seed: int) -> None:
    """Kills runs as often as asked, in the current folder, and checks what they end with."""
    rng, calls, log, struck = random.Random(seed), Calls(), Path("log.txt"), Counter[str]()
    for phase, (owner, name) in PHASES.items():
        setattr(owner, name, calls.counted(phase, getattr(owner, name)))
    write_corpus(Path("corpus"))
    options = [*OPTIONS, f"--trainer.max_steps={steps}"]
    whole, root, since, finished = Path("whole"), Path("run_0"), time.perf_counter(), 0
    if os.waitstatus_to_exitcode(
        os.waitpid(start(["fit", *options, f"--trainer.default_root_dir={whole}"], log), 0)[1]
    ):
        fail("the undisturbed run failed:", log)
    while sum(struck.values()) < kills or root.exists():  # the last run is brought to its end, too
        phase = rng.choice(list(PHASES)) if sum(struck.values()) < kills else None
        if phase == "tokenising":
            shutil.rmtree("cache", ignore_errors=True)
        resumed = any(root.rglob("last.ckpt"))
        calls.reset()
        where = f"--trainer.default_root_dir={root}"
        pid = start(["fit", where, *(["--ckpt_path=last"] if resumed else options)], log)
        code = kill_in(phase, pid, calls, rng) if phase else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == -signal.SIGKILL and phase:
            struck[phase] += 1
            partial = "".join(f", {path.name} left" for path in sorted(Path().rglob("*.partial")))
            print(
                f"kill {sum(struck.values()):3} at {time.perf_counter() - since:6.1f} s: {phase}, run {finished}, "
                f"{'gone on from its checkpoint' if resumed else 'started anew'}, after "
                f"{calls.of('training')} steps and {calls.of('saving')} checkpoints{partial}",
                flush=True,
            )
        elif code and f"at step {steps} already" not in log.read_text():  # it was killed after its end
            fail(f"a run ended with exit code {code} by itself:", log)
        else:
            if wrong := differences(root, whole):
                fail(f"run {finished} differs from the undisturbed one: {', '.join(wrong)}", log)
            print(f"run {finished} ended bit-identical to the undisturbed one", flush=True)
            finished += 1
            root = Path(f"run_{finished}")
    counts = ", ".join(f"{count} while {phase}" for phase, count in sorted(struck.items()))
    print(f"{sum(struck.values())} kills ({counts}); {finished} runs of {steps} steps, all bit-identical")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of a run")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run(asked.kills, asked.steps, asked.seed)
