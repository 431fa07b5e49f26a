"""The command `compare`: does the runs of a study, and reports what there is."""

import sys
import time
from collections.abc import Callable
from functools import cache
from itertools import filterfalse

from lit_modules.commands.compare import report, tables, task_report, tokens_report
from lit_modules.commands.compare.budgets import parts_of
from lit_modules.commands.compare.check import check
from lit_modules.commands.compare.cost import costs_of
from lit_modules.commands.compare.results import Results, kept_results
from lit_modules.commands.compare.reuse import take_over
from lit_modules.commands.compare.runner import check_same, run_all
from lit_modules.commands.compare.study import Run, Study, read_study
from lit_modules.commands.compare.tuning import (
    Search,
    check_study,
    losses_of,
    near_best,
    search_of,
    tuned,
    tuning_study,
)
from lit_modules.console import short_path
from lit_modules.training.precision import device

PAUSE = 20  # seconds until a process that waits for another looks again


def compare(
    study: str,
    *,
    folder: str | None = None,
    rows: list[str] | None = None,
    seeds: list[int] | None = None,
    accelerator: str = "auto",
) -> None:
    """Trains and tests every row of a study with every seed, and writes a report of it.

    What is finished already is left as it is, and what was begun goes on, so it can be stopped at any moment. Two of
    these at once share the work. Results are kept in results.parquet of the folder: where it has all runs, the report
    is only written again, without training anything. The exit code is 1 if a run failed.

    A study on a synthetic task, which `data.name` of its `fit` says, reports accuracies, and measures no cost.

    A study with `tuning` first finds each row's best learning rates; one with `budgets` compares the rows after each
    number of steps, and has a report on each and one on how the differences change.

    Args:
        study: The study's YAML file: rows, seeds, and what all runs share.
        folder: Where to keep everything; by default runs/compare/ and the file's name.
        rows: Do these rows only, such as `[RetNet, RWKV]`.
        seeds: Do these seeds only, such as `[0, 1]`.
        accelerator: The hardware that the cost of each row is measured on: `auto`, `cpu`, `gpu` or `mps`. That of the
            training is an option of `fit` in the study.

    Raises:
        MissingFileError: There is no such file.
        UsageError: The study, or the options of one of its rows, is not right.
    """
    asked, measured_on = read_study(study, folder), device(accelerator)
    asked.runs(rows, seeds)  # raises for what is not there

    @cache
    def checked() -> None:  # before the first run, if there is any to do
        check(parts_of(asked)[0])

    try:
        search = tune(asked, rows, checked) if asked.tuning else None
        tuned_study = tuned(search) if search else asked
        if search:
            take_over(search, tuned_study)
        parts = parts_of(tuned_study)
        done = [run_study(part, chosen(part, rows, seeds), checked) for part in parts]
        if search:
            check_next(search, rows or list(asked.rows), checked)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", flush=True)
        raise
    untuned = rows is not None and len(tuned_study.rows) < len(asked.rows)  # nobody has asked for those yet
    complete = not untuned and all(results.over(run) for results in done for run in results.study.runs())
    if asked.is_task:
        page, shown = task_report.write(done[0], search), task_report.quality(done[0])
    else:
        costs = costs_of(parts[0], measured_on, measure=complete)  # at other budgets it is the same
        page, shown = report.write(done[0], costs, None if asked.budgets else search), tables.quality(done[-1])
        report.write_tensorboard(done[0])
    if asked.budgets:
        page = tokens_report.write(asked, done, search)
    print(f"\n{shown.data.to_string(index_names=False)}\n\nreport: {short_path(page)}", flush=True)
    if any(results.failed for results in done):
        sys.exit(1)


def tune(asked: Study, rows: list[str] | None, checked: Callable[[], None]) -> Search:
    """Does the search of a study for some of its rows and the one that they are compared with."""
    wanted = {*(rows or asked.rows), asked.first}
    while True:
        search = search_of(asked)
        names = [tried.name for row in asked.rows if row in wanted for tried in search.tried(row)]
        if not (missing := [name for name in names if name not in search.losses]):
            return search
        study = tuning_study(search)
        results = train(
            study,
            study.runs(missing),
            checked,
            after=lambda results: tokens_report.write(asked, [], Search(asked, losses_of(results))),
        )
        if losses_of(results).keys() == search.losses.keys():
            time.sleep(PAUSE)  # another process is at what is left


def check_next(search: Search, rows: list[str], checked: Callable[[], None]) -> None:
    """Does what `tuning.check_next` asks for some of the rows: their best and its neighbours, at the next budget."""
    study, wanted = check_study(search), [row for row in search.tuning.check_next if row in rows]
    if study and wanted:
        train(study, study.runs([each.name for row in wanted for each in near_best(search, row)]), checked)


def chosen(study: Study, rows: list[str] | None, seeds: list[int] | None) -> list[Run]:
    """The runs of a study that were asked for, of those that it has."""
    return [run for run in study.runs() if run.row in (rows or study.rows) and run.seed in (seeds or study.seeds)]


def run_study(study: Study, runs: list[Run], checked: Callable[[], None]) -> Results:
    """Does what is left of these runs, and writes a report after each of them and at the end."""

    def write(results: Results) -> None:
        if study.is_task:
            task_report.write(results)
        else:
            report.write(results, None)

    results = train(study, runs, checked, after=write)
    write(results)
    return results


def train(
    study: Study,
    runs: list[Run],
    checked: Callable[[], None],
    after: Callable[[Results], object] = lambda results: None,
) -> Results:
    """Does what is left of these runs; the results of the study, which are kept after each of them."""
    results = kept_results(study)
    for run in filterfalse(results.over, study.runs()):
        check_same(run)
    results = results.add(study.runs())
    todo = list(filterfalse(results.over, runs))
    if todo:
        checked()
    print(f"{study.name}: {len(runs)} runs, {len(runs) - len(todo)} of them done", flush=True)
    for _ in run_all(todo):
        results = results.add(study.runs())
        results.keep()
        after(results)
    results = results.add(study.runs())
    results.keep()
    return results
