"""Which parameters decay, which learn at their own rate, and how the rate changes over the steps."""

import math
from collections.abc import Callable
from typing import Any, Literal

from torch import nn

Schedule = Literal["cosine", "linear", "constant"]


def parameter_groups(model: nn.Module, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of parameters for AdamW.

    Only matrices decay: embeddings, norms, biases, decay rates and whatever a layer marked `_no_weight_decay` do not.
    A parameter that a layer gave a learning rate, `_lr`, keeps it; the schedule scales both alike.
    """
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(lr, True): [], (lr, False): []}
    for parameter in model.parameters():
        decays = (
            parameter.ndim >= 2 and id(parameter) not in embedded and not getattr(parameter, "_no_weight_decay", False)
        )
        groups.setdefault((getattr(parameter, "_lr", lr), decays), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": weight_decay if decays else 0.0}
        for (rate, decays), parameters in groups.items()
        if parameters
    ]


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
