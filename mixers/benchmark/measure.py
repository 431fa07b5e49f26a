"""A point on a curve: how long something takes, and how much memory."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from mixers.benchmark.memory import OUT_OF_MEMORY, Peak, within_memory
from mixers.benchmark.work import Case, Phase, Target, Unavailable

WARM_UP = 1  # runs before the clock starts
TOKENS = 8  # decoded where anything else is run once: single tokens are quick


class Row(NamedTuple):
    """One subject at one setting. What could not be measured is None, and `note` says why."""

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
    what: Phase,
    subjects: dict[str, Target],
    settings: Sequence[Case],
    *,
    rounds: int,
    repeats: int,
    progress: Callable[[str], object] = lambda _: None,
) -> Iterator[Row]:
    """Measures subjects at settings, yielding a row for each as soon as it is done.

    At a setting the subjects take turns for some rounds, each time built anew, so that whatever else the machine does
    meets them all, and only one is in memory. Running out of memory makes a row that says so.

    Args:
        what: What they do.
        subjects: What prepares the work, by name.
        settings: Where to measure.
        rounds: How often each gets its turn.
        repeats: Timed runs in a turn; of decoding, `TOKENS` times as many.
        progress: Is told the name of each subject when its turn is over.
    """
    for at in settings:
        turns: dict[str, list[_Turn]] = {name: [] for name in subjects}
        for _ in range(rounds):
            for name, subject in subjects.items():
                if not any(turn.note for turn in turns[name]):  # what did not fit will not fit the next time
                    turns[name].append(_turn(what, subject, at, repeats))
                progress(name)
        for name, taken in turns.items():
            yield _row(what, name, at, taken)


def train_flops(subject: Target, at: Case) -> int | None:
    """Floating-point operations of the products of a training step, counted without computing them.

    Fourier transforms are not counted, nor kernels that torch does not know; causal attention counts in full.
    """
    try:
        with torch.device("meta"), FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
            subject("train", at._replace(device=torch.device("meta"), dtype=torch.float32, compiled=False)).run()
    except (RuntimeError, NotImplementedError, Unavailable):  # not everybody's code runs without numbers
        return None
    return counter.get_total_flops()


def _conv_backward_flops(dy: list[int], x: list[int], weight: list[int], *args: Any, **_: Any) -> int:
    """For shapes of tensors. torch's own formula counts the gradient of a weight as if there were no groups."""
    transposed, wanted = args[-4], args[-1]
    return sum(wanted[:2]) * conv_flop_count(x, weight, dy, transposed)


_FORMULAS = {torch.ops.aten.convolution_backward: _conv_backward_flops}


class _Turn(NamedTuple):
    seconds: tuple[float, ...] = ()
    peak_bytes: int | None = None
    parameters: int | None = None
    state_bytes: int | None = None
    note: str = ""


def _turn(what: Phase, subject: Target, at: Case, repeats: int) -> _Turn:
    torch.manual_seed(0)
    try:
        with within_memory(at.device):
            work = subject(what, at)
            for _ in range(WARM_UP):
                work.run()
            with Peak(at.device) as peak:  # apart from the clock: it gives memory back, and new pages take time
                work.run()
            seconds = [_seconds(work.run, at.device) for _ in range(repeats * (TOKENS if what == "decode" else 1))]
            return _Turn(tuple(seconds), peak.bytes, work.parameters, work.state_bytes)
    except Unavailable as reason:
        return _Turn(note=str(reason))
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)):
            raise
        return _Turn(note="out of memory")
    finally:
        gc.collect()
        if at.device.type == "cuda":
            torch.cuda.empty_cache()


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _row(what: Phase, name: str, at: Case, turns: list[_Turn]) -> Row:
    row = Row(what, name, at)
    if turns[-1].note:
        return row._replace(note=turns[-1].note)
    seconds = [one for turn in turns for one in turn.seconds]
    tokens = at.batch_size * (1 if what == "decode" else at.length)
    return row._replace(
        seconds=median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        tokens_per_second=tokens / median(seconds),
        peak_bytes=max((turn.peak_bytes for turn in turns if turn.peak_bytes is not None), default=None),
        parameters=turns[-1].parameters,
        state_bytes=turns[-1].state_bytes,
    )
