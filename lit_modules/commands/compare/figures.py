"""The pictures of a report, as SVG."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from lit_modules.commands import plots
from lit_modules.commands.compare.cost import Costs
from lit_modules.commands.compare.results import SMOOTHED, Results

LINE = 0.042  # height of a line of small print, as a part of an axis


class Picture(NamedTuple):
    name: str
    title: str
    note: str
    svg: str


def differences(results: Results) -> Picture | None:
    """Each row's difference to the first, with its interval."""
    found, first = results.differences, results.study.first
    if not found:
        return None
    figure = Figure(figsize=(7.5, 0.9 + 0.34 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, value in enumerate(reversed(found.values())):
        colour = "#333333" if value.is_clear else "#999999"
        axes.plot([value.low, value.high], [place, place], color=colour, linewidth=2)
        axes.plot(value.mean, place, marker="o", color=colour)
    axes.set_yticks(range(len(found)), labels=list(reversed(found)))
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
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    loss, apart = figure.subplots(1, 2)
    for row, style in styles(results, losses.index):
        loss.plot(losses.columns, losses.loc[row], label=row, **style)
        if first in losses.index:
            apart.plot(losses.columns, losses.loc[row] - losses.loc[first], **style)
    late = losses.iloc[:, len(losses.columns) // 8 :]
    loss.set(xlabel="step", ylabel="training loss, nats per token (lower is better)")
    loss.set_ylim(late.min().min() - 0.1, late.max().max() + 0.1)
    apart.set(xlabel="step", ylabel=f"training loss minus that of {first}, nats per token")
    _finish(figure, loss, apart)
    note = f"Means over seeds and {SMOOTHED} logged steps. All rows read the same batches."
    return picture(figure, "curves", "Training", note)


def positions(results: Results) -> Picture | None:
    """Perplexity by position in the context."""
    losses = results.mean("positions")
    if losses.empty:
        return None
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.subplots()
    firsts = list(losses.columns)
    lasts = results.of("positions").groupby("at")["last"].first()
    middles = [float(first * lasts[first]) ** 0.5 for first in firsts]
    for row, style in styles(results, losses.index):
        axes.plot(middles, np.exp(losses.loc[row]), marker="o", markersize=3, label=row, **style)
    axes.set(xscale="log", yscale="log", xlabel="position in the context", ylabel="perplexity (lower is better)")
    axes.set_xticks(middles, labels=[f"{first:,}" for first in firsts])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(8))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.4g}"))
    _finish(figure, axes)
    note = "Means over seeds, of the positions from each tick to just before the next. Models trained on shorter "
    note += "sequences than these have never seen the positions at the right."
    return picture(figure, "positions", "Perplexity by position", note)


def quality_against_cost(results: Results, costs: Costs) -> Picture | None:
    """Loss against training speed, and against the size of the state."""
    known = [row for row in results.finished if row in costs.rows]
    if not known:
        return None
    figure = Figure(figsize=(11, 5), layout="constrained")
    state = costs.rows[known[0]].state_bytes
    speeds = {row: costs.rows[row].tokens_per_second for row in known}
    sizes: dict[str, float | None] = {row: (costs.rows[row].state_bytes.values[-1] or 0) / 1024 for row in known}
    panels: tuple[tuple[str, str, dict[str, float | None]], ...] = (
        ("training speed, tokens/s (higher is better)", "linear", speeds),
        (f"state after {state.lengths[-1]:,} tokens, KiB (lower is better)", "log", sizes),
    )
    mean, named = results.losses.mean(axis=1), dict(styles(results, known))
    for axes, (label, scale, prices) in zip(figure.subplots(1, 2), panels, strict=True):
        points = [(float(mean[row]), price, row) for row, price in prices.items() if price]
        axes.set(xlabel=label, ylabel="test loss, nats per token (lower is better)", xscale=scale)
        axes.grid(visible=True, alpha=0.3)
        _named(axes, sorted(points), named)
    note = "Mean test loss over seeds. Cost as in the table above."
    return picture(figure, "cost", "Quality against cost", note)


def styles(results: Results, rows: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows with a colour and a dash, the same in every picture."""
    known = dict(zip(results.study.rows, plots.styles(), strict=False))
    for row in rows:
        yield row, {name: known[row][name] for name in ("color", "linestyle")}


def _named(axes: Axes, points: Sequence[tuple[float, float, str]], how: Mapping[str, Mapping[str, Any]]) -> None:
    """Points (height, x, name), ascending, with their names in a column at the right, where none covers another."""
    for height, x, name in points:
        axes.plot(x, height, marker="o", color=how[name]["color"])
    low, high = axes.get_ylim()
    below = low
    for height, x, name in points:
        below = max(height, below + (high - low) * LINE)
        axes.annotate(
            name, (x, height), xytext=(1.02, below), textcoords=("axes fraction", "data"), fontsize=8, va="center",
            arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.6},
        )  # fmt: skip


def _finish(figure: Figure, *panels: Axes) -> None:
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    for axes in panels:
        axes.grid(visible=True, alpha=0.3)


def picture(figure: Figure, name: str, title: str, note: str) -> Picture:
    """The same for the same numbers; names within it are its own, so that several fit on one page."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.sans-serif": ["DejaVu Sans"]}):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    drawn = file.getvalue()
    drawn = re.sub(r"(\.\d\d)\d+", r"\1", drawn[drawn.index("<svg") :])  # a hundredth of a point cannot be seen
    return Picture(name, title, note, re.sub(r"\s*\n\s*", " ", drawn) + "\n")
