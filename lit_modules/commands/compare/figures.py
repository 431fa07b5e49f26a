"""The pictures of a report, as SVG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from lit_modules.commands.compare.cost import Cost
from lit_modules.commands.compare.results import RowResult
from lit_modules.commands.compare.tables import to_the_first

SMOOTHED = 20  # logged steps that a point of a loss curve is the mean of
COLOURS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
LINE = 0.042  # height of a line of small print, as a part of an axis
DASHES = ("-", "--", ":", "-.")


class Picture(NamedTuple):
    name: str
    title: str
    note: str
    svg: str


def differences(rows: Sequence[RowResult]) -> Picture | None:
    """Each row's difference to the first, with its interval."""
    found = to_the_first(rows)
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
    axes.set_xlabel(f"nats a token more than {rows[0].name}")
    axes.grid(visible=True, axis="x", alpha=0.3)
    note = "Dots are means over seeds, bars the 95 % intervals; grey where zero lies within."
    return picture(figure, "differences", f"Difference to {rows[0].name}", note)


def curves(rows: Sequence[RowResult]) -> Picture | None:
    """Training loss by step, and its difference to the first row."""
    known = {row.name: curve(row) for row in rows if row.results}
    if not known:
        return None
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    loss, apart = figure.subplots(1, 2)
    first = known.get(rows[0].name)
    for name, (steps, values) in known.items():
        style = styles(rows)[name]
        loss.plot(steps, values, label=name, **style)
        if first is not None and len(first[0]) == len(steps):
            apart.plot(steps, values - first[1], **style)
    late = np.concatenate([values[len(values) // 8 :] for _, values in known.values()])
    loss.set(xlabel="step", ylabel="training loss, nats a token", ylim=(late.min() - 0.1, late.max() + 0.1))
    apart.set(xlabel="step", ylabel=f"more than {rows[0].name}")
    _finish(figure, loss, apart)
    note = f"Means over seeds and {SMOOTHED} logged steps; the same batches for all rows."
    return picture(figure, "curves", "Training", note)


def positions(rows: Sequence[RowResult]) -> Picture | None:
    """Perplexity by position in the context."""
    known = [row for row in rows if row.results and row.results[0].positions]
    if not known:
        return None
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.subplots()
    for row in known:
        points = row.results[0].positions
        losses = np.mean([[point.loss for point in result.positions] for result in row.results], axis=0)
        middles = [(point.first * point.last) ** 0.5 for point in points]
        axes.plot(middles, np.exp(losses), marker="o", markersize=3, label=row.name, **styles(rows)[row.name])
    axes.set(xscale="log", yscale="log", xlabel="position in the context", ylabel="perplexity")
    axes.set_xticks(middles, labels=[f"{point.first:,}" for point in points])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(8))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.4g}"))
    _finish(figure, axes)
    note = "Means over seeds, of positions from each mark to just before the next; runs trained on shorter sequences "
    note += "than this meet positions at the right that they have never seen."
    return picture(figure, "positions", "Perplexity by position", note)


def quality_against_cost(rows: Sequence[RowResult], costs: dict[str, Cost]) -> Picture | None:
    """Loss against training speed, and against the size of the state."""
    known = [row for row in rows if row.results and row.name in costs]
    if not known:
        return None
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = (
        ("training, tokens/s", [costs[row.name].tokens_per_second for row in known]),
        (
            f"state after {costs[known[0].name].state_bytes.lengths[-1]:,} tokens, KiB",
            [bytes_ / 1024 if (bytes_ := costs[row.name].state_bytes.values[-1]) else None for row in known],
        ),
    )
    for axes, (label, prices), scale in zip(figure.subplots(1, 2), panels, ("linear", "log"), strict=True):
        points = [
            (float(np.mean(row.losses)), price, row.name)
            for row, price in zip(known, prices, strict=True)
            if price is not None
        ]
        axes.set(xlabel=label, ylabel="test loss, nats a token", xscale=scale)
        axes.grid(visible=True, alpha=0.3)
        _named(axes, sorted(points), styles(rows))
    note = "Mean test loss over seeds; lower is better. Cost as in the table above."
    return picture(figure, "cost", "Quality against cost", note)


def curve(row: RowResult) -> tuple[np.ndarray, np.ndarray]:
    """Steps and smoothed training losses, the mean over the row's runs."""
    known = [result.curve for result in row.results]
    steps = sorted(set.intersection(*(set(one) for one in known)))
    losses = np.mean([[one[step] for step in steps] for one in known], axis=0)
    window = min(SMOOTHED, len(steps))
    smooth = np.convolve(losses, np.full(window, 1 / window), mode="valid")
    return np.array(steps[window - 1 :]), smooth


def styles(rows: Sequence[RowResult]) -> dict[str, dict[str, Any]]:
    """A colour and a dash for each row, the same in every picture."""
    return {
        row.name: {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place // len(COLOURS) % len(DASHES)]}
        for place, row in enumerate(rows)
    }


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
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    drawn = file.getvalue()
    return Picture(name, title, note, drawn[drawn.index("<svg") :])
