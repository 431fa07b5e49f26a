"""Which parameters decay, which learn at their own rate, and how the rate changes over the steps."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

from mixers.checks import UsageError, above, at_least, between

Schedule = Literal["cosine", "linear", "constant"]


def parameter_groups(model: nn.Module, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of parameters for AdamW.

    Only matrices decay: embeddings, norms, biases and decay rates do not, nor does a vector of shape (1, 1, d). A
    module whose parameters want something else says so in an attribute `optimizer_options`, a dict that may hold `lr`,
    the highest learning rate for them, and `weight_decay`; inner modules win over outer ones. The schedule scales all
    learning rates alike.

    Which parameters share a group does not depend on `lr` and `weight_decay`, so both may change on resuming.
    """
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    asked: dict[nn.Parameter, dict[str, float]] = {parameter: {} for parameter in model.parameters()}
    for module in model.modules():  # outer modules come first
        options: Any = getattr(module, "optimizer_options", None)
        for parameter in module.parameters() if options else ():
            asked[parameter] |= options
    groups: dict[tuple[float | None, float | None], list[nn.Parameter]] = {(None, None): [], (None, 0.0): []}
    for parameter, own in asked.items():
        decays = sum(size > 1 for size in parameter.shape) >= 2 and id(parameter) not in embedded
        group = own.get("lr"), own.get("weight_decay", None if decays else 0.0)
        groups.setdefault(group, []).append(parameter)
    return [
        {
            "params": params,
            "lr": lr if rate is None else min(rate, lr),
            "weight_decay": weight_decay if decay is None else decay,
        }
        for (rate, decay), params in groups.items()
        if params
    ]


def check_options(
    *,
    lr: float,
    min_lr_ratio: float,
    warmup_steps: int,
    decay_steps: int | None,
    weight_decay: float,
    betas: Sequence[float],
) -> None:
    """Raises UsageError for an option of the optimizer or the schedule that is out of range."""
    above(0, lr=lr)
    between(0, 1, min_lr_ratio=min_lr_ratio)
    at_least(0, warmup_steps=warmup_steps, weight_decay=weight_decay)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UsageError(f"betas={list(betas)} are out of range: write two numbers from 0 to below 1, as [0.9, 0.98].")
    if decay_steps is not None:
        at_least(1, decay_steps=decay_steps)
        if decay_steps < warmup_steps:
            raise UsageError(f"decay_steps={decay_steps} is within warmup_steps={warmup_steps}: write a larger number.")


def regroup(saved: dict[str, Any], model: nn.Module, *, lr: float, weight_decay: float) -> dict[str, Any]:
    """An optimizer's state in the groups of `parameter_groups`; `lr` and `weight_decay` are those it was saved with.

    Version 0.1.0 merged groups where their options were equal.

    Raises:
        UsageError: The model's modules have other options than then, so the groups cannot be told apart.
    """
    groups = parameter_groups(model, lr=lr, weight_decay=weight_decay)
    sizes = [len(group["params"]) for group in saved["param_groups"]]
    if [len(group["params"]) for group in groups] == sizes:
        return saved
    merged: dict[tuple[float, float], list[nn.Parameter]] = {}
    for group in groups:
        merged.setdefault((group["lr"], group["weight_decay"]), []).extend(group["params"])
    if list(map(len, merged.values())) != sizes:
        raise UsageError("this checkpoint of version 0.1.0 was made with another ssm_lr: go on with the same at first.")
    order = {parameter: number for number, parameter in enumerate(model.parameters())}
    old = (parameter for group in merged.values() for parameter in sorted(group, key=order.__getitem__))
    states = {parameter: saved["state"].get(number) for number, parameter in enumerate(old)}
    new = {parameter: number for number, parameter in enumerate(p for group in groups for p in group["params"])}
    shared = saved["param_groups"][0]  # but for what a run sets at its start
    return {
        "state": {number: states[parameter] for parameter, number in new.items() if states[parameter] is not None},
        "param_groups": [{**shared, "params": [new[p] for p in group["params"]]} for group in groups],
    }


def lr_factor(
    schedule: Schedule, *, warmup_steps: int, decay_steps: int, min_lr_ratio: float
) -> Callable[[int], float]:
    """What the learning rate is multiplied by at each optimizer step.

    It rises to 1 in a straight line over `warmup_steps`, then falls in the shape of `schedule` to `min_lr_ratio` at
    step `decay_steps`, unless the schedule is constant.
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
