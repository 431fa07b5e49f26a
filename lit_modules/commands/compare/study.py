"""A study: which rows are compared, how all of them are trained and tested, and where each run is kept."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mixers.checks import MissingFileError, UsageError, at_least

Options = dict[str, Any]

KEYS = {"rows", "seeds", "fit", "test", "cost"}
NEEDED = (("trainer", "max_steps"), ("data", "block_size"), ("data", "batch_size"))  # what rows must not differ in
SPELT = {"γ": "gamma", "=": "", "+": " plus "}  # in the names of folders
LOGGER = "pytorch_lightning.loggers.TensorBoardLogger"


@dataclass(frozen=True)
class CostOptions:
    """How the cost of each row's model is measured, the rows taking turns.

    Args:
        lengths: Tokens of one sequence, for the memory of training and the time of one more token.
        rounds: How often each row gets its turn.
    """

    lengths: tuple[int, ...] = (256, 512, 1024, 2048)
    rounds: int = 5


@dataclass(frozen=True)
class Run:
    """One training run of a study, which `fit` can also do alone, with `--config=options.yaml` of its folder."""

    row: str
    seed: int
    folder: Path
    options: Options  # of `fit`
    test: Options

    @property
    def name(self) -> str:
        return f"{self.row}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """Rows that are compared, each run with every seed.

    Args:
        name: What the file is called.
        folder: Where everything is kept.
        rows: What each row differs in from the others: options of `fit`. All are compared with the first.
        seeds: Of the weights, the dropout and the order of the text.
        fit: Options of `fit` that all rows share.
        test: Options of `test`.
        cost: How cost is measured.
    """

    name: str
    folder: Path
    rows: dict[str, Options]
    seeds: tuple[int, ...]
    fit: Options
    test: Options = field(default_factory=dict)
    cost: CostOptions = field(default_factory=CostOptions)

    @property
    def first(self) -> str:
        """The row that the others are compared with."""
        return next(iter(self.rows))

    def runs(self, rows: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> list[Run]:
        """The runs of some rows and seeds, by default all, seed by seed so that an early report has every row.

        Raises:
            ValueError: There is no such row or seed.
        """
        for row in rows or ():
            if row not in self.rows:
                raise UsageError(f"rows has {row!r}, which {self.name} does not: write some of {', '.join(self.rows)}.")
        for seed in seeds or ():
            if seed not in self.seeds:
                raise UsageError(f"seeds has {seed}, which {self.name} does not: write some of {list(self.seeds)}.")
        return [self.run(row, seed) for seed in seeds or self.seeds for row in rows or self.rows]

    def run(self, row: str, seed: int) -> Run:
        folder = self.folder / slug(row) / f"seed_{seed}"
        logger = {"save_dir": str(self.folder), "name": slug(row), "version": folder.name, "default_hp_metric": False}
        of_the_run = {
            "seed_everything": seed,
            "data": {"seed": seed},
            "trainer": {
                "default_root_dir": str(self.folder),
                "logger": {"class_path": LOGGER, "init_args": logger},
            },
        }
        return Run(row, seed, folder, overlaid(overlaid(self.fit, self.rows[row]), of_the_run), self.test)


def read_study(path: str | Path, folder: str | Path | None = None) -> Study:
    """The study that a YAML file describes.

    Args:
        path: The file, with `rows` and `fit`, and perhaps `seeds`, `test` and `cost`. Options of `fit`, `test` and
            `cost` may also be in files of their own, which it names.
        folder: Where to keep everything; by default runs/compare/ and the file's name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It does not describe a study.
    """
    path = Path(path)
    content = _read(path, "study")
    if not {"rows", "fit"} <= content.keys() <= KEYS:
        raise UsageError(
            f"study={str(path)!r} has {', '.join(map(str, content)) or 'nothing'}: it needs rows and fit, and may have "
            "seeds, test and cost."
        )
    rows, seeds = content["rows"], content.get("seeds", [0])
    if not (isinstance(rows, dict) and rows and all(isinstance(options, dict) for options in rows.values())):
        raise UsageError(f"rows of study={str(path)!r} should give options to one or more names.")
    if not (isinstance(seeds, list) and seeds and all(isinstance(seed, int) for seed in seeds)):
        raise UsageError(f"seeds={seeds!r} of study={str(path)!r} should be a list of whole numbers.")
    slugs = [slug(row) for row in rows]
    if len(set(slugs)) < len(slugs) or not all(slugs):
        raise UsageError(f"rows of study={str(path)!r} need names that differ in letters or digits.")
    fit = _section(content, "fit", path)
    for section, option in NEEDED:
        if not isinstance((fit.get(section) or {}).get(option), int):
            raise UsageError(f"fit of study={str(path)!r} needs {section}.{option}: write a whole number.")
    return Study(
        name=path.stem,
        folder=Path(folder) if folder else Path("runs") / "compare" / path.stem,
        rows=rows,
        seeds=tuple(seeds),
        fit=fit,
        test=_section(content, "test", path),
        cost=_cost(_section(content, "cost", path), path),
    )


def _section(content: Options, name: str, path: Path) -> Options:
    """Options that stand in the study, or in a file that it names, which lies beside it."""
    value = content.get(name) or {}
    if isinstance(value, str):
        return _read(path.parent / value, f"{name} of study={str(path)!r}, which")
    if not isinstance(value, dict):
        raise UsageError(f"{name}={value!r} of study={str(path)!r} should be options, or a file of them.")
    return value


def _read(path: Path, what: str) -> Options:
    if not path.is_file():
        raise MissingFileError(f"{what}={str(path)!r} is no file: write the path of a YAML file.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UsageError(f"{what}={str(path)!r} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{what}={str(path)!r} has no keys: it should be a YAML file of options.")
    return content


def _cost(options: Options, path: Path) -> CostOptions:
    if unknown := options.keys() - {"lengths", "rounds"}:
        raise UsageError(f"cost of study={str(path)!r} has {unknown.pop()!r}: it may have lengths and rounds.")
    usual = CostOptions()
    lengths, rounds = options.get("lengths", usual.lengths), options.get("rounds", usual.rounds)
    at_least(1, rounds=rounds, lengths=min(lengths, default=0))
    return CostOptions(tuple(sorted(lengths)), rounds)


def overlaid(below: Options, above: Options) -> Options:
    """Options with others over them, section by section; a class and its options are one value."""
    merged = dict(below)
    for name, value in above.items():
        there = merged.get(name)
        if isinstance(there, dict) and isinstance(value, dict) and "class_path" not in (*there, *value):
            value = overlaid(there, value)
        merged[name] = value
    return merged


def slug(row: str) -> str:
    """A row's name as a folder's: `RetNet, γ = 1` is `retnet_gamma_1`."""
    spelt = "".join(SPELT.get(letter, letter) for letter in row.lower())
    return re.sub(r"[^a-z0-9]+", "_", spelt).strip("_")
