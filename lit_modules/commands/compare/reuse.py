"""Runs of a study that its tuning has trained already, with the same options and the same seed."""

import os
import shutil

from filelock import Timeout

from lit_modules.commands.compare.runner import FOLDERS, LAST, OWN_NAME, different_options, locked, status
from lit_modules.commands.compare.study import Run, Study
from lit_modules.commands.compare.tuning import Search, tuning_study


def take_over(search: Search, study: Study) -> None:
    """Copies what tuning has trained to the study's runs that are the same, so that these have to be tested only."""
    tuning = tuning_study(search)
    for row in study.rows:
        best, seed = search.best(row), search.tuning.seed
        if best is None or seed not in study.seeds_of(row):
            continue
        run, trained = study.run(row, seed), tuning.run(best.name, seed)
        same = not different_options(trained.options, run.options, but=FOLDERS | OWN_NAME)
        if same and run.trunk is None and status(trained) == "finished":
            _copy(trained, run)


def _copy(trained: Run, run: Run) -> None:
    """Copies the training of a run to another that has not begun, the checkpoint last and in one step."""
    try:
        with locked(run):
            if status(run) != "waiting":
                return
            for logged in trained.folder.glob("events.*"):
                shutil.copy2(logged, run.folder)
            last = run.folder / LAST
            last.parent.mkdir(exist_ok=True)
            partial = last.with_suffix(f".{os.getpid()}.partial")
            shutil.copy2(trained.folder / LAST, partial)
            os.replace(partial, last)
    except Timeout:  # another process is at it
        pass
