"""A point on a curve: how long something takes, and how much memory."""

import gc
import timeit
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from mixers.benchmark.memory import peak_bytes, within_memory
from mixers.benchmark.work import Case, Phase, Target, Unavailable
from mixers.checks import is_out_of_memory

TOKENS = 8  # decoded where anything else is run once: single tokens are quick


class Row(NamedTuple):
    """A target, called a subject in tables, at a case. What could not be measured is None, and `note` says why."""

    what: Phase
    subject: str
    setting: Case
    seconds: float | None = None  # of a step, a prompt or a token for all sequences; the median over all runs
    fastest: float | None = None
    slowest: float | None = None
    tokens_per_second: float | None = None
    peak_bytes: int | None = None  # beyond what was there before the runs
    flops: int | None = None  # of a training step, where somebody has counted them with `train_flops`
    parameters: int | None = None
    state_bytes: int | None = None
    note: str = ""


def measure(
    phase: Phase,
    targets: dict[str, Target],
    cases: Sequence[Case],
    *,
    rounds: int,
    repeats: int,
    progress: Callable[[str], object] = lambda _: None,
) -> Iterator[Row]:
    """Measures targets at cases, yielding a row for each as soon as it is done.

    At each case the targets take turns for some rounds, each time built anew, so that whatever else the machine does
    slows all of them down, and only one is in memory. Running out of memory makes a row that says so.

    Args:
        phase: What they do.
        targets: What prepares the work, by name.
        cases: Where to measure.
        rounds: How often each gets its turn.
        repeats: Timed runs in a turn; of decoding, `TOKENS` times as many.
        progress: Is told the name of each target when its turn is over.
    """
    for case in cases:
        turns: dict[str, list[tuple[Row, list[float]]]] = {name: [] for name in targets}
        for _ in range(rounds):
            for name, target in targets.items():
                if not any(row.note for row, _ in turns[name]):  # what did not fit will not fit the next time
                    turns[name].append(_turn(Row(phase, name, case), target, repeats))
                progress(name)
        yield from map(_summary, turns.values())


def train_flops(subject: Target, at: Case) -> int | None:
    """Floating-point operations of the products of a training step, counted without computing them.

    Fourier transforms are not counted, nor kernels that torch does not know; causal attention counts in full.
    """
    formulas = {torch.ops.aten.convolution_backward: _conv_backward_flops}
    try:
        with torch.device("meta"), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
            subject("train", at._replace(device=torch.device("meta"), dtype=torch.float32, compiled=False)).run()
    except (RuntimeError, NotImplementedError, Unavailable):  # not everybody's code runs without numbers
        return None
    return counter.get_total_flops()


def _conv_backward_flops(dy: list[int], x: list[int], weight: list[int], *args: Any, **_: Any) -> int:
    """For shapes of tensors. torch's own formula counts the gradient of a weight as if there were no groups."""
    transposed, wanted = args[-4], args[-1]
    return sum(wanted[:2]) * conv_flop_count(x, weight, dy, transposed)


def _turn(row: Row, target: Target, repeats: int) -> tuple[Row, list[float]]:
    """What one turn tells, and the seconds of each of its runs."""
    torch.manual_seed(0)
    device = row.setting.device
    try:
        with within_memory(device):
            workload = target(row.what, row.setting)
            workload.run()  # warms up
            peak = peak_bytes(workload.run, device)  # not timed: it gives memory back, and new pages take time
            runs = repeats * (TOKENS if row.what == "decode" else 1)
            seconds = timeit.repeat(workload.run, gc.enable, lambda: _clock(device), repeat=runs, number=1)
        return row._replace(peak_bytes=peak, parameters=workload.parameters, state_bytes=workload.state_bytes), seconds
    except Unavailable as reason:
        return row._replace(note=str(reason)), []
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return row._replace(note="out of memory"), []
        raise
    finally:
        gc.collect()
        torch.cuda.empty_cache()  # which does nothing where CUDA was not used


def _clock(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return timeit.default_timer()


def _summary(turns: list[tuple[Row, list[float]]]) -> Row:
    row = turns[-1][0]
    if row.note:
        return row
    seconds = [one for _, run_seconds in turns for one in run_seconds]
    tokens = row.setting.batch_size * (1 if row.what == "decode" else row.setting.length)
    return row._replace(
        seconds=median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        tokens_per_second=tokens / median(seconds),
        peak_bytes=max((turn.peak_bytes for turn, _ in turns if turn.peak_bytes is not None), default=None),
    )
