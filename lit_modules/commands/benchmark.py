"""The command `benchmark`: measures, shows a table, and keeps a CSV and a picture of it."""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from lightning_fabric.utilities.throughput import get_available_flops
from tqdm import tqdm

from lit_modules.commands import plots
from lit_modules.commands.peers import peers as known_peers
from lit_modules.commands.table import MISSING, number
from lit_modules.console import short_path
from lit_modules.training.mixer_config import as_config, complete
from lit_modules.training.precision import device as device_of
from mixers import available
from mixers.benchmark import Case, Phase, Row, Target, layer, measure, model, train_flops
from mixers.checks import UsageError, at_least, between, fits_memory
from mixers.model import MixerFactory

MOST_TOKENS = 2**24  # at once: of width 1024 in float32 they take 64 GiB
MOST_RUNS = 1000  # rounds, and timed runs in a turn
MIB, MILLISECOND = 2**20, 1e-3
H200_FLOPS = 989.4e12  # dense, in half precision, as NVIDIA's data sheet says; Lightning's table has sparse ones


def benchmark(
    phase: Phase,
    *,
    mixers: list[MixerFactory] | None = None,
    lengths: list[int] = [512, 1024, 2048],  # noqa: B006  (jsonargparse shows and copies it)
    batch_sizes: list[int] = [1],  # noqa: B006
    dim: int = 1024,
    depth: int = 16,
    vocab_size: int = 50257,
    whole_model: bool = False,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    compile: bool = False,
    peers: bool = True,
    rounds: int = 3,
    repeats: int = 3,
    accelerator: str = "auto",
    root: str = "runs",
) -> None:
    """Measures time and memory by length, of one layer or the whole model.

    Args:
        phase: What to measure: `train` is a training step, `prefill` the reading of a prompt, `decode` one more token
            after it.
        mixers: The mixers to measure; by default all.
        lengths: Tokens trained on or read, one measurement for each number.
        batch_sizes: Sequences at once; each is measured at each length.
        dim: Width.
        depth: Number of blocks of the whole model.
        vocab_size: Number of distinct tokens of the whole model.
        whole_model: Whether to measure the language model instead of one layer.
        dtype: Number format; in training, half precision means autocast over float32 weights.
        compile: Whether to use torch.compile.
        peers: Whether to measure other people's layers and models, too, as far as they are installed.
        rounds: How often each mixer gets its turn at a length.
        repeats: Timed runs in a turn.
        accelerator: The hardware: `auto`, `cpu`, `gpu` or `mps`.
        root: The folder of all runs; results go to a new folder in its `benchmark`.

    Raises:
        UsageError: A number is out of range, a width does not suit a mixer, or the hardware is not there.
    """
    for name, values in {"lengths": lengths, "batch_sizes": batch_sizes}.items():
        if not values:
            raise UsageError(f"{name}=[] is empty: write at least one number.")
    if mixers == []:
        raise UsageError("mixers=[] is empty: write at least one name, or leave it out for all.")
    at_least(1, lengths=min(lengths), batch_sizes=min(batch_sizes), dim=dim, depth=depth, vocab_size=vocab_size)
    between(1, MOST_RUNS, rounds=rounds, repeats=repeats)
    if (tokens := max(lengths) * max(batch_sizes)) > MOST_TOKENS:
        raise UsageError(
            f"lengths={lengths} and batch_sizes={batch_sizes} make {tokens:,} tokens at once: "
            f"write numbers whose product is {MOST_TOKENS:,} or less."
        )
    blocks, vocabulary = (depth, vocab_size) if whole_model else (1, 0)
    size = torch.float32.itemsize * (blocks * dim**2 + vocabulary * dim)
    fits_memory(size, f"one with dim={dim}, depth={depth}, vocab_size={vocab_size}")
    wanted, made = mixers or list(available().values()), model if whole_model else layer
    for mixer in wanted:
        with torch.device("meta"):
            mixer(dim)  # a width that does not suit it is an error before anything is written
    device = device_of(accelerator)
    targets: dict[str, Target] = {label(mixer): made(mixer) for mixer in wanted}
    if peers:
        targets |= known_peers(whole_model, device)
    folder = next(path for place in count() if not (path := Path(root, "benchmark", f"{phase}_{place}")).exists())
    at = Case(lengths[0], 1, dim, depth, vocab_size, dtype=getattr(torch, dtype), device=device, compiled=compile)
    cases = [at._replace(batch_size=size, length=length) for size in batch_sizes for length in lengths]
    title = f"{phase}, {'whole model' if whole_model else 'one layer'}"
    record(phase, targets, cases, title=title, rounds=rounds, repeats=repeats, folder=folder)
    print(f"table: {short_path(folder / 'rows.csv')}\npicture: {short_path(folder / 'curves.png')}")


