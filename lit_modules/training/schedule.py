"""How the learning rate changes over the steps of a run."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from mixers.checks import UsageError, at_least, between

Schedule = Literal["cosine", "linear", "constant", "wsd"]
COOLDOWN = 5  # a cool-down is one in so many of all steps, unless it is given: arXiv:2405.18392, section 3


def lr_factor(
    schedule: Schedule, *, warmup_steps: int, decay_steps: int, min_lr_ratio: float, cooldown_steps: int | None = None
) -> Callable[[int], float]:
    """What the learning rate is multiplied by at each optimizer step.

    It rises to 1 in a straight line over `warmup_steps`. Then it falls to `min_lr_ratio` at step `decay_steps`: in the
    shape of `schedule`, with `wsd` (warm-up, stable, decay) in a straight line over the last `cooldown_steps` of these
    only, and not at all if it is constant.
    """
    cooldown = max(1, decay_steps // COOLDOWN) if cooldown_steps is None else cooldown_steps
    falls_from = max(warmup_steps, decay_steps - cooldown) if schedule == "wsd" else warmup_steps

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "constant" or step < falls_from:
            return 1.0
        progress = min((step - falls_from) / max(decay_steps - falls_from, 1), 1.0)
        shape = (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress
        return min_lr_ratio + (1 - min_lr_ratio) * shape

    return factor


def check_schedule(
    schedule: Schedule, *, warmup_steps: int, decay_steps: int | None, min_lr_ratio: float, cooldown_steps: int | None
) -> None:
    """Raises UsageError for an option of the schedule that is out of range."""
    between(0, 1, min_lr_ratio=min_lr_ratio)
    at_least(0, warmup_steps=warmup_steps)
    if cooldown_steps is not None:
        at_least(1, cooldown_steps=cooldown_steps)
        if schedule != "wsd":
            raise UsageError(f"cooldown_steps={cooldown_steps} is of schedule=wsd, not {schedule}: leave it out.")
    if decay_steps is not None:
        at_least(1, decay_steps=decay_steps)
        if decay_steps < warmup_steps:
            raise UsageError(f"decay_steps={decay_steps} is within warmup_steps={warmup_steps}: write a larger number.")


def schedule_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run's schedule, but for its end."""
    return {name: options[name] for name in ("schedule", "warmup_steps", "min_lr_ratio", "cooldown_steps")}
