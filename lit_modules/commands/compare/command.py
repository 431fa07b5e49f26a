"""The command `compare`: does the runs of a study, and reports what there is."""

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable
from functools import cache
from itertools import filterfalse

from lit_modules.commands.compare import report, tables, task_report, tokens_report
from lit_modules.commands.compare.budgets import parts_of
from lit_modules.commands.compare.check_runs import check_runs, evaluation, named
from lit_modules.commands.compare.cost import costs_of
from lit_modules.commands.compare.results import Results, kept_results
from lit_modules.commands.compare.reuse import take_over
from lit_modules.commands.compare.runner import check_same, run_all, test_arguments
from lit_modules.commands.compare.study import Run, Study, read_study
from lit_modules.commands.compare.tuning import Search, check_study, losses_of, search_of, tuned, tuning_study
from lit_modules.console import short_path
from lit_modules.data.cache import default_cache
from lit_modules.data.corpora import load_corpus
from lit_modules.data.datamodule import Text
from lit_modules.data.files import is_path, is_pattern
from lit_modules.training.cli import run_command
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
        check(study_to_check)
        check_corpora(study_to_check)
        check_runs(study_to_check)

    study_to_check = parts_of(asked)[0]
    try:
        search = tune(asked, rows, checked) if asked.tuning else None
        tuned_study = tuned(search) if search else asked
        if search:
            take_over(search, tuned_study)
        parts = parts_of(tuned_study)
        done = [run_study(part, chosen(part, rows, seeds), checked) for part in parts]
        if search and (neighbours := check_study(search)):
            train(neighbours, neighbours.runs(), checked)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", flush=True)
        raise
    complete = all(results.over(run) for results in done for run in results.study.runs())
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


def check(study: Study) -> None:
    """Raises UsageError for options that `fit` or `test` do not take, before hours are spent on the other rows."""
    for row in study.rows:
        options = json.dumps(study.run(row, study.seeds[0]).options)
        _parse(["fit", f"--config={options}"], f"row {row!r} of {study.name}")
    _parse(["test", *test_arguments(study.test)], f"test of {study.name}")
    if not study.is_task:
        evaluation(Text(**study.fit["data"]), {"contexts": []} | study.test)


def check_corpora(study: Study) -> None:
    """Raises UsageError for a corpus that is neither packaged nor a file here; nothing is asked of the Hub."""
    if study.is_task:
        return
    trained = [study.options(row)["data"].get("corpus", "sotu") for row in study.rows]
    corpora = [name for corpus in trained for name in ([corpus] if isinstance(corpus, str) else corpus)]
    corpora += [other if isinstance(other, str) else other["corpus"] for other in study.test.get("corpora", [])]
    for corpus in dict.fromkeys(corpora):
        if "/" not in corpus or is_path(corpus) or is_pattern(corpus):
            load_corpus(corpus, cache_dir=default_cache())


def _parse(argv: list[str], whose: str) -> None:
    """Raises UsageError if a command line cannot be parsed."""
    with named(whose), contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        run_command([*argv, "--print_config"])
