"""Results of a study's runs as one table, each run's read once and kept in results.parquet."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import filterfalse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_modules.commands.compare.runner import status, why_it_failed
from lit_modules.commands.compare.study import Run, Study

KEPT = "results.parquet"
SMOOTHED = 20  # logged steps that a point of a loss curve is the mean of

# The columns of each table of `test`, as those of all results: `at` is the place that `kind` says, losses are nats per
# token. A piece is a stretch of the training corpus's test text, and by class of that of every corpus; a step is one of
# training.
TABLES = {
    "corpora": {"corpus": "corpus", "tokens": "tokens", "loss": "loss", "bits_per_byte": "bits_per_byte"},
    "pieces": {"corpus": "corpus", "piece": "at", "tokens": "tokens", "nats": "nats"},
    "positions": {"first": "at", "last": "last", "loss": "loss"},
    "contexts": {"context": "at", "loss": "loss"},
    "classes": {"corpus": "corpus", "kind": "by", "class": "class", "piece": "at", "tokens": "tokens", "nats": "nats"},
}
COLUMNS = {
    **dict.fromkeys(
        ("row", "digest", "kind", "corpus", "by", "class"), "str"
    ),  # digest: of the options that the run was made with
    **dict.fromkeys(("seed", "at", "last", "tokens"), "Int64"),
    **dict.fromkeys(("nats", "loss", "bits_per_byte"), "float64"),
}
COVERED = 0.95
STEPS = 100_000  # of an integral


class Difference(NamedTuple):
    """Mean loss of a row minus that of another, in nats per token, with the 95 % interval, nan if unknown."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Results:
    """The finished runs of a study, and why others failed."""

    study: Study
    table: pd.DataFrame  # a line for each number, with `COLUMNS`; without a seed it is a mean over seeds
    failed: dict[tuple[str, int], str]  # the reason of each run that failed, by row and seed

    @cached_property
    def _known(self) -> set[tuple[str, int]]:
        return {*zip(self.table["row"], self.table["seed"], strict=True), *self.failed}

    def over(self, run: Run) -> bool:
        """Whether a run has finished or failed, and will not be done again."""
        return (run.row, run.seed) in self._known

    def add(self, runs: Iterable[Run]) -> "Results":
        """These, and the results of those runs that have come to an end and are not among them yet."""
        found, failed = [self.table], dict(self.failed)
        for run in filterfalse(self.over, runs):
            now = status(run)
            if now == "finished":
                found.append(read(run, self.study.digest(run.row)))
            elif now == "failed":
                failed[run.row, run.seed] = why_it_failed(run)
        table = pd.concat(found, ignore_index=True)
        order = {row: place for place, row in enumerate(self.study.rows)}
        table = table.sort_values(["row", "seed"], key=lambda column: column.replace(order), kind="stable")
        bad = table[(table["kind"] == "corpora") & ~np.isfinite(table["loss"])]
        failed |= dict.fromkeys(zip(bad["row"], bad["seed"], strict=True), "the test loss is not a number")
        usable = [run not in failed for run in zip(table["row"], table["seed"], strict=True)]
        return Results(self.study, table.loc[usable], failed)

    def keep(self) -> None:
        """Writes the table to results.parquet, in one step."""
        path = self.study.folder / KEPT
        self.table.to_parquet(path.with_suffix(".partial"), index=False)
        os.replace(path.with_suffix(".partial"), path)

    def of(self, kind: str) -> pd.DataFrame:
        return self.table[self.table["kind"] == kind]

    @cached_property
    def corpora(self) -> list[str]:
        """The corpora that every finished run was tested on, that of training first."""
        tested = self.of("corpora").groupby(["row", "seed"], sort=False)["corpus"].agg(list).tolist()
        return [corpus for corpus in tested[0] if all(corpus in others for others in tested)] if tested else []

    def on(self, corpus: str, quantity: str = "loss") -> pd.DataFrame:
        """A quantity of each run on a corpus, one row for each of the study and one column for each seed."""
        found = self.of("corpora")
        found = found[found["corpus"] == corpus].pivot(index="row", columns="seed", values=quantity)
        return found.reindex(index=list(self.study.rows), columns=self.study.seeds).astype(float)

    @cached_property
    def losses(self) -> pd.DataFrame:
        """The test loss of each run on the training corpus, (rows, seeds), in nats per token; nan if it is missing."""
        return self.on(self.corpora[0] if self.corpora else "")

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A line for each row of the study: finished runs, loss over seeds, and difference to the first row."""
        losses, first = self.losses, self.study.first
        apart = {row: self.difference(row, first) for row in losses.dropna(how="all").index if row != first}
        differences = pd.DataFrame.from_dict(apart, orient="index", columns=["difference", "low", "high"], dtype=float)
        columns = {"runs": losses.count(axis=1), "loss": losses.mean(axis=1), "loss_deviation": losses.std(axis=1)}
        return pd.DataFrame(columns).join(differences)

    def mean(self, kind: str) -> pd.DataFrame:
        """Mean loss over seeds by row and `at`, of rows that have one."""
        found = self.of(kind).groupby(["row", "at"], sort=False)["loss"].mean().unstack()
        return found.reindex([row for row in self.study.rows if row in found.index])

    def by_class(self, by: str) -> pd.DataFrame:
        """The pieces of the training corpus with the classes of a kind, such as recall, a line for each class."""
        found = self.of("classes")
        return found[(found["by"] == by) & (found["corpus"] == (self.corpora[0] if self.corpora else ""))]

    def difference(self, row: str, other: str, pieces: pd.DataFrame | None = None) -> Difference:
        """The paired difference over seeds and pieces of text; nan where the two have no seed in common.

        Runs with the same seed read the same text in the same order, and both are tested on the same pieces, so each
        pair of (seed, piece) gives one difference. By default pieces are those of the training corpus.
        """
        pieces = self.of("pieces") if pieces is None else pieces
        ours, theirs = (
            pieces[pieces["row"] == name].pivot(index="seed", columns="at", values=["nats", "tokens"])
            for name in (row, other)
        )
        seeds = ours.index.intersection(theirs.index)
        if seeds.empty:
            return Difference(math.nan, math.nan, math.nan)
        apart = ours["nats"].loc[seeds] - theirs["nats"].loc[seeds]
        return two_way(apart.to_numpy(float), ours["tokens"].loc[seeds[0]].to_numpy(float))


def kept_results(study: Study) -> Results:
    """The results of earlier reports that are still this study's."""
    path = study.folder / KEPT
    table = pd.read_parquet(path) if path.is_file() else pd.DataFrame()
    table = table.reindex(columns=list(COLUMNS)).astype(COLUMNS)  # those written long ago lack some
    same = table["row"].map({row: study.digest(row) for row in study.rows}) == table["digest"]
    return Results(study, table.loc[same & (table["seed"].isin(study.seeds) | table["seed"].isna())], {})


