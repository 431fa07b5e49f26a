"""Tuning: the options of each row that a study compares rows with, searched in the same way for all of them."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd

from lit_modules.commands.compare.budgets import at_budget
from lit_modules.commands.compare.results import Results, kept_results
from lit_modules.commands.compare.study import Study, deep_merge
from lit_modules.commands.compare.study_sections import Budget, Tuning
from mixers.checks import UsageError

FURTHEST = 8  # steps beyond an end of the grid: a search that goes on and on has met something else than a best

Cell = tuple[int, ...]  # the place of each option's value on its grid; below 0 and past the end the grid goes on


class Tried(NamedTuple):
    """One combination of values of a row."""

    row: str
    cell: Cell
    values: dict[str, float]

    @property
    def name(self) -> str:
        return ", ".join([self.row, *(f"{name} {value:g}" for name, value in self.values.items())])


@dataclass(frozen=True)
class Search:
    """What has been tried of each row, and with which loss."""

    study: Study  # to be tuned
    losses: Mapping[str, float]  # on the validation split, in nats per token, by the name of what was tried

    @property
    def tuning(self) -> Tuning:
        assert self.study.tuning is not None
        return self.study.tuning

    def tried(self, row: str) -> list[Tried]:
        """What has been tried of a row, or is to be: the grid, and the neighbours of the best so far."""
        cells = [*itertools.product(*(range(len(values)) for values in self.tuning.grid.values()))]
        while self.tuning.extend and self._is_known(row, cells):
            near = neighbours(min(cells, key=lambda cell: self.losses[self._at(row, cell).name]))
            if not (missing := [cell for cell in near if cell not in cells]):
                break
            cells += missing
        return [self._at(row, cell) for cell in cells]

    def best(self, row: str) -> Tried | None:
        """The best of a row; None if it is not known yet."""
        tried = self.tried(row)
        known = all(each.name in self.losses for each in tried)
        best = min(tried, key=lambda each: self.losses[each.name]) if known else None
        return best if best is None or math.isfinite(self.losses[best.name]) else None

    def _is_known(self, row: str, cells: list[Cell]) -> bool:
        return all(self._at(row, cell).name in self.losses for cell in cells)

    def _at(self, row: str, cell: Cell) -> Tried:
        grid = self.tuning.grid
        return Tried(row, cell, {name: value_at(grid[name], at) for name, at in zip(grid, cell, strict=True)})


def neighbours(cell: Cell) -> list[Cell]:
    """The cells beside one, also those diagonally."""
    near = [tuple(map(sum, zip(cell, by, strict=True))) for by in itertools.product((-1, 0, 1), repeat=len(cell))]
    return [other for other in near if other != cell]


def value_at(values: list[float], at: int) -> float:
    """A value of a grid, which goes on beyond its ends by the factor between its last two values there."""
    beyond = max(-at, at - len(values) + 1, 0)
    if beyond > FURTHEST:
        raise UsageError(f"tuning goes on beyond {values} without a best: give a grid that holds it.")
    if not beyond:
        return values[at]
    end, before = (values[0], values[1]) if at < 0 else (values[-1], values[-2])
    return float(f"{end * (end / before) ** beyond:.3g}")


def search_of(study: Study) -> Search:
    """The search of a study, with what has been found so far."""
    losses: dict[str, float] = {}
    while True:
        search = Search(study, losses)
        found = losses_of(kept_results(tuning_study(search)).add(tuning_study(search).runs()))
        if found.keys() == losses.keys():
            return search
        losses = found


def losses_of(results: Results) -> dict[str, float]:
    """The loss of each thing that was tried and is over; infinite if it failed."""
    losses = results.losses.iloc[:, 0].dropna().to_dict()
    return {**losses, **{row: math.inf for row, _ in results.failed}}


def tuning_study(search: Search) -> Study:
    """The study that is done to tune another: a row for each thing that is tried."""
    study = search.study
    return _trial(search, study.budgets[:1], "tuning", [tried for row in study.rows for tried in search.tried(row)])


def near_best(search: Search, row: str) -> list[Tried]:
    """The best of a row and its neighbours along each option; nothing while the best is not known."""
    best = search.best(row)
    return [each for each in search.tried(row) if distance(each.cell, best.cell) <= 1] if best else []


def check_study(search: Search) -> Study | None:
    """The best of some rows and its neighbours, at the next budget; None if there is nothing."""
    tried = [each for row in search.tuning.check_next for each in near_best(search, row)]
    return _trial(search, search.study.budgets[1:2], "tuning_check", tried) if tried else None


def distance(cell: Cell, other: Cell) -> int:
    """Steps along the options from one cell to another."""
    return sum(abs(a - b) for a, b in zip(cell, other, strict=True))


def _trial(search: Search, budgets: list[Budget], name: str, tried: list[Tried]) -> Study:
    """A study of what is tried, on the validation split, of whole runs at a budget."""
    asked, seed = search.study, search.tuning.seed
    study = at_budget(asked, budgets[0]) if budgets else asked
    return replace(
        study,
        name=f"{asked.name}: {name.replace('_', ' ')}",
        folder=asked.folder / name,
        rows={each.name: deep_merge(study.rows[each.row], {"model": each.values}) for each in tried},
        seeds=[seed],
        fewer_seeds={},
        test={"split": "validation"} if study.is_task else {"split": "validation", "contexts": [], "corpora": []},
        tuning=None,
        trunks=None,
    )


def tuned(search: Search) -> Study:
    """The study with the best that was found for each row; rows that are not tuned yet are left out."""
    study = search.study
    best = {row: found for row in study.rows if (found := search.best(row))}
    if study.first not in best:
        raise UsageError(
            f"no run of the tuning of {study.first!r} ended with a loss, and the others are compared with it."
        )
    rows = {row: deep_merge(study.rows[row], {"model": found.values}) for row, found in best.items()}
    return replace(study, rows=rows, minor_rows=[row for row in study.minor_rows if row in rows], tuning=None)


def table(search: Search) -> pd.DataFrame:
    """A line for each thing that was tried: row, values and loss, and whether it is the best of its row."""
    lines = []
    for row in search.study.rows:
        best = search.best(row)
        lines += [
            {"row": row, **each.values, "loss": search.losses[each.name], "best": best is not None and each == best}
            for each in search.tried(row)
            if each.name in search.losses
        ]
    return pd.DataFrame(lines, columns=["row", *search.tuning.grid, "loss", "best"])
