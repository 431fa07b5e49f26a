"""The best checkpoint of a run that goes on in another folder or with another validation text."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info

from lit_modules.console import short_path
from lit_modules.data.base import LanguageData


class KeepBest(Callback):
    """Keeps a resumed run from writing over its best checkpoint with one that is worse, or not comparable.

    The best checkpoint on another text than before is renamed, and stays. That of a run whose folder was moved is known
    again; Lightning's ModelCheckpoint would forget how good it was.
    """

    def __init__(self) -> None:
        self._measured_on: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"measured_on": self._measured_on}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._measured_on = state_dict["measured_on"]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if state and isinstance(callback, ModelCheckpoint) and callback.dirpath:
                _move(state, Path(callback.dirpath))

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        before, self._measured_on = self._measured_on, _measured_on(trainer)
        if before is None or before == self._measured_on:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.best_model_path:
                _start_anew(callback, trainer)


def _measured_on(trainer: pl.Trainer) -> dict[str, Any] | None:
    """What a validation loss depends on beside the model; None for data that are not ours."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, LanguageData) or not trainer.enable_validation:
        return None
    isolated = data.start_token is not None
    return {"data": data.validation_digest, "limit_val_batches": trainer.limit_val_batches, "isolated": isolated}


def _move(state: dict[str, Any], folder: Path) -> None:
    """Makes the paths in a ModelCheckpoint's state those of the same files in another folder, if they are there."""

    def here(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    if Path(here(state["best_model_path"])).is_file():
        state |= {name: here(state[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        state["best_k_models"] = {here(path): score for path, score in state["best_k_models"].items()}
        state["dirpath"] = str(folder)


def _start_anew(callback: ModelCheckpoint, trainer: pl.Trainer) -> None:
    best = Path(callback.best_model_path)
    kept = best.with_name(f"{best.stem}-before-step-{trainer.global_step}{best.suffix}")
    if trainer.is_global_zero and best.exists():
        os.replace(best, kept)
        rank_zero_info(f"The validation text has changed: the best checkpoint on the one before is {short_path(kept)}.")
    callback.best_model_path = callback.kth_best_model_path = ""
    callback.best_model_score = callback.current_score = None
    callback.best_k_models = {}
