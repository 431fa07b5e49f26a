"""The report of a study on a synthetic task: accuracy by part, and against the size of the state."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch.utils import _pytree as pytree

from lit_modules.commands import plots
from lit_modules.commands.compare import tables, tuning
from lit_modules.commands.compare.cost import build_model
from lit_modules.commands.compare.figures import SIZE, Picture, picture, plot_named, styles
from lit_modules.commands.compare.intervals import over_seeds
from lit_modules.commands.compare.report import write_page
from lit_modules.commands.compare.results import Results
from lit_modules.commands.compare.study import Study
from lit_modules.commands.compare.tuning_tables import tuning_tables
from lit_modules.commands.table import MISSING, Table
from lit_modules.data import registry
from lit_modules.data.synthetic.task import Task
from lit_modules.evaluation.answers import ALL
from mixers import LanguageModel
from mixers.benchmark import Case


class Size(NamedTuple):
    """Of a row's model: its parameters, and the state of one sequence as long as the longest of training."""

    parameters: int
    state_bytes: int


def write(results: Results, search: tuning.Search | None = None) -> Path:
    """Writes the report of the runs that there are; where its page is."""
    study, sizes = results.study, sizes_of(results.study)
    everything = [quality(results), parts(results), by_length(results), against_state(results, sizes)]
    everything += [size_table(study, sizes), tables.failures(results), *(tuning_tables(search) if search else [])]
    runs = results.of("accuracy")[["row", "seed", "class", "at", "tokens", "loss", "accuracy"]]
    runs = runs.rename(columns={"class": "part", "at": "length", "tokens": "targets"})
    files = {"rows.csv": rows(results, sizes).to_csv(index_label="row"), "runs.csv": runs.to_csv(index=False)}
    if search:
        files["tuning.csv"] = tuning.table(search).to_csv(index=False)
    title = f"{study.name}: {study.data}, {len(study.rows)} rows, {len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}"
    return write_page(study, title, everything, files)


def task_of(study: Study) -> Task:
    """The task of a study."""
    return registry.get(study.data)(**{name: value for name, value in study.fit["data"].items() if name != "name"})


def sizes_of(study: Study) -> dict[str, Size]:
    """The size of each row's model and of its state."""
    task = task_of(study)
    at = Case(max(setting["length"] for setting in task.settings("train")), vocab_size=task.vocab_size)
    return {row: _size(build_model(study.options(row)["model"], at), at.length) for row in study.rows}


@torch.no_grad()
def _size(model: LanguageModel, length: int) -> Size:
    _, state = model.extend(torch.zeros(1, length, dtype=torch.int64), model.initial_state(1))
    leaves = [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, torch.Tensor)]
    return Size(sum(each.numel() for each in model.parameters()), sum(leaf.nbytes for leaf in leaves))


