"""The tables of a study's tuning."""

import numpy as np
import pandas as pd

from lit_modules.commands.compare import tuning
from lit_modules.commands.compare.results import kept_results
from lit_modules.commands.table import MISSING, Table, number


def tuning_tables(search: tuning.Search) -> list[Table | None]:
    """The best of each row, everything that was tried, and whether the best still is at the next budget."""
    return [tuning_table(search), tried_table(search), check_table(search)]


def tuning_table(search: tuning.Search) -> Table:
    """The best of each row, and whether it lies inside what was tried."""
    tried, names = tuning.table(search), list(search.tuning.grid)
    best = tried[tried["best"]].set_index("row")
    inside = [
        all(_is_inside(line[name], tried[tried["row"] == row][name]) for name in names) for row, line in best.iterrows()
    ]
    counts = tried.groupby("row").size().reindex(best.index)
    columns = {name: best[name].map("{:g}".format) for name in names}
    worst = tried[np.isfinite(tried["loss"])].groupby("row")["loss"].max().reindex(best.index)
    unit = "target" if search.study.is_task else "token"
    extended = ", and on to the neighbours of the best until all are done" if search.tuning.extend else ""
    return Table(
        title="Tuning",
        note="The best options of each row, searched in the same way for all: from the same "
        f"grid{extended}. Validation loss in nats per {unit} (lower is better), one seed.",
        data=pd.DataFrame(
            {
                **columns,
                "loss ↓": best["loss"].map("{:.4f}".format),
                "worst": worst.map("{:.4f}".format),
                "tried": counts.map(number),
                "inside": ["yes" if each else "no" for each in inside],
            },
            index=best.index,
        ).rename_axis(None),
    )


def tried_table(search: tuning.Search) -> Table:
    """The loss of everything that was tried, a line for each row and first option, to read."""
    tried, (first, *others) = tuning.table(search), search.tuning.grid
    losses = tried["loss"].map("{:.3f}".format).mask(np.isinf(tried["loss"]), "failed")
    index = tried["row"] + f", {first} " + tried[first].map("{:g}".format)
    names = tried[others].map("{:g}".format).agg(" ".join, axis=1) if others else "loss ↓"
    data = pd.DataFrame({"index": index, "column": names, "loss": losses})
    columns = sorted({*data["column"]}, key=lambda name: [float(each) for each in name.split()] if others else [])
    data = data.pivot(index="index", columns="column", values="loss").fillna(MISSING)
    data = data.reindex(index=list(dict.fromkeys(index)), columns=columns).rename_axis(index=None, columns=None)
    return Table(
        title="Everything that was tried",
        note=f"Validation loss by {' and, in columns, '.join([first, ', '.join(others)] if others else [first])}.",
        data=data,
    )


def _is_inside(value: float, values: pd.Series) -> bool:
    return bool(values.min() < value < values.max())


def check_table(search: tuning.Search) -> Table | None:
    """The best and its neighbours at the next budget."""
    study = tuning.check_study(search)
    if study is None:
        return None
    losses = tuning.losses_of(kept_results(study).add(study.runs()))
    return Table(
        title="The best and its neighbours at the next budget",
        note="Validation loss in nats per token (lower is better), one seed: whether what is best at the first budget "
        "still is.",
        data=pd.DataFrame({"loss ↓": {name: f"{loss:.4f}" for name, loss in losses.items()}}),
    )
