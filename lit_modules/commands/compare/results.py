"""Results of a study's runs as one table, each run's read once and kept in results.parquet."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import filterfalse

import numpy as np
import pandas as pd

from lit_modules.commands.compare.intervals import Difference, two_way
from lit_modules.commands.compare.run_tables import COLUMNS, read, weights_of
from lit_modules.commands.compare.runner import status, why_it_failed
from lit_modules.commands.compare.study import Run, Study
from lit_modules.evaluation.answers import ALL

KEPT = "results.parquet"


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
        bad = table[table["kind"].isin(("corpora", "accuracy")) & ~np.isfinite(table["loss"])]
        failed |= dict.fromkeys(zip(bad["row"], bad["seed"], strict=True), "the test loss is not a number")
        usable = [run not in failed for run in zip(table["row"], table["seed"], strict=True)]
        return Results(self.study, table.loc[usable], failed)

    def keep(self) -> None:
        """Writes the table to results.parquet, in one step."""
        path = self.study.folder / KEPT
        partial = path.with_suffix(f".{os.getpid()}.partial")  # another process may share the work
        self.table.to_parquet(partial, index=False)
        os.replace(partial, path)

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
    def weights(self) -> dict[str, float]:
        """The corpora that the runs were trained on, with their shares of the training, of sum 1."""
        shares = weights_of(self.study.fit["data"].get("corpus"))
        return shares or dict.fromkeys(self.corpora[:1], 1.0)

    def on_training_text(self, quantity: str = "loss") -> pd.DataFrame:
        """A quantity of each run on the test text of the training corpora, the mean by their shares: as `on`."""
        parts = [weight * self.on(corpus, quantity) for corpus, weight in self.weights.items()]
        return sum(parts[1:], parts[0]) if parts else self.on("", quantity)

    @cached_property
    def losses(self) -> pd.DataFrame:
        """The test loss of each run on its training data, (rows, seeds), in nats per target; nan if it is missing."""
        return self.on_part(ALL, "loss") if self.study.is_task else self.on_training_text()

    def on_part(self, part: str, quantity: str = "accuracy") -> pd.DataFrame:
        """A quantity of each run on a part of a synthetic task, or on all parts: as `on`."""
        found = self.of("accuracy")
        found = found[found["class"] == part].pivot(index="row", columns="seed", values=quantity)
        return found.reindex(index=list(self.study.rows), columns=self.study.seeds).astype(float)

    @property
    def others(self) -> list[str]:
        """The corpora to look at beside the training text: of a mixture also its parts."""
        return [corpus for corpus in self.corpora if corpus not in self.weights or len(self.weights) > 1]

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
        """The pieces of the training text with the classes of a kind, such as recall, a line for each class."""
        found = self.of("classes")
        return self.weighted(found[(found["by"] == by) & found["corpus"].isin(list(self.weights))])

    def weighted(self, pieces: pd.DataFrame) -> pd.DataFrame:
        """Pieces with tokens and nats scaled so that each corpus has its share of them, whatever was tested."""
        tokens = self.of("corpora").groupby("corpus")["tokens"].max().reindex(list(self.weights)).astype(float)
        factors = pd.Series(self.weights, dtype=float) / (tokens / tokens.sum())
        factor = pieces["corpus"].map(factors).to_numpy(float)
        return pieces.assign(tokens=pieces["tokens"].to_numpy(float) * factor, nats=pieces["nats"] * factor)

    def difference(self, row: str, other: str, pieces: pd.DataFrame | None = None) -> Difference:
        """The paired difference over seeds and pieces of text; nan where the two have no seed in common.

        Runs with the same seed read the same text in the same order, and both are tested on the same pieces, so each
        pair of (seed, piece) gives one difference. By default pieces are those of the training text.
        """
        pieces = self.weighted(self.of("pieces")) if pieces is None else pieces
        ours, theirs = (
            pieces[pieces["row"] == name].pivot(index="seed", columns=["corpus", "at"], values=["nats", "tokens"])
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
