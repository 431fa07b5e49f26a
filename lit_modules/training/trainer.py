"""Lightning's trainer, measured in optimizer steps."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Callback
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.utilities import rank_zero_info

from lit_modules.lightning_internals import batches_done, end_without_steps, hush, set_timeout
from lit_modules.training import checkpoint, pretrained
from lit_modules.training.callbacks.standard import all_callbacks
from lit_modules.training.check_weights import check_weights
from lit_modules.training.checkpoint_io import CheckpointFiles
from lit_modules.training.language_model import LitLanguageModel
from lit_modules.training.measuring import Measuring
from lit_modules.training.mixer_config import model_mixers
from lit_modules.training.precision import best_precision
from lit_modules.training.results import print_results
from lit_modules.training.run_folder import RunLogger
from lit_modules.training.strategies import choose_strategy
from lit_modules.training.trainer_options import check_options
from mixers.checks import UsageError, above


class Trainer(Measuring):
    """Trains on an endless stream of text for a number of optimizer steps.

    Args:
        max_steps: Optimizer steps to train for; -1 trains until it is stopped.
        precision: Number format: `auto` is bfloat16 with float32 weights (`bf16-mixed`) where the hardware multiplies
            bfloat16 itself, and float32 (`32-true`) elsewhere.
        val_check_interval: Optimizer steps between two validations; there is always one at the end.
        save_every_n_steps: Optimizer steps between two savings of last.ckpt, which is also saved before each
            validation and when the run is stopped.
        skip_nonfinite_steps: Whether an optimizer step whose gradient is infinite or not a number is left out, for
            which the processor waits for the GPU on every step; otherwise it stops the run.
        process_timeout: Minutes that one of several processes waits for another that hangs, before the run ends.
        accumulate_grad_batches: Batches that an optimizer step takes its gradient from.
        logger: Where to log; by default to TensorBoard, in a folder runs/MIXER/version_N.
        callbacks: Callbacks beside the trainer's own.
        enable_checkpointing: Whether to keep the best and the last checkpoint.
        enable_progress_bar: Whether to show progress.
        enable_model_summary: Whether to list the layers of the model at the start.
        max_epochs: Not for this trainer: a run is measured in steps.
        accelerator: The hardware: `auto`, `cpu`, `gpu` or any that Lightning knows.
        default_root_dir: The folder of all runs.
        strategy: How processes share the work: with `ddp` each has the whole model, with `fsdp2` a part of the model
            and of the optimizer's state, for models that do not fit otherwise; `auto` is `ddp` for several.
        sharded_checkpoints: Whether with `fsdp2` each process saves its own part, so that a checkpoint is a folder;
            otherwise it is one file, for which the first process needs the memory.
        options: Options of Lightning's trainer.
    """

    def __init__(
        self,
        *,
        max_steps: int = -1,
        precision: str | int = "auto",
        val_check_interval: int | None = None,
        save_every_n_steps: int = 500,
        skip_nonfinite_steps: bool = False,
        process_timeout: float = 30,
        accumulate_grad_batches: int = 1,
        logger: Logger | Iterable[Logger] | bool | None = None,
        callbacks: list[Callback] | Callback | None = None,
        enable_checkpointing: bool = True,
        enable_progress_bar: bool = True,
        enable_model_summary: bool = False,
        max_epochs: int | None = None,
        accelerator: str | Accelerator = "auto",
        default_root_dir: str | Path = "runs",
        strategy: str | Strategy = "auto",
        sharded_checkpoints: bool = False,
        **options: Any,
    ):
        above(0, process_timeout=process_timeout)
        own_options = ("max_steps", "max_epochs", "val_check_interval", "save_every_n_steps", "accumulate_grad_batches")
        check_options(options | {name: value for name, value in locals().items() if name in own_options})
        if precision == "auto":
            precision, reason = best_precision(accelerator)
            rank_zero_info(f"precision: {precision} ({reason})")
        strategy = choose_strategy(strategy, sharded_checkpoints=sharded_checkpoints, precision=precision)
        own = all_callbacks(
            callbacks,
            progress_bar=enable_progress_bar,
            checkpoints_every_n_steps=save_every_n_steps if enable_checkpointing else None,
            skip_nonfinite_steps=skip_nonfinite_steps,
        )
        hush()
        self._logs_to_folder = logger is None or logger is True  # which `fit` knows
        super().__init__(
            max_steps=max_steps,
            max_epochs=-1 if max_steps == -1 else None,
            precision=precision,  # type: ignore[arg-type]
            # Lightning counts batches here, and optimizer steps elsewhere.
            val_check_interval=val_check_interval and val_check_interval * accumulate_grad_batches,
            check_val_every_n_epoch=None,
            accumulate_grad_batches=accumulate_grad_batches,
            logger=False if self._logs_to_folder else logger,
            callbacks=own,
            enable_checkpointing=enable_checkpointing,
            enable_progress_bar=enable_progress_bar,
            enable_model_summary=enable_model_summary,
            accelerator=accelerator,
            default_root_dir=default_root_dir,
            strategy=strategy,
            use_distributed_sampler=False,  # the data know their share
            **options,
        )
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:  # else it is one that the user chose
            self.strategy.checkpoint_io = CheckpointFiles()
        end_without_steps(self)
        set_timeout(self, minutes=process_timeout)

    def fit(  # type: ignore[override]  # nothing is ever unpickled, so there is no `weights_only` to choose
        self,
        model: pl.LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        init_from: str | None = None,
        branch: bool = False,
    ) -> None:
        """Trains a model.

        Args:
            model: The model.
            train_dataloaders: Batches to train on, instead of a data module.
            val_dataloaders: Batches to validate on, instead of a data module.
            datamodule: The data.
            ckpt_path: Checkpoint to go on from, in the same folder; `last` is the newest of all runs.
            init_from: Checkpoint whose weights a new run starts with, at step 0, on other data or with other options of
                training: its model and its tokenizer are those of the checkpoint.
            branch: Whether the run that goes on from `ckpt_path` does so in a new folder, and leaves that of the
                checkpoint as it is: such as a cool-down, with `schedule=wsd`, from a run at a constant rate.
        """
        path = self._file(ckpt_path)
        if branch and path is None:
            raise UsageError("branch=True needs a run to branch off: set ckpt_path to one of its checkpoints.")
        if init_from and path:
            pretrained.refuse_both(ckpt_path, init_from)
        if init_from and isinstance(model, LitLanguageModel):
            model.start_from(pretrained.read(init_from, self.default_root_dir))
        if path and isinstance(model, LitLanguageModel):
            check_weights(model, checkpoint.read_file(path)["state_dict"], f"ckpt_path={str(path)!r}")
        if path:  # a resumed run saves where it saved before
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        if self._logs_to_folder:  # of the run that goes on, or in a new one named after the mixer
            name = model_mixers(model.model) if isinstance(model, LitLanguageModel) else type(model).__name__
            folder = checkpoint.run_folder(path) if path and not branch else None
            self.logger = RunLogger.of(folder, Path(self.default_root_dir, name))
        try:
            super().fit(model, train_dataloaders, val_dataloaders, datamodule, path, weights_only=True)
        except BaseException:
            if batches_done(self) == 0 and isinstance(self.logger, RunLogger):  # refused, or stopped, before it trained
                self.logger.discard()
            raise
        if self.is_global_zero and isinstance(model, LitLanguageModel):
            print_results(model.model, self)
