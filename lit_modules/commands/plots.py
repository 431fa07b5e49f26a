"""Measurements as a picture: time, memory and throughput against length."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from lit_modules.commands.table import number
from mixers.benchmark import Row

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


def draw(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Draws one curve for each subject and batch size; what could not be measured is a gap."""
    figure = Figure(figsize=(15, 5.2), layout="constrained")
    for axes, (field, (name, unit)) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        _panel(axes, rows, field, name, unit)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=100)


def _panel(axes: Axes, rows: Sequence[Row], field: str, name: str, unit: float) -> None:
    lengths = sorted({row.setting.length for row in rows})
    batch_sizes = {row.setting.batch_size for row in rows}
    curves = dict.fromkeys((row.subject, row.setting.batch_size) for row in rows)
    for (subject, batch), style in zip(curves, styles(), strict=False):
        measured = [row for row in rows if (row.subject, row.setting.batch_size) == (subject, batch)]
        found = {row.setting.length: getattr(row, field) for row in measured}
        values = [found.get(length) for length in lengths]
        heights = [float("nan") if value is None else max(value * unit, 1e-9) for value in values]  # the axis is a log
        label = subject if len(batch_sizes) == 1 else f"{subject}, batch {batch}"
        axes.plot(lengths, heights, markersize=5, linewidth=1.3, label=label, **style)
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=name)
    shown = lengths[:: -(-len(lengths) // TICKS)]
    axes.set_xticks(shown, labels=[f"{length:,}" for length in shown])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=2 * TICKS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.minorticks_off()
    axes.grid(visible=True, alpha=0.3)
