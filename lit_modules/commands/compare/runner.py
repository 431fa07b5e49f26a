"""The runs of a study: how far each has come, and doing what is left, in a process each so that one may fail alone."""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from filelock import FileLock, Timeout
from tqdm import tqdm

from lit_modules.commands.compare.study import Run
from lit_modules.console import hide_deprecations
from lit_modules.data.cache import replace_text
from lit_modules.training import checkpoint
from lit_modules.training.cli import run_command
from lit_modules.training.config_file import Options
from mixers.checks import UsageError, is_out_of_memory

# In a run's folder: the options that it was begun with and those that it was tested with, and why it failed.
TRAINED_WITH, TESTED_WITH, FAILED = "options.yaml", "test/options.yaml", "failed.txt"
LAST = "checkpoints/last.ckpt"
INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
GROWING = {"trainer.max_steps"}  # of a trunk, from one budget to the next
MEASURED = ("corpora.csv", "accuracy.csv")  # the last table that a test writes, on text and on a task
FOLDERS = {"trainer.default_root_dir", "trainer.logger.init_args.save_dir"}  # which may have been moved
OWN_NAME = {"trainer.logger.init_args.name"}  # of a row's folder


def status(run: Run) -> Literal["waiting", "begun", "trained", "finished", "failed"]:
    """How far a run has come, as its folder shows."""
    if why_it_failed(run):
        return "failed"
    measured = any((run.folder / "test" / table).is_file() for table in MEASURED)
    if measured and _options(run.folder / TESTED_WITH) == run.test:
        return "finished"
    if not (run.folder / LAST).is_file():
        return "waiting"
    return "trained" if _step(run) >= _steps(run) else "begun"


def _step(run: Run) -> int:
    """The step of a run's last checkpoint; 0 if there is none."""
    path = run.folder / LAST
    return checkpoint.read_file(path)["global_step"] if path.is_file() else 0


def _steps(run: Run) -> int:
    return run.options["trainer"]["max_steps"]


def why_it_failed(run: Run) -> str:
    """One sentence; nothing if it did not fail."""
    note = run.folder / FAILED
    return note.read_text(encoding="utf-8").strip() if note.is_file() else ""


def check_same(run: Run) -> None:
    """Raises UsageError if a run, or its trunk, was begun with other options than it has now."""
    _refuse_other_options(run, FOLDERS)
    if trunk := run.trunk:
        _refuse_other_options(trunk, FOLDERS | GROWING)
        if _step(trunk) > _steps(trunk) and not (run.folder / LAST).is_file():
            raise UsageError(
                f"{run.name} should branch off {str(trunk.folder)!r} at step {_steps(trunk)}, which is past it: delete "
                "that folder."
            )


def _refuse_other_options(run: Run, but: set[str]) -> None:
    if (begun_with := _options(run.folder / TRAINED_WITH)) is None:
        return
    for name, (there, asked) in different_options(begun_with, run.options, but).items():
        raise UsageError(
            f"{name}={asked!r} of {run.name} is not what {str(run.folder)!r} was begun with, "
            f"{there!r}: delete that folder, or write another --folder."
        )


def different_options(there: Options, asked: Options, but: set[str]) -> dict[str, tuple[Any, Any]]:
    """The options in which two runs differ, by name, but for some names: their values in both."""
    [ours], [theirs] = (pd.json_normalize(options).to_dict("records") for options in (there, asked))
    pairs = {name: (ours.get(name), theirs.get(name)) for name in sorted({*ours, *theirs} - but)}
    return {name: values for name, values in pairs.items() if values[0] != values[1]}


def run_all(runs: Sequence[Run]) -> Iterator[Run]:
    """Trains and tests runs, yielding each when it is over. One that fails says why in its folder."""
    start, done = time.monotonic(), 0
    for left, run in zip(range(len(runs), 0, -1), runs, strict=True):
        try:
            with locked(run):
                if status(run) not in ("finished", "failed"):  # another process may have come by
                    spent = time.monotonic() - start
                    about = f", about {tqdm.format_interval(spent / done * left)}" if done else ""
                    print(f"\n{run.name} ({left} to do{about})", flush=True)
                    _run(run)
                    done += 1
        except Timeout:
            print(f"\n{run.name}: another process is at it", flush=True)
        else:
            yield run


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Keeps a run and its trunk from other processes; raises Timeout if one of them is at it."""
    with contextlib.ExitStack() as locks:
        for each in filter(None, (run.trunk, run)):
            each.folder.mkdir(parents=True, exist_ok=True)
            locks.enter_context(FileLock(each.folder / "lock", timeout=0))
        yield


def _run(run: Run) -> None:
    """Does what is left of a run, and keeps the reason if it fails. Raises KeyboardInterrupt if asked to stop."""
    for each in filter(None, (run.trunk, run)):
        _write_options(each.folder / TRAINED_WITH, each.options)
    for argv in commands(run):
        process = multiprocessing.get_context("spawn").Process(target=_child, args=(argv, run.folder / FAILED))
        process.start()
        try:
            process.join()
        except KeyboardInterrupt:  # Ctrl-C reaches the child as well: it saves and ends
            process.join()
            raise
        if process.exitcode in INTERRUPTED:
            raise KeyboardInterrupt
        if process.exitcode:
            if not why_it_failed(run):
                replace_text(run.folder / FAILED, f"the process ended with {meaning(process.exitcode)}\n")
            print(f"failed: {why_it_failed(run)}", flush=True)
            return
    _write_options(run.folder / TESTED_WITH, run.test)


def commands(run: Run) -> list[list[str]]:
    """What is left to do, each as the arguments of a command line."""
    now, last = status(run), f"--ckpt_path={run.folder / LAST}"
    testing = ["test", last, *test_arguments(run.test)]
    if now == "trained":
        return [testing]
    if run.trunk is None or now == "begun":
        return [_training(run, last if now == "begun" else None), testing]
    trunk = f"--ckpt_path={run.trunk.folder / LAST}"
    branching = _training(run, trunk)
    if status(run.trunk) == "trained":
        return [branching, testing]
    return [_training(run.trunk, trunk if status(run.trunk) == "begun" else None), branching, testing]


def _training(run: Run, start: str | None) -> list[str]:
    return ["fit", f"--config={run.folder / TRAINED_WITH}", *([start] if start else [])]


def test_arguments(options: Options) -> list[str]:
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]


def _child(argv: list[str], note: Path) -> None:
    """A command; writes down why it failed, and stops when its parent is gone."""
    hide_deprecations()
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    sys.argv[1:] = argv  # what Lightning starts again for each of several devices
    try:
        run_command(argv)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED[0])
    except Exception as error:
        replace_text(note, reason(error) + "\n")
        if isinstance(error, FloatingPointError):
            sys.exit(1)
        raise  # with its traceback


def _stop_with_parent() -> None:
    """Asks this process to save and stop once its parent has ended, however that came about."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def reason(error: Exception) -> str:
    """Why a run failed, in one sentence."""
    if is_out_of_memory(error):
        return "out of memory"
    said = " ".join(str(error).split())
    return said if isinstance(error, FloatingPointError) else f"{type(error).__name__}: {said}"


def meaning(exitcode: int) -> str:
    """What a process ended with, in words."""
    if exitcode == -getattr(signal, "SIGKILL", 9):
        return "SIGKILL, most likely because memory ran out"
    return signal.Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"


def _write_options(path: Path, options: Options) -> None:
    replace_text(path, yaml.safe_dump(options, sort_keys=False, allow_unicode=True))


def _options(path: Path) -> Options | None:
    """The options in a file, if it is there."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
