"""The runs of a study: how far each has come, and doing what is left, in a process each so that one may fail alone."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import yaml
from filelock import FileLock, Timeout

from lit_modules.commands.compare.study import Options, Run
from lit_modules.data.cache import replace_text
from lit_modules.training import checkpoint
from lit_modules.training.cli import run_command
from mixers.benchmark.memory import OUT_OF_MEMORY
from mixers.checks import UsageError

INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
MINUTE, HOUR = 60, 3600
FOLDERS = {"trainer.default_root_dir", "trainer.logger.init_args.save_dir"}  # which may have been moved

Status = Literal["waiting", "begun", "trained", "finished", "failed"]


def status(run: Run) -> Status:
    """How far a run has come, as its folder shows."""
    if why_it_failed(run):
        return "failed"
    if (run.folder / "test" / "corpora.csv").is_file() and _options(tested_with(run)) == run.test:
        return "finished"
    last = last_checkpoint(run)
    if not last.is_file():
        return "waiting"
    step: int = checkpoint.read_file(last)["global_step"]
    return "trained" if step >= run.options["trainer"]["max_steps"] else "begun"


def last_checkpoint(run: Run) -> Path:
    return run.folder / "checkpoints" / "last.ckpt"


def trained_with(run: Run) -> Path:
    """The file of options that a run was begun with."""
    return run.folder / "options.yaml"


def tested_with(run: Run) -> Path:
    """The file of options that it was tested with, written once it was."""
    return run.folder / "test" / "options.yaml"


def why_it_failed(run: Run) -> str:
    """One sentence; nothing if it did not fail."""
    note = run.folder / "failed.txt"
    return note.read_text(encoding="utf-8").strip() if note.is_file() else ""


def check_same(run: Run) -> None:
    """Raises UsageError if a run was begun with other options than it has now."""
    begun_with = _options(trained_with(run))
    if begun_with is None:
        return
    there, asked = _flat(begun_with), _flat(run.options)
    for name in sorted({**there, **asked}.keys() - FOLDERS):
        if there.get(name) != asked.get(name):
            raise UsageError(
                f"{name}={asked.get(name)!r} of {run.name} is not what {str(run.folder)!r} was begun with, "
                f"{there.get(name)!r}: delete that folder, or write another --folder."
            )


def run_all(runs: Sequence[Run], after_each: Callable[[Run], object]) -> None:
    """Trains and tests runs. One that fails says why in its folder, and the next one begins.

    Args:
        runs: What is not over yet.
        after_each: Called with each run when it is over.
    """
    start, done = time.monotonic(), 0
    for place, run in enumerate(runs):
        run.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(run.folder / "lock", timeout=0):
                if status(run) not in ("finished", "failed"):  # another process may have come by
                    print(f"\n{run.name}{_left(start, done, len(runs) - place)}", flush=True)
                    _run(run)
                    done += 1
        except Timeout:
            print(f"\n{run.name}: another process is at it", flush=True)
        else:
            after_each(run)


def _run(run: Run) -> None:
    """Does what is left of a run, and keeps the reason if it fails.

    Raises:
        KeyboardInterrupt: It was asked to stop.
    """
    write_options(trained_with(run), run.options)
    for argv in commands(run):
        if why := _in_a_process(argv):
            print(f"failed: {why}", flush=True)
            replace_text(run.folder / "failed.txt", why + "\n")
            return
    write_options(tested_with(run), run.test)


def write_options(path: Path, options: Options) -> None:
    replace_text(path, yaml.safe_dump(options, sort_keys=False, allow_unicode=True))


def commands(run: Run) -> list[list[str]]:
    """What is left to do, each as the arguments of a command line."""
    training, last = ["fit", f"--config={trained_with(run)}"], last_checkpoint(run)
    testing = ["test", f"--ckpt_path={last}", *test_arguments(run.test)]
    match status(run):
        case "trained":
            return [testing]
        case "begun":
            return [[*training, f"--ckpt_path={last}"], testing]
        case _:
            return [training, testing]


def test_arguments(options: Options) -> list[str]:
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]


def _in_a_process(argv: list[str]) -> str:
    """Runs a command; why it failed, or nothing.

    Raises:
        KeyboardInterrupt: It was asked to stop.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(argv, theirs))
    process.start()
    theirs.close()
    try:
        process.join()
    except KeyboardInterrupt:  # Ctrl-C reaches the child as well: it saves and ends
        process.join()
        raise
    try:
        said = str(ours.recv())
    except EOFError:
        said = ""
    if process.exitcode in INTERRUPTED:
        raise KeyboardInterrupt
    return said or (f"the process ended with {meaning(process.exitcode)}" if process.exitcode else "")


def _child(argv: list[str], parent: Connection) -> None:
    """A command; tells its parent why it failed, and stops when the parent is gone."""
    threading.Thread(target=_stop_with, args=(parent,), daemon=True).start()
    sys.argv[1:] = argv  # what Lightning starts again for each of several devices
    try:
        run_command(argv)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED[0])
    except Exception as error:
        parent.send(reason(error))
        if isinstance(error, FloatingPointError):
            sys.exit(1)
        raise  # with its traceback


def _stop_with(parent: Connection) -> None:
    """Asks this process to save and stop once the other end of the pipe is closed, however that came about."""
    try:
        parent.poll(None)
        parent.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)


def reason(error: Exception) -> str:
    """Why a run failed, in one sentence."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return "out of memory"
    said = " ".join(str(error).split())
    return said if isinstance(error, FloatingPointError) else f"{type(error).__name__}: {said}"


def meaning(exitcode: int) -> str:
    """What a process ended with, in words."""
    if exitcode == -getattr(signal, "SIGKILL", 9):
        return "SIGKILL, most likely because memory ran out"
    return signal.Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"


def _left(start: float, done: int, left: int) -> str:
    """How many runs are left, and for how long at the speed so far."""
    if not done:
        return f" ({left} to do)"
    seconds = (time.monotonic() - start) / done * left
    time_left = f"{seconds / HOUR:.1f} hours" if seconds > HOUR else f"{seconds / MINUTE:.0f} minutes"
    return f" ({left} to do, about {time_left})"


def _options(path: Path) -> Options | None:
    """The options in a file, if it is there."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


def _flat(options: Options, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
