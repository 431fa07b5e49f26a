"""Which parameters decay, and which learn at a rate of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from torch import nn

from mixers import Block
from mixers.checks import UsageError, above, at_least

Part = Literal["mixer", "ffn", "embedding", ""]  # "" are the norms, and what has a rate of its own
Key = tuple[Part, float | None, float | None]  # of a group: its part, and its own learning rate and weight decay
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


@dataclass(frozen=True)
class Rates:
    """Learning rates and weight decay, from the options of a run."""

    lr: float
    weight_decay: float
    mixer_lr_ratio: float = 1.0
    ffn_lr_ratio: float = 1.0
    embedding_lr_ratio: float = 1.0

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "Rates":
        """Those of a run; the options of earlier versions lack some."""
        return cls(**{each.name: options[each.name] for each in fields(cls) if each.name in options})

    def of(self, part: Part) -> float:
        """The learning rate of a part."""
        ratios = {"mixer": self.mixer_lr_ratio, "ffn": self.ffn_lr_ratio, "embedding": self.embedding_lr_ratio}
        return self.lr * ratios.get(part, 1.0)


def parameter_groups(model: nn.Module, rates: Rates) -> list[dict[str, Any]]:
    """Groups of parameters for AdamW.

    Only matrices decay: embeddings, norms, biases and decay rates do not, nor does a vector of shape (1, 1, d). Mixers,
    feed-forward layers and embeddings, the head among them, have multipliers of the learning rate. A module whose
    parameters want something else says so in an attribute `optimizer_options`, a dict that may hold `lr`, the highest
    learning rate for them, and `weight_decay`; inner modules win over outer ones, and with None return to the rule. The
    schedule scales all learning rates alike.

    Which parameters share a group does not depend on the rates, so that all of them may change on resuming.
    """
    return _with_rates(_grouped(model, by_part=True), rates)


def _grouped(model: nn.Module, *, by_part: bool) -> dict[Key, list[nn.Parameter]]:
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    parts = _parts(model) if by_part else {}
    asked: dict[nn.Parameter, dict[str, float]] = {parameter: {} for parameter in model.parameters()}
    for module in model.modules():  # outer modules come first
        options: Any = getattr(module, "optimizer_options", None)
        for parameter in module.parameters() if options else ():
            asked[parameter] |= options
    groups: dict[Key, list[nn.Parameter]] = {("", None, None): [], ("", None, 0.0): []}  # first: it has the rate `lr`
    for parameter, own in asked.items():
        decays = sum(size > 1 for size in parameter.shape) >= 2 and id(parameter) not in embedded
        rate = own.get("lr")
        part = parts.get(parameter, "") if rate is None else ""
        groups.setdefault((part, rate, own.get("weight_decay", None if decays else 0.0)), []).append(parameter)
    return {key: params for key, params in groups.items() if params}


def _parts(model: nn.Module) -> dict[nn.Parameter, Part]:
    parts: dict[nn.Parameter, Part] = {}
    for module in model.modules():
        if isinstance(module, Block):
            parts |= dict.fromkeys(module.mixer.parameters(), "mixer")
            parts |= dict.fromkeys(module.ffn.parameters(), "ffn")
        elif isinstance(module, nn.Embedding):
            parts |= dict.fromkeys(module.parameters(), "embedding")
    head = getattr(model, "head", None)
    return parts | dict.fromkeys(head.parameters() if head is not None else (), "embedding")


def _with_rates(groups: dict[Key, list[nn.Parameter]], rates: Rates) -> list[dict[str, Any]]:
    return [
        {
            "params": params,
            "lr": rates.of(part) if rate is None else min(rate, rates.lr),
            "weight_decay": rates.weight_decay if decay is None else decay,
        }
        for (part, rate, decay), params in groups.items()
    ]


def check_options(rates: Rates, betas: Sequence[float]) -> None:
    """Raises UsageError for an option of the optimizer that is out of range."""
    above(0, lr=rates.lr)
    at_least(0, **{name: value for name, value in asdict(rates).items() if name != "lr"})
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UsageError(f"betas={list(betas)} are out of range: write two numbers from 0 to below 1, as [0.9, 0.98].")


def regroup(saved: dict[str, Any], model: nn.Module, rates: Rates) -> dict[str, Any]:
    """An optimizer's state in the groups of `parameter_groups`; `rates` are those it was saved with.

    Before parts had rates they shared groups, and version 0.1.0 merged groups where their options were equal.

    Raises:
        UsageError: The model's modules have other options than then, so the groups cannot be told apart.
    """
    groups = parameter_groups(model, rates)
    sizes = [len(group["params"]) for group in saved["param_groups"]]
    if [len(group["params"]) for group in groups] == sizes:
        return saved
    earlier = _with_rates(_grouped(model, by_part=False), rates)
    groupings = ([group["params"] for group in earlier], _merged(earlier, model))
    old = next((grouping for grouping in groupings if [len(group) for group in grouping] == sizes), None)
    if old is None:
        raise UsageError("this checkpoint of version 0.1.0 was made with another ssm_lr: go on with the same at first.")
    order = [parameter for group in old for parameter in group]
    states = {parameter: saved["state"].get(number) for number, parameter in enumerate(order)}
    new = {parameter: number for number, parameter in enumerate(p for group in groups for p in group["params"])}
    shared = saved["param_groups"][0]  # but for what a run sets at its start
    return {
        "state": {number: states[parameter] for parameter, number in new.items() if states[parameter] is not None},
        "param_groups": [{**shared, "params": [new[p] for p in group["params"]]} for group in groups],
    }


def _merged(groups: list[dict[str, Any]], model: nn.Module) -> list[list[nn.Parameter]]:
    """Groups of equal options as one each, in the order of the model's parameters."""
    order = {parameter: number for number, parameter in enumerate(model.parameters())}
    merged: dict[tuple[float, float], list[nn.Parameter]] = {}
    for group in groups:
        merged.setdefault((group["lr"], group["weight_decay"]), []).extend(group["params"])
    return [sorted(params, key=order.__getitem__) for params in merged.values()]


def check_moments(saved: dict[str, Any], model: nn.Module) -> None:
    """Raises UsageError unless the moments in an optimizer's state, in the groups of `parameter_groups`, fit the model.

    AdamW would not look, and write to memory that is not its own.
    """
    parameters = [parameter for group in _grouped(model, by_part=True).values() for parameter in group]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    shapes = {number: parameter.shape for number, parameter in zip(numbers, parameters, strict=False)}
    for number, state in saved["state"].items():
        if any(getattr(state.get(name), "shape", None) != shapes.get(number, ()) for name in MOMENTS):
            raise UsageError(
                "ckpt_path holds the state of an optimizer of other weights, by their shapes: write another, or start "
                "a new run with --init_from."
            )
