"""What `test` measures on a synthetic task: loss and accuracy of each part, as a table and as metrics."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lit_modules import console
from lit_modules.data.base import Batch
from lit_modules.data.cache import replace_text
from lit_modules.data.synthetic.task import Task, part_weights
from lit_modules.evaluation.scores import SUM_DTYPE
from lit_modules.evaluation.tables import aligned, table
from mixers.model.loss import IGNORED

if TYPE_CHECKING:
    import pandas as pd

NOTE = "Loss is in nats per target; accuracy is the part of the targets that are the likeliest id."
FILE = "accuracy.csv"
ALL = "all"  # the row over all parts, weighted by their examples


class Answers(pl.Callback):
    """Adds up the losses and the right answers of each part of a task over a test, on all processes together."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.sums = torch.empty(0)  # (parts, 3): targets, loss, right answers

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.sums = torch.zeros(
            len(self.task.settings(self.task.measured)), 3, dtype=SUM_DTYPE, device=pl_module.device
        )

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        asked = batch.targets != IGNORED
        self.sums[dataloader_idx] += torch.stack(
            [part.to(SUM_DTYPE).sum() for part in (asked, outputs["losses"], outputs["right"])]
        )

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.sums = trainer.strategy.reduce(self.sums, reduce_op="sum").cpu()


def report(task: Task, sums: Tensor, folder: Path | None, verbose: bool) -> dict[str, float]:
    """Prints the table, writes it where there is a folder for it, and returns the metrics, also by part."""
    made = results(task, sums)
    if verbose:
        print(f"{NOTE}\n\n{aligned(made)}", flush=True)  # first, so that a disk that fills loses nothing
    if folder is not None:
        replace_text(folder / FILE, made.to_csv(index=False))
        if verbose:
            print(f"\ntable: {console.short_path(folder / FILE)}")
    metrics: dict[str, float] = {}
    for name, loss, accuracy in zip(made["part"], made["loss"], made["accuracy"], strict=True):
        end = "" if name == ALL else f"/{name}"
        metrics |= {f"test/loss{end}": loss, f"test/accuracy{end}": accuracy}
    return metrics


def results(task: Task, sums: Tensor) -> "pd.DataFrame":
    """A row for all parts together, and one for each if there are several."""
    settings = task.settings(task.measured)
    keys, weights = [key for key in settings[0] if key != "examples"], part_weights(settings)
    means = sums[:, 1:] / sums[:, :1]
    total = torch.tensor(list(weights.values()), dtype=means.dtype) @ means
    common = [settings[0][key] if len({each[key] for each in settings}) == 1 else "" for key in keys]
    examples = sum(each["examples"] for each in settings)
    rows: list[tuple[Any, ...]] = [(ALL, *common, examples, int(sums[:, 0].sum()), *total.tolist())]
    if len(settings) > 1:
        for name, each, targets, mean in zip(weights, settings, sums[:, 0].tolist(), means.tolist(), strict=True):
            rows.append((name, *(each[key] for key in keys), each["examples"], int(targets), *mean))
    return table(rows, ("part", *keys, "examples", "targets", "loss", "accuracy"))
