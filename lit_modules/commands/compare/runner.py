"""Carrying out the runs of a study: each in a process of its own, so that one that fails takes nobody with it."""

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

import yaml
from filelock import FileLock, Timeout

from lit_modules.commands.compare.status import OVER, check_same, last_checkpoint, status, tested_with, trained_with
from lit_modules.commands.compare.study import Options, Run, Study
from lit_modules.data.cache import replace_text
from mixers.benchmark.memory import OUT_OF_MEMORY

INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
MINUTE, HOUR = 60, 3600


def carry_out(study: Study, runs: Sequence[Run], after_each: Callable[[], object]) -> None:
    """Trains and tests what is not finished yet. A run that fails says so in its folder, and the next one begins.

    Args:
        study: Phase the runs are of.
        runs: Phase to do.
        after_each: Called after each run.

    Raises:
        ValueError: A run was begun with other options.
    """
    for run in runs:
        check_same(run)
    todo = [run for run in runs if status(run) not in OVER]
    print(f"{study.name}: {len(runs)} runs, {len(runs) - len(todo)} of them done", flush=True)
    start, done = time.monotonic(), 0
    for run in todo:
        run.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(run.folder / "lock", timeout=0):
                if status(run) not in OVER:  # another process may have come by
                    left = [run for run in todo if status(run) not in OVER]
                    print(f"\n{run.name}{_left(start, done, left)}", flush=True)
                    _carry_out(run)
                    done += 1
                    after_each()
        except Timeout:
            print(f"\n{run.name}: another process is at it", flush=True)


def _carry_out(run: Run) -> None:
    """Does what is left of a run, and keeps the reason if it fails.

    Raises:
        KeyboardInterrupt: It was asked to stop.
    """
    write_options(trained_with(run), run.options)
    for words in commands(run):
        if why := _in_a_process(words):
            print(f"failed: {why}", flush=True)
            replace_text(run.folder / "failed.txt", why + "\n")
            return
    write_options(tested_with(run), run.test)


def _in_a_process(words: list[str]) -> str:
    """Runs a command; why it failed, or nothing.

    Raises:
        KeyboardInterrupt: It was asked to stop.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(words, theirs))
    process.start()
    theirs.close()
    try:
        process.join()
    except KeyboardInterrupt:  # Ctrl-C reaches the child as well: it saves and ends
        process.join()
        raise
    said = _said(ours)
    if process.exitcode in INTERRUPTED:
        raise KeyboardInterrupt
    return said or (f"the process ended with {meaning(process.exitcode)}" if process.exitcode else "")


def write_options(path: Path, options: Options) -> None:
    replace_text(path, yaml.safe_dump(options, sort_keys=False, allow_unicode=True))


def commands(run: Run) -> list[list[str]]:
    """Phase is left to do, as words of the command line."""
    training, last = ["fit", f"--config={trained_with(run)}"], last_checkpoint(run)
    asked = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in run.test.items()]
    testing = ["test", f"--ckpt_path={last}", *asked]
    match status(run):
        case "trained":
            return [testing]
        case "begun":
            return [[*training, f"--ckpt_path={last}"], testing]
        case _:
            return [training, testing]


def _said(child: Connection) -> str:
    """Why a process that has ended failed, if it said so."""
    try:
        return str(child.recv())
    except EOFError:
        return ""


def _child(words: list[str], parent: Connection) -> None:
    """A command; tells its parent why it failed, and stops when the parent is gone."""
    from lit_modules.training.cli import CLI

    threading.Thread(target=_stop_with, args=(parent,), daemon=True).start()
    sys.argv[1:] = words  # what Lightning starts again for each of several devices
    try:
        CLI(words)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED[0])
    except Exception as error:
        parent.send(reason(error))
        if isinstance(error, FloatingPointError):
            sys.exit(1)
        raise  # with its traceback


def reason(error: Exception) -> str:
    """Why a run failed, in one sentence."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return "out of memory"
    said = " ".join(str(error).split())
    return said if isinstance(error, FloatingPointError) else f"{type(error).__name__}: {said}"


def _stop_with(parent: Connection) -> None:
    """Asks this process to save and stop once the other end of the pipe is closed, however that came about."""
    try:
        parent.poll(None)
        parent.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)


def meaning(exitcode: int) -> str:
    """Phase a process ended with, in words."""
    if exitcode == -getattr(signal, "SIGKILL", 9):
        return "SIGKILL, most likely for want of memory"
    return signal.Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"


def _left(start: float, done: int, runs: Sequence[Run]) -> str:
    """How many runs are left, and for how long at the speed so far."""
    if not done:
        return f" ({len(runs)} to do)"
    seconds = (time.monotonic() - start) / done * len(runs)
    time_left = f"{seconds / HOUR:.1f} hours" if seconds > HOUR else f"{seconds / MINUTE:.0f} minutes"
    return f" ({len(runs)} to do, about {time_left})"
