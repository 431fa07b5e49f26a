"""Measurements as a picture: time, memory and throughput against length."""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from lit_modules.console import number

PANELS = {
    "seconds": ("milliseconds (lower is better)", 1e3),
    "peak_bytes": ("peak memory, MiB (lower is better)", 1 / 2**20),
    "tokens_per_second": ("tokens/s (higher is better)", 1.0),
}
COLOURS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
DASHES = ("-", "--", ":", "-.")
MARKERS = "osv^DPX"
TICKS = 6  # on an axis, beyond which they would touch


def styles() -> Iterator[dict[str, Any]]:
    """Colours, dashes and markers for any number of curves; the first ten differ in colour, the next in dashes, too."""
    for place, (colour, marker) in enumerate(zip(cycle(COLOURS), cycle(MARKERS), strict=False)):
        yield {"color": colour, "marker": marker, "linestyle": DASHES[place // len(COLOURS) % len(DASHES)]}


def draw(rows: pd.DataFrame, path: Path, *, title: str) -> None:
    """Draws a curve for each subject and batch size of a benchmark's rows; what could not be measured is a gap."""
    several = rows["batch_size"].nunique() > 1
    lengths = sorted(rows["length"].unique())
    shown = lengths[:: -(-len(lengths) // TICKS)]
    figure = Figure(figsize=(15, 5.2), layout="constrained")
    for axes, (field, (name, unit)) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        curves = rows.groupby(["subject", "batch_size"], sort=False)
        for ((subject, batch), curve), style in zip(curves, styles(), strict=False):
            ordered = curve.sort_values("length")
            heights = (ordered[field].astype(float) * unit).clip(lower=1e-9)  # the axis is a log
            label = f"{subject}, batch {batch}" if several else subject
            axes.plot(ordered["length"], heights, markersize=5, linewidth=1.3, label=label, **style)
        axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=name)
        axes.set_xticks(shown, labels=[f"{length:,}" for length in shown])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=2 * TICKS))
        axes.yaxis.set_major_formatter(lambda value, _: number(value))
        axes.minorticks_off()
    finish(figure)
    figure.suptitle(title)
    figure.savefig(path, dpi=100)


def finish(figure: Figure) -> None:
    """Adds grids, and one legend of the first panel's curves below all of them."""
    for axes in figure.axes:
        axes.grid(visible=True, alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False)
