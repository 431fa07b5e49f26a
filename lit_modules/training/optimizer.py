"""Which parameters decay, which learn at their own rate, and how the rate changes over the steps."""

import math
from collections.abc import Callable
from typing import Any, Literal

from torch import nn

Schedule = Literal["cosine", "linear", "constant"]


def parameter_groups(model: nn.Module, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of parameters for AdamW.

    Only matrices decay: embeddings, norms, biases and decay rates do not, nor does a vector of shape (1, 1, d). A
    module whose parameters want something else says so in an attribute `optimizer_options`, a dict that may hold `lr`
    and `weight_decay`; inner modules overrule outer ones. The schedule scales all learning rates alike.
    """
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(lr, weight_decay): [], (lr, 0.0): []}
    asked = _asked_options(model)
    for parameter in model.parameters():
        decays = sum(size > 1 for size in parameter.shape) >= 2 and id(parameter) not in embedded
        options = {"lr": lr, "weight_decay": weight_decay if decays else 0.0} | asked[id(parameter)]
        groups.setdefault((options["lr"], options["weight_decay"]), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
        if parameters
    ]


def _asked_options(model: nn.Module) -> dict[int, dict[str, float]]:
    """What modules ask for each parameter, by its id."""
    asked: dict[int, dict[str, float]] = {id(parameter): {} for parameter in model.parameters()}
    for module in model.modules():  # outer modules come first
        options: Any = getattr(module, "optimizer_options", None)
        for parameter in module.parameters() if options else ():
            asked[id(parameter)] |= options
    return asked


def lr_factor(
    schedule: Schedule, *, warmup_steps: int, decay_steps: int, min_lr_ratio: float
) -> Callable[[int], float]:
    """What the learning rate is multiplied by at each optimizer step: up in a straight line, then down to a floor.

    Args:
        schedule: Shape of the way down; a constant one has no way down.
        warmup_steps: Steps until the full rate.
        decay_steps: Step at which the floor is reached; unread where the schedule is constant.
        min_lr_ratio: The floor.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "constant":
            return 1.0
        progress = min((step - warmup_steps) / max(decay_steps - warmup_steps, 1), 1.0)
        shape = 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return min_lr_ratio + (1 - min_lr_ratio) * shape

    return factor
