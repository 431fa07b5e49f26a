"""What a run shows while it goes: one bar over all steps, how fast tokens pass, and text that the model writes."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.loggers import TensorBoardLogger

from lit_modules.console import number
from lit_modules.data.base import as_batch
from lit_modules.evaluation.completion import Sampling, complete
from lit_modules.lightning_internals import step_is_done, step_is_logged
from lit_modules.training.sharded import is_sharded, same_logits
from mixers import LanguageModel


class Speed(Callback):
    """Logs the tokens trained on per second, on all processes together, validations left out."""

    def on_train_start(self, *_: Any) -> None:
        self.tokens, self.since = 0, time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.tokens += as_batch(batch).targets.numel() * trainer.world_size
        if step_is_done(trainer) and step_is_logged(trainer):
            pl_module.log("tokens_per_second", self.tokens / (time.perf_counter() - self.since), prog_bar=True)
            self.on_train_start()


class Samples(Callback):
    """Shows a text written by the model in TensorBoard after each validation, always from the same random numbers."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        tokenizer = getattr(data, "tokenizer", None) if getattr(data, "has_text", True) else None
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if tokenizer is None or not boards or trainer.sanity_checking:
            return
        model: LanguageModel = pl_module.model  # type: ignore[assignment]
        if not (trainer.is_global_zero or is_sharded(model)):  # of a sharded one each process has a part only
            return
        with same_logits(model):
            [text] = complete(model, tokenizer, [""], Sampling(max_tokens=100, seed=0))
        for board in boards:
            board.experiment.add_text("sample", text, trainer.global_step)  # does nothing but on the first process


class Progress(TQDMProgressBar):
    """One bar over the optimizer steps of the run, and a short one for each validation.

    Where output is not a terminal, a line for each tenth of the run and for each validation instead.
    """

    BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"

    def __init__(self) -> None:
        super().__init__()
        if not sys.stdout.isatty():
            self.disable()

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        # The stream of batches has no end, so Lightning's bar over an epoch would have none either.
        bar = self.train_progress_bar
        bar.total = trainer.max_steps if trainer.max_steps > 0 else None
        bar.initial = bar.n = trainer.global_step
        bar.refresh()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if not step_is_done(trainer):
            return
        self.train_progress_bar.update()
        if self.is_disabled:
            every = trainer.max_steps // 10 if trainer.max_steps > 0 else 10 * trainer.log_every_n_steps  # type: ignore[attr-defined]
            if trainer.global_step % max(1, every) == 0:
                self._print_line(trainer, pl_module)
        elif step_is_logged(trainer):  # reading a metric waits for the GPU, so not on every step
            self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))

    def init_validation_tqdm(self) -> Tqdm:
        bar = super().init_validation_tqdm()
        bar.leave = False
        return bar

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self.is_disabled and not trainer.sanity_checking and trainer.state.fn == "fit":
            self._print_line(trainer, pl_module)

    def _print_line(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        shown = ", ".join(f"{name} {value}" for name, value in self.get_metrics(trainer, pl_module).items())
        if shown and trainer.is_global_zero:
            print(f"step {trainer.global_step} of {trainer.max_steps}: {shown}", flush=True)

    def get_metrics(self, trainer: pl.Trainer, *_: Any) -> dict[str, str | int | float | dict[str, float]]:
        shown = {
            "loss": "train/loss",
            "validation perplexity": "val/perplexity",
            "validation accuracy": "val/accuracy",
            "tokens/s": "tokens_per_second",
        }
        known = trainer.callback_metrics
        return {name: number(known[key].item()) for name, key in shown.items() if key in known}
