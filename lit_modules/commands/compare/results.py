"""What came out of the runs, read from their folders."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_modules.commands.compare.status import status, why_it_failed
from lit_modules.commands.compare.study import Run, Study

ALL_SCALARS = {"scalars": 0}  # TensorBoard's reader thins out what it is not told to keep


class OnCorpus(NamedTuple):
    """A run's result on one corpus."""

    tokens: int
    loss: float  # nats a token
    bits_per_byte: float


class Point(NamedTuple):
    """Loss over the positions first to last of a context, the first being 1."""

    first: int
    last: int
    loss: float


@dataclass(frozen=True)
class Result:
    """A finished run."""

    run: Run
    corpora: dict[str, OnCorpus]  # the first is that of training
    positions: list[Point]
    contexts: dict[int, float]  # loss of the last 128 tokens, by the tokens read in all
    pieces: dict[str, np.ndarray]  # for each corpus the tokens and nats of consecutive pieces: (pieces, 2)

    @property
    def loss(self) -> float:
        return next(iter(self.corpora.values())).loss

    @cached_property
    def curve(self) -> dict[int, float]:
        """Training loss by optimizer step."""
        events = EventAccumulator(str(self.run.folder), ALL_SCALARS).Reload()
        return {event.step: event.value for event in events.Scalars("train/loss")}


@dataclass(frozen=True)
class RowResult:
    """The runs of a row: those that finished, and why others failed, by seed."""

    name: str
    results: list[Result]
    failed: dict[int, str]

    @property
    def losses(self) -> list[float]:
        return [result.loss for result in self.results]

    def on(self, corpus: str) -> float:
        """Mean loss on a corpus."""
        return float(np.mean([result.corpora[corpus].loss for result in self.results]))


def collect(study: Study) -> list[RowResult]:
    """The results of all runs, by row."""
    return [_row(row, [study.run(row, seed) for seed in study.seeds]) for row in study.rows]


def _row(name: str, runs: Sequence[Run]) -> RowResult:
    results = [read(run) for run in runs if status(run) == "finished"]
    failed = {run.seed: why_it_failed(run) for run in runs if status(run) == "failed"}
    failed |= {result.run.seed: "the test loss is not a number" for result in results if not math.isfinite(result.loss)}
    return RowResult(name, [result for result in results if result.run.seed not in failed], failed)


def read(run: Run) -> Result:
    """The result of a finished run."""
    folder = run.folder / "test"
    corpora = {
        line["corpus"]: OnCorpus(int(line["tokens"]), float(line["loss"]), float(line["bits_per_byte"]))
        for line in _lines(folder / "corpora.csv")
    }
    pieces: dict[str, list[tuple[float, float]]] = {corpus: [] for corpus in corpora}
    for line in _lines(folder / "pieces.csv"):
        pieces[line["corpus"]].append((float(line["tokens"]), float(line["nats"])))
    return Result(
        run=run,
        corpora=corpora,
        positions=[
            Point(int(line["first"]), int(line["last"]), float(line["loss"]))
            for line in _lines(folder / "positions.csv")
        ],
        contexts={int(line["context"]): float(line["loss"]) for line in _lines(folder / "contexts.csv")},
        pieces={corpus: np.array(numbers) for corpus, numbers in pieces.items()},
    )


def _lines(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
