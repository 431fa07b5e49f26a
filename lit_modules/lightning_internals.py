"""What reaches into private parts of Lightning; nothing else does. Any part of this package may import it."""

import logging
import warnings

import pytorch_lightning as pl
from pytorch_lightning.cli import LightningCLI

# What Lightning says of itself, or says again after us.
NOISE = ("💡 Tip:", "GPU available:", "TPU available:", "Using bfloat16 Automatic", "`Trainer.fit` stopped")
WARNINGS = (
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    "The dirpath has changed from",  # in validation and tests, where nothing is saved
)


class CLIWithoutCheckpoints(LightningCLI):
    """LightningCLI that leaves checkpoints to us: with its own way their options win over what the user typed."""

    def _parse_ckpt_path(self) -> None:
        pass


class NothingRuns(LightningCLI):
    """LightningCLI that builds everything and starts nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


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


def hush() -> None:
    """Keeps from the user advertisements of Lightning's, deprecations in its own code, and what we say ourselves."""
    for warning in WARNINGS:
        warnings.filterwarnings("ignore", warning)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOISE)
