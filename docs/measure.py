"""Everything in performance.md: `python docs/measure.py OUT` on the machine at hand, `--small` to see that it runs.

Each part is written to a folder of OUT as soon as it is done, and one that is there already is left out, so a run that
was stopped goes on. `--parts` names a few of them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_modules.commands.benchmark import machine, record
from lit_modules.commands.peers import peers
from mixers import Attention, Hyena, LinearAttention, Retention, available
from mixers.benchmark import Case, layer, model, op
from mixers.benchmark.work import autocast, forward_and_backward
from mixers.ops import OPS

CONTEXTS = (64, 8192, 32_768)
LARGE = {"dim": 4096, "depth": 32}  # 6.7 billion parameters, the paper's setting for inference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="by default all")
    parser.add_argument("--small", action="store_true", help="sizes that take a minute, to see that it runs")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    at = Case(length=2048, device=device)
    if arguments.small:
        at = at._replace(length=128, dim=64, depth=2, vocab_size=100)
    for name in arguments.parts:
        folder = arguments.out / name
        if not folder.exists():
            PARTS[name](at, folder, arguments.small)


def floors(at: Case, folder: Path, small: bool) -> None:
    """A layer's training against what it cannot do without: its projections, and attention or transforms."""
    length, rounds = (128, 1) if small else (4096, 7)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        here = at._replace(length=length, dtype=dtype)
        x = torch.randn(1, length, at.dim, device=at.device)
        layers = available() | {"hyena": partial(Hyena, max_length=length)}
        works = {name: forward_and_backward(made(at.dim).to(at.device), x, here) for name, made in layers.items()}
        works["projections of retention"] = _projections([1, 1, 2, 2], 2, here)
        works["projections of the others"] = others = _projections([1, 1, 1], 1, here)
        works["the others' and attention"] = _both(others, _attention(here))
        works["the others' and transforms"] = _both(others, _transforms(here))
        if dtype == torch.float32:
            found = peers(False, at.device)
            works |= {name: found[name]("train", here).run for name in found if not length % 512}
        times = _alternating(works, rounds, here)
        for name, taken in times.items():
            row = {"dtype": str(dtype), "what": name, "milliseconds": 1e3 * statistics.median(taken)}
            if name in FLOOR:
                ratios = [one / floor for one, floor in zip(taken, times[FLOOR[name]], strict=True)]
                row |= {"floor": FLOOR[name], "times the floor": statistics.median(ratios)}
                row |= {"least": min(ratios), "most": max(ratios)}
            rows.append(row)
    _write(folder, rows, at)


FLOOR = {
    "retention": "projections of retention",
    "authors, parallel": "projections of retention",
    "authors, chunkwise": "projections of retention",
    "linear_attention": "projections of the others",
    "attention": "the others' and attention",
    "hyena": "the others' and transforms",
}


