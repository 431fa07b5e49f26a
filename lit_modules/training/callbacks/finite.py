"""Losses and gradients that are not finite numbers."""

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lit_modules.lightning_internals import step_is_done, step_is_logged

NAMES = "loss", "gradient", "size of the weights"
NEVER = 2**62  # later than any step
MAX_SKIPPED = 100  # steps in a row: after so many the weights are the reason, not the text


class Finite(Callback):
    """Stops a run whose loss or gradient is infinite or not a number, before anything is made of it.

    The first such step is noted on the device. It is read on steps that are logged, and before each checkpoint and each
    validation, so that a GPU does not wait on every step. To skip such steps it has to be read on each.

    Args:
        skip: Whether a step with such a gradient is left out, instead of stopping the run.
    """

    def __init__(self, *, skip: bool) -> None:
        self.skip = skip
        self.skipped = 0  # steps in a row
        self._rates: dict[int, float] = {}  # learning rates of the steps since the last look

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._first = torch.full(
            (len(NAMES),), NEVER, device=pl_module.device
        )  # the step, for each of what NAMES names

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if trainer.scaler is not None:
            return  # a GradScaler looks for these itself: it skips the step and scales less
        step, norm = trainer.global_step + 1, _norm(_gradients(optimizer))
        self._rates[step] = optimizer.param_groups[0]["lr"]
        if not self.skip:
            self._note(1, norm, step)
        elif trainer.strategy.reduce_boolean_decision(bool(norm.isfinite()), all=True):
            self.skipped = 0
        else:
            self.skipped += 1
            if self.skipped > MAX_SKIPPED:
                raise FloatingPointError(
                    f"the last {self.skipped} steps had a gradient that is not finite, up to step {step}: go on from "
                    "an older checkpoint, with --ckpt_path and a lower model.lr."
                )
            rank_zero_info(f"step {step} is skipped, since its gradient is not finite")
            optimizer.zero_grad(set_to_none=True)  # what has no gradient is left as it is

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = step_is_done(trainer)
        if not self.skip and isinstance(outputs, dict) and "loss" in outputs:
            self._note(0, outputs["loss"], trainer.global_step if done else trainer.global_step + 1)
        if done and step_is_logged(trainer):
            self._check(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._check(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            self._note(2, _norm(pl_module.parameters()), trainer.global_step)
            self._check(trainer)

    def _note(self, which: int, value: Tensor, step: int) -> None:
        found = value.detach().isfinite().to(self._first.device)
        self._first[which] = torch.where(found, self._first[which], self._first[which].clamp(max=step))

    def _check(self, trainer: pl.Trainer) -> None:
        """Ends the run on all processes if one has noted a step."""
        steps = trainer.strategy.reduce(self._first.clone(), reduce_op="min").tolist()
        rates, self._rates = self._rates, {}
        if (step := min(steps)) == NEVER:
            return
        rate = f", where the learning rate is {rates[step]:.4g}" if step in rates else ""
        raise FloatingPointError(
            f"the {NAMES[steps.index(step)]} is not finite at step {step}{rate}: go on from the last checkpoint "
            "with a lower model.lr, a longer model.warmup_steps, trainer.gradient_clip_val=1, or "
            "trainer.skip_nonfinite_steps=true, which leaves such steps out."
        )


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    """The norm of the parts of some tensors that this process has, not finite if any of their numbers is not."""
    with torch.no_grad():
        return get_total_norm([tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors])