def spread(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Of accuracies (rows, seeds): how many there are, their mean, the lowest and the highest."""
    columns = {"runs": accuracies.count(axis=1), "accuracy": accuracies.mean(axis=1)}
    return pd.DataFrame({**columns, "lowest": accuracies.min(axis=1), "highest": accuracies.max(axis=1)})


def rows(results: Results, sizes: dict[str, Size]) -> pd.DataFrame:
    """A line for each row, numbers in full: accuracy over seeds, loss, sizes, and the accuracy of each part."""
    found = spread(results.on_part(ALL)).join(differences(results)).assign(loss=results.losses.mean(axis=1))
    named = {f"accuracy_{part}": results.on_part(part).mean(axis=1) for part in part_names(results)}
    return found.join(pd.DataFrame.from_dict(sizes, orient="index", columns=Size._fields)).assign(**named)


def differences(results: Results) -> pd.DataFrame:
    """Of the accuracy of all parts, that of each row minus that of the first, with its interval over seeds."""
    accuracies, first = results.on_part(ALL), results.study.first
    apart = {
        row: over_seeds((of_row - accuracies.loc[first]).dropna().to_numpy())
        for row, of_row in accuracies.iterrows()
        if row != first
    }
    return pd.DataFrame.from_dict(apart, orient="index", columns=["difference", "low", "high"], dtype=float)


def part_names(results: Results) -> list[str]:
    """The parts of the task's test, in its order; none if there is a single one."""
    return [part for part in results.of("accuracy")["class"].unique() if part != ALL]


def quality(results: Results) -> Table:
    """Accuracy of each row on all parts of the test."""
    study, found = results.study, spread(results.on_part(ALL)).join(differences(results))
    percent = 100 * found
    columns = {
        "accuracy ↑": cells(found),
        "difference": tables.filled("{:+.1f}", percent["difference"]),
        "95 % interval": tables.filled("{:+.1f} to {:+.1f}", percent["low"], percent["high"]),
        "loss ↓": tables.filled("{:.3f}", results.losses.mean(axis=1)),
        "runs": [f"{runs} of {len(study.seeds)}" for runs in found["runs"]],
    }
    over = " of all parts together" if part_names(results) else ""
    return Table(
        title="Accuracy",
        note=f"Right answers{over} on the {study.test.get('split', 'test')} split, in percent (higher is better), mean "
        f"over seeds and, in brackets, the lowest and the highest of them; the difference to {study.first} in "
        "percentage points, with an interval that covers 95 % over seeds, by Student's t; loss in nats per target.",
        data=pd.DataFrame(columns, index=found.index),
    )


def parts(results: Results) -> Table:
    """Accuracy of each row on each part."""
    data = {f"{part} ↑": cells(spread(results.on_part(part))) for part in part_names(results)}
    return Table(
        title="Accuracy by part",
        note="As above, for each part of the test.",
        data=pd.DataFrame(data, index=list(results.study.rows)),
    )


def cells(found: pd.DataFrame) -> list[str]:
    """Percent: the mean and, of several runs, the lowest and the highest in whole numbers."""
    return [MISSING if pd.isna(line.accuracy) else _cell(line) for line in found.itertuples()]


def _cell(line: Any) -> str:
    several = f" ({100 * line.lowest:.0f} to {100 * line.highest:.0f})" if line.runs > 1 else ""
    return f"{100 * line.accuracy:.1f}{several}"


def size_table(study: Study, sizes: dict[str, Size]) -> Table:
    """What each row's model holds."""
    lines = [(f"{size.parameters:,}", f"{size.state_bytes:,}") for size in sizes.values()]
    return Table(
        title="Sizes",
        note="The state is that of the whole model for one sequence, after as many ids as the longest of training.",
        data=pd.DataFrame(lines, index=list(sizes), columns=["parameters", "state bytes ↓"]),
    )


def against_state(results: Results, sizes: dict[str, Size]) -> Picture | None:
    """Accuracy against the size of the state."""
    found = spread(results.on_part(ALL)).dropna().sort_values("accuracy", kind="stable")
    if found.empty:
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    state = pd.Series({row: float(sizes[row].state_bytes) for row in found.index})
    colours = dict(styles(results, found.index))
    for row, line in found.iterrows():
        axes.plot([state[row]] * 2, [line["lowest"], line["highest"]], color=colours[str(row)]["color"], linewidth=2)
    axes.set(xscale="log", xlabel="state of one sequence, bytes (lower is better)", ylim=(-0.03, 1.03))
    axes.set_ylabel("accuracy (higher is better)")
    axes.grid(visible=True, alpha=0.3)
    plot_named(axes, state, found["accuracy"], colours)
    note = (
        "Dots are means over seeds, bars go from the lowest to the highest. The state is that of the table below, of "
    )
    note += "the whole model for one sequence; attention's grows with the sequence, and is that at its end."
    return picture(figure, "state", "Accuracy against the size of the state", note)


def by_length(results: Results) -> Picture | None:
    """Accuracy against the length of the test's examples, where each part has a length of its own."""
    found = results.of("accuracy")
    found = found[found["class"] != ALL].astype({"at": float})
    means = found.groupby(["row", "at"], sort=False)["accuracy"].mean().unstack()
    if len(means.columns) < 2 or found["class"].nunique() > len(means.columns):
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    for row, style in styles(results, [row for row in results.study.rows if row in means.index]):
        axes.plot(means.columns, means.loc[row], label=row, markersize=4, **style)
    axes.set(xscale="log", xlabel="length of the test's examples", ylim=(-0.03, 1.03))
    axes.set_ylabel("accuracy (higher is better)")
    axes.set_xticks(means.columns, labels=[f"{length:,.0f}" for length in means.columns])
    axes.minorticks_off()
    plots.finish(figure)
    return picture(figure, "length", "Accuracy by length", "Means over seeds.")
