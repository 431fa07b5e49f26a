"""The mean loss over all targets of an optimizer step, whatever batches and processes they are in."""

from collections.abc import Iterable

import torch
from pytorch_lightning.strategies import Strategy
from torch import Tensor
from torch.distributed.tensor import DTensor

from mixers.model.loss import IGNORED

SCALE = 2**12  # targets of a batch that weigh as one: about as many as there are, so that losses keep their size


class StepMean:
    """Weighs the losses of batches that have different numbers of targets.

    Each batch's mean loss is weighted by its targets, and the gradient is divided by the weights of all batches and
    processes before the optimizer uses it. Only one pair of numbers is exchanged between processes for each step.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # of the weighted losses and of the weights, since the last step

    def weigh(self, loss: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a mean over its targets, with its weight."""
        weight = (targets != IGNORED).sum() / SCALE
        sums = torch.stack([loss.detach() * weight, weight])
        self._sums = sums if self._sums is None else self._sums + sums
        return loss * weight

    def finish(self, gradients: Iterable[Tensor], strategy: Strategy, batches: int) -> Tensor | None:
        """Makes the gradients, in place, those of the mean over all targets; returns that mean, None without a batch.

        Args:
            gradients: Of the mean over processes of the weighted losses, each divided by `batches`.
            strategy: What adds up over the processes, which all call it together.
            batches: What the losses were divided by, also where a step had fewer batches.
        """
        if self._sums is None:
            return None
        total, weight = strategy.reduce(self._sums, reduce_op="mean")
        self._sums = None
        for gradient in gradients:
            local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            local.mul_(batches / weight)
        return total / weight
