"""A study: which rows are compared, how all of them are trained and tested, and where each run is kept."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentError, ArgumentParser

from lit_modules.commands.compare.study_sections import Budget, CostOptions, Tuning
from lit_modules.data import registry
from lit_modules.data.synthetic.task import Task
from lit_modules.training.config_file import Options, check_sections, read_options
from mixers.checks import SEEDS, MissingFileError, UsageError, at_least, between

SPELT = str.maketrans({"γ": "gamma", "=": "", "+": " plus "})  # in the names of folders
LOGGER = "pytorch_lightning.loggers.TensorBoardLogger"


class Run(NamedTuple):
    """One training run of a study, which `fit` can also do alone, with `--config=options.yaml` of its folder."""

    row: str
    seed: int
    folder: Path
    options: Options  # of `fit`
    test: Options
    trunk: "Run | None" = None  # the run at a constant rate that it branches off at the end of

    @property
    def name(self) -> str:
        return f"{self.row}, seed {self.seed}"


class Trunks(NamedTuple):
    """Runs at a constant learning rate that the runs of a study branch off, to cool down."""

    folder: Path
    steps: int  # of a trunk, at which a run branches off


@dataclass(frozen=True)
class Study:
    """Rows that are compared, each run with every seed.

    Raises:
        UsageError: Rows or seeds are missing, two rows would share a folder, or `fit` lacks what rows must share.
    """

    name: str  # of the file
    folder: Path  # where everything is kept
    rows: dict[str, Options]  # of `fit`: what each row differs in from the others; all are compared with the first
    fit: Options  # what all rows share
    seeds: list[int] = field(default_factory=lambda: [0])  # of the weights, the dropout and the order of the text
    test: Options = field(default_factory=dict)  # of `test`
    cost: CostOptions = field(default_factory=CostOptions)
    tuning: Tuning | None = None
    budgets: list[Budget] = field(default_factory=list)  # ascending; `fit` then says nothing of steps and schedule
    minor_rows: list[str] = field(default_factory=list)  # rows that a budget may run with fewer seeds
    fewer_seeds: dict[str, int] = field(default_factory=dict)  # rows that are run with so many of the seeds only
    trunks: Trunks | None = None  # of the study of one budget

    def __post_init__(self) -> None:
        if not self.rows:
            raise UsageError("rows={} should give options to one or more names.")
        if odd := [row for row in self.rows if not isinstance(row, str)]:
            raise UsageError(f"rows has the name {odd[0]!r}, which is no text: write it in quotes.")
        if len({slug(row) for row in self.rows} - {""}) < len(self.rows):
            raise UsageError(f"rows={list(self.rows)} need names that differ in letters or digits.")
        check_list("seeds", self.seeds)
        for seed in self.seeds:
            between(0, SEEDS, seeds=seed)
        # Here, because the parser would wrap what they raised themselves.
        searched: list[Budget | Tuning] = [*self.budgets, *([self.tuning] if self.tuning else [])]
        for part in searched:
            part.check()
        check_next = self.tuning.check_next if self.tuning else []
        for name, named in (("minor_rows", self.minor_rows), ("tuning.check_next", check_next)):
            if unknown := [row for row in named if row not in self.rows]:
                raise UsageError(f"{name} has {unknown[0]!r}, which is no row: write some of {list(self.rows)}.")
        for budget in self.budgets:
            between(1, len(self.seeds), **{"budgets.seeds": max(budget.seeds, budget.minor_seeds or 1)})
        steps = [budget.steps for budget in self.budgets]
        if steps != sorted({*steps}):
            raise UsageError(f"budgets.steps={steps} should be numbers that ascend.")
        check_sections(self.fit, "fit")
        for row, options in self.rows.items():
            check_sections(options, f"row {row!r}")
        of_all = [] if self.budgets else [("trainer", "max_steps")]
        if self.is_task:
            self._check_task()
        else:
            of_all += [("data", "block_size"), ("data", "batch_size")]
        for section, option in of_all:
            if not isinstance((self.fit.get(section) or {}).get(option), int):
                raise UsageError(f"fit needs {section}.{option}: write a whole number.")
            at_least(1, **{f"{section}.{option}": self.fit[section][option]})

    def _check_task(self) -> None:
        """Raises UsageError for what only studies of text have."""
        if self.budgets:
            raise UsageError(f"budgets are tokens of text, and data={self.data!r} has none: write trainer.max_steps.")
        if unknown := self.test.keys() - {"split"}:
            raise UsageError(f"test.{min(unknown)} is for text: for data={self.data!r} write split only.")
        for row, options in self.rows.items():
            if (name := (options.get("data") or {}).get("name", self.data)) != self.data:
                raise UsageError(f"row {row!r} has data.name={name!r}, others {self.data!r}: write a study of each.")

    @property
    def data(self) -> str:
        """The kind of data that all rows are trained on."""
        name: str = (self.fit.get("data") or {}).get("name", registry.DEFAULT)
        return name

    @property
    def is_task(self) -> bool:
        """Whether that is a synthetic task, whose results are accuracies."""
        return issubclass(registry.get(self.data), Task)

    @property
    def first(self) -> str:
        """The row that the others are compared with."""
        return next(iter(self.rows))

    def runs(self, rows: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> list[Run]:
        """The runs of some rows and seeds, by default all, seed by seed so that an early report has every row.

        Raises:
            UsageError: There is no such row or seed.
        """
        for name, chosen in (("rows", rows), ("seeds", seeds)):
            if chosen is not None:
                check_list(name, chosen)
        for name, asked, known in (("rows", rows, list(self.rows)), ("seeds", seeds, self.seeds)):
            if unknown := [value for value in asked or () if value not in known]:
                raise UsageError(f"{name} has {unknown[0]!r}, which {self.name} does not: write some of {known}.")
        pairs = [(row, seed) for seed in seeds or self.seeds for row in rows or self.rows]
        return [self.run(row, seed) for row, seed in pairs if seed in self.seeds_of(row)]

    def seeds_of(self, row: str) -> list[int]:
        """The seeds that a row is run with."""
        return self.seeds[: self.fewer_seeds.get(row)]

    def run(self, row: str, seed: int) -> Run:
        options, trunk = self.options(row), None
        if self.trunks:
            folder, steps = self.trunks
            constant = {"trainer": {"max_steps": steps}, "model": {"schedule": "constant"}}
            trunk = _run(folder, row, seed, deep_merge(options, constant), {})
            del trunk.options["model"]["cooldown_steps"]
        return _run(self.folder, row, seed, options, self.test)._replace(trunk=trunk)

    def options(self, row: str) -> Options:
        """The options of `fit` that all runs of a row share."""
        return deep_merge(self.fit, self.rows[row])

    def digest(self, row: str) -> str:
        """Changes with the options that a row is trained or tested with: results of others are not this study's."""
        asked = json.dumps([self.options(row), self.test], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _run(study: Path, row: str, seed: int, options: Options, test: Options) -> Run:
    folder = study / slug(row) / f"seed_{seed}"
    logger = {"save_dir": str(study), "name": slug(row), "version": folder.name, "default_hp_metric": False}
    trainer = {"default_root_dir": str(study), "logger": {"class_path": LOGGER, "init_args": logger}}
    of_the_run = {"seed_everything": seed, "data": {"seed": seed}, "trainer": trainer}
    return Run(row, seed, folder, deep_merge(options, of_the_run), test)


def read_study(path: str | Path, folder: str | Path | None = None) -> Study:
    """The study that a YAML file describes.

    Args:
        path: The file, with `rows` and `fit`, and perhaps `seeds`, `test`, `cost`, `tuning`, `budgets` and
            `minor_rows`. `fit` and `test` may also be the paths of files of options, seen from this one.
        folder: Where to keep everything; by default runs/compare/ and the file's name.

    Raises:
        MissingFileError: There is no such file.
        UsageError: It does not describe a study.
    """
    path = Path(path)
    content = _read(path, "study")
    for section in ("fit", "test"):
        if isinstance(value := content.get(section), str):
            content[section] = _read(path.parent / value, f"{section} of study={str(path)!r}, which")
    parser = ArgumentParser(exit_on_error=False)
    known = parser.add_class_arguments(Study, skip={"name", "folder", "fewer_seeds", "trunks"})
    try:
        if unknown := [name for name in content if name not in known]:
            raise UsageError(f"{unknown[0]!r} is no part of a study: it needs rows and fit, and may have seeds and "
                             "test and cost, tuning, budgets and minor_rows.")  # fmt: skip
        if "cost" in content and not isinstance(content["cost"] or {}, dict):
            raise UsageError(f"cost={content['cost']!r} is no mapping: write cost: {{lengths: [...], rounds: N}}.")
        options = parser.parse_object({name: value for name, value in content.items() if value is not None})
        folder = Path(folder or Path("runs", "compare", path.stem))
        return Study(path.stem, folder, **parser.instantiate(options).as_dict())
    except (ArgumentError, UsageError) as error:
        raise UsageError(f"study={str(path)!r}: {' '.join(str(error).split())}") from error


def _read(path: Path, what: str) -> Options:
    if not path.is_file():
        raise MissingFileError(f"{what}={str(path)!r} is no file: write the path of a YAML file.")
    return read_options(path, what)


def check_list(name: str, values: Sequence[Any]) -> None:
    """Raises UsageError for a list that is empty or has something twice."""
    if not values:
        raise UsageError(f"{name}=[] is empty: write at least one.")
    for value in values:
        if list(values).count(value) > 1:
            raise UsageError(f"{name}={list(values)} has {value!r} twice: write it once.")


def deep_merge(below: Options, above: Options) -> Options:
    """Options with others over them, section by section; a class and its options are one value."""
    merged = dict(below)
    for name, value in above.items():
        there = merged.get(name)
        if isinstance(there, dict) and isinstance(value, dict) and "class_path" not in (*there, *value):
            value = deep_merge(there, value)
        merged[name] = value
    return merged


def slug(row: str) -> str:
    """A row's name as a folder's: `RetNet, γ = 1` is `retnet_gamma_1`."""
    return re.sub(r"[^a-z0-9]+", "_", row.lower().translate(SPELT)).strip("_")
