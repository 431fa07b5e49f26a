"""The pictures of a report, as SVG."""

import io
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_modules.commands import plots
from lit_modules.commands.compare.cost import Costs
from lit_modules.commands.compare.results import Results
from lit_modules.commands.compare.run_tables import SMOOTHED

SIZE = (11, 5.2)
LINE = 0.042  # height of a line of small print, as a fraction of an axis


class Picture(NamedTuple):
    name: str
    title: str
    note: str
    svg: str

    def markdown(self) -> str:
        return f"![{self.title}]({self.name}.svg)"


def differences(results: Results) -> Picture | None:
    """Each row's difference to the first, with its interval."""
    found, first = results.rows[["difference", "low", "high"]].dropna(subset="difference")[::-1], results.study.first
    if found.empty:
        return None
    figure = Figure(figsize=(7.5, 0.9 + 0.34 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, (mean, low, high) in enumerate(found.to_numpy(float)):
        colour = "#333333" if low > 0 or high < 0 else "#999999"
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot(mean, place, marker="o", color=colour)
    axes.set_yticks(range(len(found)), labels=list(found.index))
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.axvline(0, color="#cc3311", linewidth=1)
    axes.set_xlabel(f"test loss minus that of {first}, nats per token (lower is better)")
    axes.grid(visible=True, axis="x", alpha=0.3)
    note = "Dots are means over seeds, bars the 95 % intervals; grey where zero lies within. "
    note += f"Left of zero is better than {first}."
    return picture(figure, "differences", f"Difference to {first}", note)


def curves(results: Results) -> Picture | None:
    """Training loss by step, and its difference to the first row."""
    losses, first = results.mean("steps"), results.study.first
    if losses.empty:
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    loss, apart = figure.subplots(1, 2)
    for row, style in styles(results, losses.index):
        loss.plot(losses.columns, losses.loc[row], label=row, markersize=0, **style)
        if first in losses.index:
            apart.plot(losses.columns, losses.loc[row] - losses.loc[first], markersize=0, **style)
    late = losses.iloc[:, len(losses.columns) // 8 :]
    loss.set(xlabel="step", ylabel="training loss, nats per token (lower is better)")
    loss.set_ylim(late.min().min() - 0.1, late.max().max() + 0.1)
    apart.set(xlabel="step", ylabel=f"training loss minus that of {first}, nats per token")
    plots.finish(figure)
    note = f"Means over seeds and {SMOOTHED} logged steps. All rows read the same batches."
    return picture(figure, "curves", "Training", note)


def positions(results: Results) -> Picture | None:
    """Perplexity by position in the context."""
    losses = results.mean("positions")
    if losses.empty:
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    firsts = losses.columns
    middles = (firsts * results.of("positions").groupby("at")["last"].first()[firsts]).to_numpy(float) ** 0.5
    for row, style in styles(results, losses.index):
        axes.plot(middles, np.exp(losses.loc[row]), markersize=3, label=row, **style)
    axes.set(xscale="log", yscale="log", xlabel="position in the context", ylabel="perplexity (lower is better)")
    axes.set_xticks(middles, labels=[f"{first:,}" for first in firsts])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(8))
    axes.yaxis.set_major_formatter("{x:,.4g}")
    plots.finish(figure)
    note = "Means over seeds, of the positions from each tick to just before the next. Models trained on shorter "
    note += "sequences than these have never seen the positions at the right."
    return picture(figure, "positions", "Perplexity by position", note)


def quality_against_cost(results: Results, costs: Costs) -> Picture | None:
    """Loss against training speed, and against the size of the state."""
    found = results.rows[["loss"]].dropna().sort_values("loss", kind="stable").join(costs.rows, how="inner")
    if found.empty:
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    speed, state = figure.subplots(1, 2)
    sizes = found["state_bytes"].map(lambda growth: growth[1][-1]).astype(float) / 1024
    speed.set(xlabel="training speed, tokens/s (higher is better)")
    state.set(xlabel=f"state after {costs.lengths[-1]:,} tokens, KiB (lower is better)", xscale="log")
    for axes, cost in ((speed, found["tokens_per_second"].astype(float)), (state, sizes)):
        axes.set_ylabel("test loss, nats per token (lower is better)")
        axes.grid(visible=True, alpha=0.3)
        plot_named(axes, cost[cost > 0], found["loss"], dict(styles(results, found.index)))
    note = "Mean test loss over seeds. Cost as in the table above."
    return picture(figure, "cost", "Quality against cost", note)


def plot_named(axes: Axes, costs: pd.Series, losses: pd.Series, styles: Mapping[str, Any]) -> None:
    """Losses, ascending, against costs, with names in a column at the right, where none covers another."""
    for name, cost in costs.items():
        axes.plot(cost, losses[name], marker="o", color=styles[name]["color"])
    low, high = axes.get_ylim()
    place = low
    for name, cost in costs.items():
        place = max(losses[name], place + (high - low) * LINE)
        axes.annotate(
            name, (cost, losses[name]), xytext=(1.02, place), textcoords=("axes fraction", "data"), fontsize=8,
            va="center", arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.6},
        )  # fmt: skip


def styles(results: Results, rows: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    """Rows with a colour, a dash and a marker, the same in every picture."""
    known = dict(zip(results.study.rows, plots.styles(), strict=False))
    return [(row, known[row]) for row in rows]


def picture(figure: Figure, name: str, title: str, note: str) -> Picture:
    """The same for the same numbers; names within it are its own, so that several fit on one page."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.sans-serif": ["DejaVu Sans"]}):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    drawn = file.getvalue()
    drawn = re.sub(r"(\.\d\d)\d+", r"\1", drawn[drawn.index("<svg") :])  # a hundredth of a point cannot be seen
    return Picture(name, title, note, re.sub(r"\s*\n\s*", " ", drawn) + "\n")
