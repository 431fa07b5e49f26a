"""What a validation measures: means over all targets, of each of its loaders and of all together."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from lit_modules.data.base import LanguageData
from lit_modules.data.datamodule import Text
from lit_modules.evaluation.scores import SUM_DTYPE, bits_per_byte

SHOWN = {"val/perplexity", "val/accuracy"}  # by the progress bar


class Validation:
    """The losses of a validation, and how many targets were the likeliest; over all processes together.

    Args:
        loaders: How many there are: one for each corpus of a mixture, or part of a task.
        device: Where the losses are.
    """

    def __init__(self, loaders: int, device: torch.device) -> None:
        self._losses, self._accuracies = ([mean().to(device) for _ in range(loaders)] for _ in range(2))

    def update(self, loader: int, losses: Tensor, right: Tensor) -> None:
        """Adds the targets of a batch: the loss of each in nats, and whether it was the likeliest."""
        self._losses[loader].update(losses)
        self._accuracies[loader].update(right.to(losses.dtype))

    def metrics(self, data: Any) -> dict[str, Tensor]:
        """The metrics by name, of the whole and, where there are several, of each loader."""
        weights = data.validation_weights if isinstance(data, LanguageData) else {"": 1.0}
        losses, accuracies = ([each.compute() for each in means] for means in (self._losses, self._accuracies))
        has_text = not isinstance(data, LanguageData) or data.has_text
        found = {"": (weighted_mean(losses, weights.values()), weighted_mean(accuracies, weights.values()))}
        sizes = {"": getattr(data, "bytes_per_token", None)}
        if len(losses) > 1:
            found |= {
                f"/{name}": both for name, both in zip(weights, zip(losses, accuracies, strict=True), strict=True)
            }
            files = data.token_files("validation") if isinstance(data, Text) else {}
            sizes |= {f"/{name}": file.bytes_per_token for name, file in files.items()}
        metrics: dict[str, Tensor] = {}
        for name, (loss, accuracy) in found.items():
            metrics |= {f"val/loss{name}": loss, f"val/perplexity{name}": loss.exp()}
            if size := sizes.get(name):
                metrics[f"val/bits_per_byte{name}"] = bits_per_byte(loss, size)
            if not has_text:
                metrics[f"val/accuracy{name}"] = accuracy
        return metrics


def weighted_mean(values: Sequence[Tensor], weights: Iterable[float]) -> Tensor:
    """The mean of the values of all loaders, with weights that add up to 1."""
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum()


def mean() -> MeanMetric:
    """The mean over tokens, each alike."""
    # Not to look for NaN, which it would leave out, also means to ignore weights.
    metric = MeanMetric(nan_strategy="disable")
    metric.set_dtype(SUM_DTYPE)
    return metric
