"""The command `benchmark`: measures, shows a table, and keeps a CSV and a picture of it."""

import csv
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from lit_modules.commands.peers import peers
from lit_modules.training.mixer_config import as_config, complete
from mixers import available
from mixers.benchmark import Case, Phase, Row, Target, layer, measure, model, train_flops
from mixers.checks import UsageError, at_least
from mixers.model import MixerFactory

Dtype = Literal["float32", "bfloat16", "float16"]

# Dense bfloat16 operations a second of a whole GPU, by a part of its name (NVIDIA's data sheets, SXM).
PEAK_FLOPS = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12}
GIB, MIB = 2**30, 2**20


def benchmark(
    what: Phase,
    mixers: Sequence[MixerFactory] | None,
    settings: Sequence[Case],
    *,
    whole_model: bool,
    with_peers: bool,
    rounds: int,
    repeats: int,
    folder: Path,
) -> None:
    """Measures mixers and peers at settings."""
    made, mixers = model if whole_model else layer, mixers or list(available().values())
    for mixer in mixers:
        with torch.device("meta"):
            mixer(settings[0].dim)  # a width that does not suit it is an error before anything is written
    subjects: dict[str, Target] = {label(mixer): made(mixer) for mixer in mixers}
    if with_peers:
        subjects |= peers(whole_model, settings[0].device)
    title = f"{what}, {'whole model' if whole_model else 'one layer'}"
    record(what, subjects, settings, title=title, rounds=rounds, repeats=repeats, folder=folder)


def record(
    what: Phase,
    subjects: dict[str, Target],
    settings: Sequence[Case],
    *,
    title: str,
    rounds: int,
    repeats: int,
    folder: Path,
) -> None:
    """Measures subjects at settings into a folder; rows are kept as they come, so that a stop loses none."""
    from lit_modules.commands import plots  # matplotlib is slow to load, and no other command draws

    about, rows = machine(settings[0].device), []
    title = f"{title}, {str(settings[0].dtype).removeprefix('torch.')}, {about['device']}"
    folder.mkdir(parents=True)
    print(f"{title}, torch {about['torch']}\n{_line(HEADINGS)}", flush=True)
    turns = len(settings) * rounds * len(subjects)
    with (
        (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file,
        tqdm(total=turns, unit="turn", leave=False, disable=None) as bar,
    ):
        writer = csv.DictWriter(file, [*_record(Row(what, "", settings[0])), *about])
        writer.writeheader()

        def progress(name: str) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update()

        for row in measure(what, subjects, settings, rounds=rounds, repeats=repeats, progress=progress):
            if what == "train":
                row = row._replace(flops=train_flops(subjects[row.subject], row.setting))
            rows.append(row)
            writer.writerow(_record(row) | about)
            file.flush()
            with bar.external_write_mode():
                print(_line(_shown(row)), flush=True)
    plots.draw(rows, folder / "curves.png", title=title)


def check(**numbers: Sequence[int]) -> None:
    """Raises ValueError for a list that is empty or has a number below 1."""
    for name, values in numbers.items():
        if not values:
            raise UsageError(f"{name}={list(values)} is empty: write at least one number.")
        at_least(1, **{name: min(values)})


def label(mixer: MixerFactory) -> str:
    """A mixer's name, with those of its options that are not the default."""
    config = as_config(mixer)
    given, usual = complete(config), complete({**config, "init_args": {}})
    options = [f"{name}={value}" for name, value in given.options.items() if value != usual.options[name]]
    return " ".join([given.name, *options])


def machine(device: torch.device) -> dict[str, str]:
    """Phase measured, and when."""
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else f"{processor()}, {torch.get_num_threads()} threads",
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def processor() -> str:
    """The processor's name, as well as the system knows it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def new_folder(root: str | os.PathLike[str], what: Phase) -> Path:
    """A folder for the results that nothing is in yet: `root`/benchmark/`what`_0, or the next number."""
    number, parent = 0, Path(root) / "benchmark"
    while (parent / f"{what}_{number}").exists():
        number += 1
    return parent / f"{what}_{number}"


def utilisation(row: Row) -> float | None:
    """Model FLOP utilisation: operations a second in training, as a part of what the GPU is sold for."""
    at = row.setting
    if row.flops is None or row.seconds is None or at.device.type != "cuda" or at.dtype == torch.float32:
        return None
    name = torch.cuda.get_device_name(at.device)
    peak = next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)
    return row.flops / row.seconds / peak if peak else None


def _record(row: Row) -> dict[str, Any]:
    """A row of the CSV."""
    at = row.setting
    measured = {name: value for name, value in row._asdict().items() if name not in ("what", "subject", "setting")}
    return {
        "what": row.what,
        "subject": row.subject,
        "length": at.length,
        "batch_size": at.batch_size,
        "dim": at.dim,
        "depth": at.depth,
        "vocab_size": at.vocab_size,
        "dtype": str(at.dtype).removeprefix("torch."),
        "compiled": at.compiled,
        **{name: "" if value is None else value for name, value in measured.items()},
        "utilisation": utilisation(row) or "",
    }


HEADINGS = ("subject", "length", "batch", "ms", "fastest to slowest", "tokens/s", "memory MiB", "MFU", "state MiB")
WIDTHS = (28, 8, 6, 10, 22, 12, 11, 6, 10)


def _shown(row: Row) -> tuple[str, ...]:
    at, used = row.setting, utilisation(row)
    place = (row.subject, f"{at.length:,}", str(at.batch_size))
    if row.seconds is None or row.fastest is None or row.slowest is None:
        return (*place, row.note)
    return (
        *place,
        f"{1e3 * row.seconds:,.2f}",
        f"{1e3 * row.fastest:,.2f} to {1e3 * row.slowest:,.2f}",
        f"{row.tokens_per_second:,.0f}",
        "" if row.peak_bytes is None else f"{row.peak_bytes / MIB:,.1f}",
        "" if used is None else f"{used:.0%}",
        "" if row.state_bytes is None else f"{row.state_bytes / MIB:,.2f}",
    )


def _line(cells: Sequence[str]) -> str:
    first, *rest = (cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=False))
    return " ".join([first.strip().ljust(WIDTHS[0]), *rest])
