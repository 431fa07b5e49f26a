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
from mixers import Attention, Hyena, Retention, available
from mixers.benchmark import Case, layer, model, op
from mixers.benchmark.work import autocast, forward_and_backward
from mixers.ops import OPS
from mixers.ops.linear import linear

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
    length, rounds = (128, 1) if small else (4096, 5)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        here = at._replace(length=length, dtype=dtype)
        x = torch.randn(1, length, at.dim, device=at.device)
        layers = {name: made for name, made in available().items() if name not in ("lstm", "gru")}  # minutes each
        layers = {name: made(at.dim) for name, made in (layers | {"hyena": partial(Hyena, max_length=length)}).items()}
        works, bounds = {}, {}
        for name, made in layers.items():
            works[name] = forward_and_backward(made.to(at.device), x, here)
            works[bound := f"{name}: lower bound"] = _bound(name, made, here)
            bounds[name] = bound
            if dtype == torch.float32:  # in bfloat16 they are the same
                works[f"{name}: projections by nn.Linear"] = _projections(_maps(made), here, F.linear)
        if dtype == torch.float32:
            found = peers(False, at.device)
            works |= {name: found[name]("train", here).run for name in found if not length % 512}
            bounds |= dict.fromkeys(found, bounds["retention"])
        times = _alternating(works, rounds, here)
        for name in works:
            row = {"dtype": str(dtype), "what": name, "milliseconds": 1e3 * statistics.median(times[name])}
            if name in bounds:
                ratios = [one / bound for one, bound in zip(times[name], times[bounds[name]], strict=True)]
                row |= {"times the bound": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
            rows.append(row)
    _write(folder, rows, at)


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
    """A layer decoding after few and after many tokens, token by token in turns, of each mixer of constant state."""
    contexts, tokens, rows = ((16, 64), 3, []) if small else ((CONTEXTS[0], CONTEXTS[-1]), 64, [])
    for name, mixer in available().items():
        if not mixer(at.dim).constant_state:
            continue
        works = {str(length): layer(mixer)("decode", at._replace(length=length)) for length in contexts}
        times = _alternating({length: work.run for length, work in works.items()}, tokens, at)
        few, many = times.values()
        rows.append(
            {
                "mixer": name,
                "few": contexts[0],
                "many": contexts[1],
                "ms after few": 1e3 * statistics.median(few),
                "ms after many": 1e3 * statistics.median(many),
                "many / few": statistics.median(many) / statistics.median(few),
                "state bytes after few": works[str(contexts[0])].state_bytes,
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


def _bound(name: str, made: nn.Module, at: Case) -> Callable[[], object]:
    """What a layer cannot do without: its projections, and attention or transforms."""
    more = {"attention": _attention, "hyena": _transforms}
    projections = _projections(_maps(made), at, linear)
    return _both(projections, more[name](at)) if name in more else projections


def _maps(made: nn.Module) -> list[nn.Linear]:
    return [each for each in made.modules() if isinstance(each, nn.Linear)]


def _projections(maps: list[nn.Linear], at: Case, product: Callable[..., Tensor]) -> Callable[[], object]:
    """Linear maps of as many tokens as a layer has, with all their gradients."""
    inputs = [torch.randn(1, at.length, one.in_features, device=at.device, requires_grad=True) for one in maps]
    directions = [torch.randn(1, at.length, one.out_features, device=at.device) for one in maps]

    def run() -> None:
        with autocast(at):
            outputs = [product(x, one.weight, one.bias) for one, x in zip(maps, inputs, strict=True)]
        wanted = [*inputs, *(weight for one in maps for weight in one.parameters())]
        torch.autograd.grad(outputs, wanted, [d.to(y.dtype) for y, d in zip(outputs, directions, strict=True)])

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