def read(run: Run, digest: str) -> pd.DataFrame:
    """The numbers of a finished run, from the tables that `test` wrote and the losses that training logged."""
    found = {}
    for kind, columns in TABLES.items():
        path = run.folder / "test" / f"{kind}.csv"
        if path.is_file():  # runs tested long ago lack some
            found[kind] = pd.read_csv(path, usecols=list(columns)).rename(columns=columns)
    if "pieces" in found:
        found["pieces"] = found["pieces"][found["pieces"]["corpus"] == found["corpora"]["corpus"].iloc[0]]
    found["steps"] = _curve(run.folder)
    table = pd.concat([numbers.assign(kind=kind) for kind, numbers in found.items() if len(numbers)])
    return table.assign(row=run.row, seed=run.seed, digest=digest).reindex(columns=list(COLUMNS)).astype(COLUMNS)


def _curve(folder: Path) -> pd.DataFrame:
    """Training loss by optimizer step, each the mean of the last logged ones; of a short run perhaps none."""
    logs = EventAccumulator(str(folder), {"scalars": 0}).Reload()  # 0: without leaving any out
    events = logs.Scalars("train/loss") if "train/loss" in logs.Tags()["scalars"] else []
    if not events:
        return pd.DataFrame({"at": [], "loss": []})
    logged = pd.Series({event.step: event.value for event in events}).sort_index()
    smooth = logged.rolling(min(SMOOTHED, len(logged))).mean().dropna()
    return pd.DataFrame({"at": smooth.index, "loss": smooth.to_numpy()})


def two_way(nats: np.ndarray, tokens: np.ndarray) -> Difference:
    """The interval of a mean difference over seeds and pieces of text, both drawn at random (Howe's approximation).

    The variance of the mean is that between pieces and, beside it, that between seeds; each counts with its own
    Student's t, so that few seeds widen the interval as they should. With one seed only the pieces vary, and the
    interval says nothing of other seeds.

    Args:
        nats: Summed differences, (seeds, pieces).
        tokens: In each piece, (pieces,).
    """
    seeds, pieces = nats.shape
    mean = float(nats.sum() / seeds / tokens.sum())
    if pieces == 1:
        return Difference(mean, math.nan, math.nan)
    apart = (nats - mean * tokens) / tokens.mean()
    of_seeds, of_pieces = apart.mean(1, keepdims=True), apart.mean(0, keepdims=True)
    square = student_t(pieces - 1) ** 2 * seeds * np.sum(of_pieces**2) / (pieces - 1)
    if seeds > 1:
        rest = np.sum((apart - of_seeds - of_pieces) ** 2) / (seeds - 1) / (pieces - 1)
        between = pieces * np.sum(of_seeds**2) / (seeds - 1) - rest
        square += student_t(seeds - 1) ** 2 * max(between, 0.0)
    half = math.sqrt(square / seeds / pieces)
    return Difference(mean, mean - half, mean + half)


@cache
def student_t(degrees: int) -> float:
    """How many standard errors to each side cover 95 % with so many degrees of freedom."""
    # With x = sqrt(n) tan u the density is cos(u)^(n-1), up to a factor, over a bounded range.
    edges = np.linspace(0, math.pi / 2, STEPS + 1)
    density = np.cos((edges[:-1] + edges[1:]) / 2) ** (degrees - 1)
    covered = np.concatenate([[0.0], np.cumsum(density) / np.sum(density)])
    return math.sqrt(degrees) * math.tan(float(np.interp(COVERED, covered, edges)))
