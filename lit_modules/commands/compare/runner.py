"""The runs of a study: how far each has come, and doing what is left, in a process each so that one may fail alone."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

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
FOLDERS = {"trainer.default_root_dir", "trainer.logger.init_args.save_dir"}  # which may have been moved


def status(run: Run) -> Literal["waiting", "begun", "trained", "finished", "failed"]:
    """How far a run has come, as its folder shows."""
    if why_it_failed(run):
        return "failed"
    if (run.folder / "test" / "corpora.csv").is_file() and _options(run.folder / TESTED_WITH) == run.test:
        return "finished"
    if not (run.folder / LAST).is_file():
        return "waiting"
    step: int = checkpoint.read_file(run.folder / LAST)["global_step"]
    return "trained" if step >= run.options["trainer"]["max_steps"] else "begun"


def why_it_failed(run: Run) -> str:
    """One sentence; nothing if it did not fail."""
    note = run.folder / FAILED
    return note.read_text(encoding="utf-8").strip() if note.is_file() else ""


def check_same(run: Run) -> None:
    """Raises UsageError if a run was begun with other options than it has now."""
    if (begun_with := _options(run.folder / TRAINED_WITH)) is None:
        return
    [there], [asked] = (pd.json_normalize(options).to_dict("records") for options in (begun_with, run.options))
    for name in sorted({*there, *asked} - FOLDERS):
        if there.get(name) != asked.get(name):
            raise UsageError(
                f"{name}={asked.get(name)!r} of {run.name} is not what {str(run.folder)!r} was begun with, "
                f"{there.get(name)!r}: delete that folder, or write another --folder."
            )


def run_all(runs: Sequence[Run]) -> Iterator[Run]:
    """Trains and tests runs, yielding each when it is over. One that fails says why in its folder."""
    start, done = time.monotonic(), 0
    for left, run in zip(range(len(runs), 0, -1), runs, strict=True):
        run.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(run.folder / "lock", timeout=0):
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


def _run(run: Run) -> None:
    """Does what is left of a run, and keeps the reason if it fails. Raises KeyboardInterrupt if asked to stop."""
    _write_options(run.folder / TRAINED_WITH, run.options)
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
    training = ["fit", f"--config={run.folder / TRAINED_WITH}", *([last] if now == "begun" else [])]
    testing = ["test", last, *test_arguments(run.test)]
    return [testing] if now == "trained" else [training, testing]


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