def record(
    phase: Phase,
    targets: dict[str, Target],
    cases: Sequence[Case],
    *,
    title: str,
    rounds: int,
    repeats: int,
    folder: Path,
) -> None:
    """Measures targets, on one device and in one dtype, into a folder; a stop loses no row that is done."""
    about, dtype = machine(cases[0].device), str(cases[0].dtype).removeprefix("torch.")
    title = f"{title}, {dtype}, {about['device']}"
    folder.mkdir(parents=True)
    print(f"{title}, torch {about['torch']}\n{LEGEND}\n{LINE.format(*HEADINGS)}", flush=True)
    records: list[dict[str, Any]] = []
    with tqdm(total=len(cases) * rounds * len(targets), unit="turn", leave=False, disable=None) as bar:

        def progress(name: str) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update()

        for row in measure(phase, targets, cases, rounds=rounds, repeats=repeats, progress=progress):
            if phase == "train":
                row = row._replace(flops=train_flops(targets[row.subject], row.setting))
            used = utilisation(row)
            record = row._asdict() | row.setting._asdict() | {"dtype": dtype, "utilisation": used} | about
            del record["setting"]
            pd.DataFrame([record]).to_csv(folder / "rows.csv", mode="a", header=not records, index=False)
            records.append(record)
            with bar.external_write_mode():
                print(LINE.format(*_cells(row, used)).rstrip(), flush=True)
    rows = pd.DataFrame(records)
    if rows["seconds"].isna().all():
        raise UsageError(
            f"nothing could be measured, as {short_path(folder / 'rows.csv')} says: write smaller numbers."
        )
    plots.draw(rows, folder / "curves.png", title=title)


def label(mixer: MixerFactory) -> str:
    """A mixer's name, with those of its options that are not the default."""
    config = as_config(mixer)
    given, usual = complete(config), complete(config["class_path"])
    options = [f"{name}={value}" for name, value in given.options.items() if value != usual.options[name]]
    return " ".join([given.name, *options])


def machine(device: torch.device) -> dict[str, str]:
    """What measured, and when."""
    gpu, threads = device.type == "cuda", torch.get_num_threads()
    cpu = f"{processor()}, {threads} thread{'s' * (threads > 1)}"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else cpu,
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


def utilisation(row: Row) -> float | None:
    """Model FLOPs utilisation (MFU): operations per second in training, as a part of what the GPU is sold for."""
    at = row.setting
    if row.flops is None or row.seconds is None or at.device.type != "cuda" or at.dtype == torch.float32:
        return None
    is_h200 = "H200" in torch.cuda.get_device_name(at.device)
    peak = H200_FLOPS if is_h200 else get_available_flops(at.device, at.dtype)
    return row.flops / row.seconds / peak if peak else None


LEGEND = "Higher is better of tokens/s and MFU (model FLOPs utilisation), lower of time and memory."
HEADINGS = ("mixer", "length", "batch", "ms", "fastest to slowest", "tokens/s", "memory MiB", "MFU", "state MiB")
LINE = "{:28} {:>8} {:>6} {:>10} {:>22} {:>12} {:>11} {:>6} {:>10}"


def _cells(row: Row, used: float | None) -> list[str]:
    """The cells of a row; where there are no numbers, the reason."""
    place = [row.subject, f"{row.setting.length:,}", str(row.setting.batch_size)]
    if row.seconds is None:
        return [*place, row.note, *[""] * 5]
    median, fastest, slowest = (number(each, MILLISECOND) for each in (row.seconds, row.fastest, row.slowest))
    memory, state = number(row.peak_bytes, MIB), number(row.state_bytes, MIB)
    mfu = MISSING if used is None else f"{used:.0%}"
    return [*place, median, f"{fastest} to {slowest}", number(row.tokens_per_second), memory, mfu, state]