def chunks(at: Case, folder: Path, small: bool) -> None:
    """Retention's training with chunks of several sizes, at the paper's width and at that of the small run."""
    subjects = {str(size): layer(partial(Retention, chunk_size=size)) for size in (64, 128, 256, 512)}
    for dim, length, batch_size in ((at.dim, 2 * at.length, 1), (at.dim // 4, at.length // 8, 8)):
        for dtype in (torch.float32, torch.bfloat16):
            here = [at._replace(dim=dim, length=length, batch_size=batch_size, dtype=dtype)]
            place = folder / f"{dim}_{str(dtype).removeprefix('torch.')}"
            record("train", subjects, here, title="train, chunks", rounds=2, repeats=2, folder=place)


def curves(at: Case, folder: Path, small: bool) -> None:
    """One layer by length, with its peers: training, prefill and decoding."""
    subjects = {name: layer(mixer) for name, mixer in available().items()} | peers(False, at.device)
    lengths = (64, 128) if small else (1024, 2048, 4096, 8192, 16_384)
    settings = [at._replace(length=length) for length in lengths]
    record("train", subjects, settings, title="train, one layer", rounds=2, repeats=1, folder=folder / "train")
    own = {name: layer(mixer) for name, mixer in available().items()}
    for what in ("prefill", "decode"):
        record(what, own, settings, title=f"{what}, one layer", rounds=2, repeats=2, folder=folder / what)


def training(at: Case, folder: Path, small: bool) -> None:
    """A whole step of training the model, with MFU where there is a GPU."""
    subjects = {name: model(mixer) for name, mixer in available().items()} | peers(True, at.device)
    if at.device.type == "cpu" and not small:  # the others would take hours
        subjects = {name: made for name, made in subjects.items() if name in ("retention", "Llama (transformers)")}
    lengths = (64,) if small else (2048, 8192) if at.device.type == "cpu" else (2048, 8192, 32_768)
    for compiled in (False,) if at.device.type == "cpu" else (False, True):
        here = [at._replace(length=length, dtype=torch.bfloat16, compiled=compiled) for length in lengths]
        name = "compiled" if compiled else "eager"
        record("train", subjects, here, title="train, whole model", rounds=2, repeats=1, folder=folder / name)


def decoding(at: Case, folder: Path, small: bool) -> None:
    """A token of the model at context 64 and 8,192, batch 8."""
    subjects = {name: model(mixer) for name, mixer in available().items()} | peers(True, at.device)
    contexts = (16, 64) if small else CONTEXTS[:2]
    for compiled in (False,) if at.device.type == "cpu" else (False, True):
        each = at._replace(batch_size=8, dtype=torch.bfloat16, compiled=compiled)
        here = [each._replace(length=length) for length in contexts]
        name = "graph" if compiled else "eager"
        record("decode", subjects, here, title="decode, whole model", rounds=1, repeats=2, folder=folder / name)


def constancy(at: Case, folder: Path, small: bool) -> None:
    """Decoding after few and after many tokens, token by token in turns, for mixers of constant state."""
    contexts, tokens, rows = ((16, 64), 3, []) if small else ((CONTEXTS[0], CONTEXTS[-1]), 64, [])
    for name, mixer in {"retention": Retention, "linear_attention": LinearAttention}.items():
        here = at._replace(dtype=torch.bfloat16)
        works = {str(length): model(mixer)("decode", here._replace(length=length)) for length in contexts}
        times = _alternating({length: work.run for length, work in works.items()}, tokens, at)
        few, many = times.values()
        rows.append(
            {
                "mixer": name,
                "few": contexts[0],
                "many": contexts[1],
                "ms after few": 1e3 * statistics.median(few),
                "ms after many": 1e3 * statistics.median(many),
                "speed after many / few": statistics.median(one / other for one, other in zip(few, many, strict=True)),
                "state bytes after many": works[str(contexts[1])].state_bytes,
            }
        )
    _write(folder, rows, at)


def ops(at: Case, folder: Path, small: bool) -> None:
    """Each implementation of each op; of decayed attention, heads 4 × (256, 512), flash-linear-attention's kernel."""
    for name, dtype in product(OPS, (torch.float32, torch.bfloat16)):
        if (name, dtype) == ("long_conv", torch.bfloat16):
            continue  # Fourier transforms know nothing below float32
        slow = () if small else ("reference",) if name.startswith("decayed") or name == "long_conv" else ()
        subjects = {i.name: op(name, i.name) for i in OPS[name].implementations if i.name not in slow}
        here = [at._replace(length=length, dtype=dtype) for length in ((32,) if small else (2048, 8192))]
        place = folder / f"{name}_{str(dtype).removeprefix('torch.')}"
        record("train", subjects, here, title=f"{name}, forward and backward", rounds=2, repeats=3, folder=place)


def large(at: Case, folder: Path, small: bool) -> None:
    """Decoding with the paper's 6.7B at 8k, batches up to what fits; on a GPU only."""
    if at.device.type != "cuda" and not small:
        return
    at = at if small else at._replace(**LARGE)
    subjects = {"retention": model(Retention), "attention": model(Attention)}
    here = [
        at._replace(length=64 if small else 8192, batch_size=size, dtype=torch.bfloat16)
        for size in ((1, 2) if small else (1, 2, 4, 8, 16, 32, 64))
    ]
    record("decode", subjects, here, title="decode, 6.7B", rounds=1, repeats=2, folder=folder)


PARTS: dict[str, Callable[[Case, Path, bool], None]] = {
    part.__name__: part for part in (floors, chunks, curves, training, decoding, constancy, ops, large)
}


def _projections(widths: list[int], inner: int, at: Case) -> Callable[[], object]:
    """Linear maps from dim to some widths, and one from an inner width back, with all their gradients."""
    maps = [nn.Linear(at.dim, width * at.dim, bias=False, device=at.device) for width in widths]
    back = nn.Linear(inner * at.dim, at.dim, bias=False, device=at.device)
    inputs = [torch.randn(1, at.length, size, device=at.device) for size in (at.dim, inner * at.dim)]
    directions = [torch.randn(1, at.length, one.out_features, device=at.device) for one in (*maps, back)]

    def run() -> None:
        x, y = (one.detach().requires_grad_() for one in inputs)
        with autocast(at):
            outputs = [*(one(x) for one in maps), back(y)]
        torch.autograd.backward(outputs, [d.to(o.dtype) for o, d in zip(outputs, directions, strict=True)])

    return run


def _attention(at: Case) -> Callable[[], object]:
    def draw() -> Tensor:
        shape = (1, at.length, 8, at.dim // 8)
        return torch.randn(shape, device=at.device, dtype=at.dtype).transpose(1, 2).requires_grad_()

    q, k, v = draw(), draw(), draw()
    direction = torch.randn_like(q)

    def run() -> None:
        torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), direction)

    return run


def _transforms(at: Case) -> Callable[[], object]:
    """Three Fourier transforms forward, of the input, the filter and their product, and three backward."""
    u, h = torch.randn(1, at.length, at.dim, device=at.device), torch.randn(1, at.length, at.dim, device=at.device)
    size = 2 * at.length

    def run() -> None:
        by_u, by_h, by_y = (torch.fft.rfft(one, size, dim=1) for one in (u, h, u))
        for spectrum in (by_u * by_h, by_y * by_h, by_y * by_u):
            torch.fft.irfft(spectrum, size, dim=1)

    return run


def _both(*works: Callable[[], object]) -> Callable[[], object]:
    return lambda: [work() for work in works]


def _alternating(works: dict[str, Callable[[], object]], rounds: int, at: Case) -> dict[str, list[float]]:
    wait = torch.cuda.synchronize if at.device.type == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            wait()
            start = time.perf_counter()
            work()
            wait()
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - start)
    return times


def _write(folder: Path, rows: list[dict[str, object]], at: Case) -> None:
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, na_rep=""), flush=True)
    folder.mkdir(parents=True)
    table.assign(**machine(at.device)).to_csv(folder / "rows.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
