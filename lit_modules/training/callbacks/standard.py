"""The callbacks that every run has."""

from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar

from lit_modules.training.callbacks.finite import Finite
from lit_modules.training.callbacks.keep_best import KeepBest
from lit_modules.training.callbacks.keep_last import KeepLast
from lit_modules.training.callbacks.progress import Progress, Samples, Speed


def all_callbacks(
    asked: list[Callback] | Callback | None,
    *,
    progress_bar: bool,
    checkpoints_every_n_steps: int | None,
    skip_nonfinite_steps: bool,
) -> list[Callback]:
    """A user's callbacks, and those of every run that are not among them; the order is that in which they are called.

    Args:
        asked: The user's.
        progress_bar: Whether there is one.
        checkpoints_every_n_steps: How often the last checkpoint is saved; None keeps no checkpoints.
        skip_nonfinite_steps: Whether a step whose gradient is not finite is left out.
    """
    callbacks = [asked] if isinstance(asked, Callback) else list(asked or [])
    callbacks += [Finite(skip=skip_nonfinite_steps), Speed(), Samples()]
    if progress_bar and not any(isinstance(callback, ProgressBar) for callback in callbacks):
        callbacks.append(Progress())
    if checkpoints_every_n_steps is not None:
        callbacks += [KeepBest(), KeepLast(checkpoints_every_n_steps)]
        if not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
            callbacks.append(ModelCheckpoint(monitor="val/loss", filename="best", enable_version_counter=False))
    return callbacks
