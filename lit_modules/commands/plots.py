"""Measurements as a picture: time, memory and throughput against length."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from mixers.benchmark import Row

PANELS = {
    "seconds": ("milliseconds", 1e3),
    "peak_bytes": ("peak memory, MiB", 1 / 2**20),
    "tokens_per_second": ("tokens/s", 1.0),
}


def draw(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Draws one curve for each subject and batch size; what could not be measured is a gap."""
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    for axes, (field, (name, unit)) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        _panel(axes, rows, field, name, unit)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _panel(axes: Axes, rows: Sequence[Row], field: str, name: str, unit: float) -> None:
    batch_sizes = {row.setting.batch_size for row in rows}
    for subject, batch in dict.fromkeys((row.subject, row.setting.batch_size) for row in rows):
        curve = [row for row in rows if (row.subject, row.setting.batch_size) == (subject, batch)]
        values = [getattr(row, field) for row in curve]
        label = subject if len(batch_sizes) == 1 else f"{subject}, batch {batch}"
        lengths = [row.setting.length for row in curve]
        heights = [float("nan") if value is None else max(value * unit, 1e-9) for value in values]
        axes.plot(lengths, heights, marker="o", markersize=4, label=label)
    lengths = sorted({row.setting.length for row in rows})
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=name)
    axes.set_xticks(lengths, labels=[f"{length:,}" for length in lengths])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    axes.minorticks_off()
    axes.grid(visible=True, alpha=0.3)
