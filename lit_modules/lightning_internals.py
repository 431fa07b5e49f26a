"""What reaches into private parts of Lightning; nothing else does. Any part of this package may import it."""

import logging
import warnings
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loops.fit_loop import _FitLoop
from pytorch_lightning.strategies import ModelParallelStrategy, Strategy
from pytorch_lightning.strategies.parallel import ParallelStrategy

# What Lightning says of itself, or says again after us.
NOISE = ("💡 Tip:", "GPU available:", "TPU available:", "Using bfloat16 Automatic", "`Trainer.fit` stopped")
WARNINGS = (
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    "The dirpath has changed from",  # in validation and tests, where nothing is saved
    "It is recommended to use `self.log\\('val/",  # of what is added up over all processes already
)


class CLIWithoutCheckpoints(LightningCLI):
    """LightningCLI that leaves checkpoints to us: with its own way their options win over what the user typed."""

    def _parse_ckpt_path(self) -> None:
        pass


class NothingRuns(LightningCLI):
    """LightningCLI that builds everything and starts nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


class DataParallelMesh(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, which saves and restores as any other strategy does.

    All processes have different data and each a part of the model; Lightning's default is one copy of the data for all
    processes of a host, which would train without an error.
    """

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return ParallelStrategy.lightning_module_state_dict(self)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)


def strategy_of(module: pl.LightningModule) -> Strategy | None:
    """The strategy that a module is trained with; None without a trainer, as when it is loaded from a checkpoint."""
    return module._trainer.strategy if module._trainer else None


class FitLoop(_FitLoop):
    """Lightning's loop, which also begins, and so ends, where no steps are left.

    A run that died in its last validation goes on with that one.
    """

    @property
    def skip(self) -> bool:
        return self.trainer.limit_train_batches == 0


def end_without_steps(trainer: pl.Trainer) -> None:
    """Lets a trainer that has no steps left call the hooks of a run's start and end."""
    trainer.fit_loop.__class__ = FitLoop


def set_timeout(trainer: pl.Trainer, minutes: float) -> None:
    """Sets how long a process waits for the others, which otherwise only the constructor of a strategy can."""
    if hasattr(trainer.strategy, "_timeout"):
        trainer.strategy._timeout = timedelta(minutes=minutes)


def batches_done(trainer: pl.Trainer | None) -> int:
    """Training batches that a trainer has finished, those before it was resumed included; none without a trainer.

    No public count is right in every hook. `processed` rises after the optimizer's step and before on_train_batch_end,
    so it is right wherever a checkpoint is saved, on an exception, too, and leaves out prefetched batches. `completed`
    is one behind in on_train_batch_end, `ready` one ahead on an exception.
    """
    if trainer is None:
        return 0
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]


def batch_index(trainer: pl.Trainer) -> int:
    """The index of the training batch under way, or just done, counted from the first of the run."""
    return int(trainer.fit_loop.total_batch_idx)


def step_is_done(trainer: pl.Trainer) -> bool:
    """Whether the batch just done, or under way, is the last of those that its optimizer step takes."""
    return not trainer.fit_loop._should_accumulate()


def step_is_logged(trainer: pl.Trainer) -> bool:
    """Whether the optimizer step just done, or under way, is one that Lightning logs."""
    return trainer._logger_connector.should_update_logs


def validation_is_due(trainer: pl.Trainer) -> bool:
    """Whether the batch just done is one that validation follows."""
    every = trainer.val_check_batch
    return trainer.enable_validation and every is not None and (batch_index(trainer) + 1) % every == 0


def validate_now(trainer: pl.Trainer) -> None:
    """Validates between two training steps, as Lightning's own loop does where it is due."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False  # or it would start where the one before the checkpoint ended
    trainer.validating = True
    loop.run()
    trainer.training = True


def leave_signals_to_us(trainer: pl.Trainer) -> None:
    """Keeps Lightning from asking the first process before each batch whether it got a SIGTERM: all wait for that."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def hush() -> None:
    """Keeps from the user advertisements of Lightning's, deprecations in its own code, and what we say ourselves."""
    for warning in WARNINGS:
        warnings.filterwarnings("ignore", warning)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOISE)
