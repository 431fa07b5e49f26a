"""The last checkpoint of a run, and runs that are asked to stop."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback

from lit_modules.console import command, short_path
from lit_modules.lightning_internals import leave_signals_to_us, step_is_done, validate_now, validation_is_due
from lit_modules.training.callbacks.stop_votes import StopVotes


class Stopped(SystemExit):
    """A run ended by a signal, with everything saved. The exit code is 128 + the signal's number, as shells have it."""


class KeepLast(Callback):
    """Keeps `last.ckpt`, from which a run goes on exactly as if it had never stopped.

    It is written between two optimizer steps only: after every `every_n_steps`, before each validation, at the end, and
    when the run is asked to stop by Ctrl-C or SIGTERM. A second Ctrl-C stops at once.
    """

    def __init__(self, every_n_steps: int):
        self.every_n_steps = every_n_steps
        self.validated_step = 0
        self.asked: int | None = None  # the signal that asked this process to stop
        self.ending = False  # whether any process was asked: then all end at the same step
        self._handlers: dict[signal.Signals, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"validated_step": self.validated_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validated_step = state_dict["validated_step"]

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # the only one that may handle signals
            # Here, because Lightning installs its own handlers just before.
            self._handlers = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        self._votes = StopVotes()
        leave_signals_to_us(trainer)
        # Lightning takes a checkpoint from before a validation for one from after it, and would leave it out.
        if trainer.global_step > self.validated_step and validation_is_due(trainer):
            validate_now(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not step_is_done(trainer):
            return  # gradients of half a step are in no checkpoint
        self._agree()
        if self.ending or trainer.global_step % self.every_n_steps == 0 or validation_is_due(trainer):
            self._save(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        # The checkpoint from before the validation is there already: this one is run again from its start.
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._agree()
            self._end_if_asked(trainer)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.validated_step = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._end_if_asked(trainer)
        if trainer.enable_validation and self.validated_step != trainer.global_step:
            self._save(trainer)
            validate_now(trainer)  # a run ends with its result, whatever its length
        self._save(trainer)

    def teardown(self, *_: Any, **__: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    on_exception = teardown

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number

    def _agree(self) -> None:
        self.ending = self._votes.any_stops(self.asked is not None)

    def _path(self, trainer: pl.Trainer) -> Path:
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)  # that of the best checkpoint
        return Path(folder or trainer.default_root_dir) / "last.ckpt"

    def _save(self, trainer: pl.Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self._path(trainer), weights_only=False)

    def _end_if_asked(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if not self.ending:
            return
        if trainer.is_global_zero:
            path = short_path(self._path(trainer))
            found = Path(trainer.default_root_dir).absolute() == Path("runs").absolute()  # where `last` is looked for
            print(
                f"\nStopped at step {trainer.global_step} of {trainer.max_steps}; saved as {path}."
                f"\nTo go on: {command()} fit --ckpt_path={'last' if found else path}"
            )
        raise Stopped(128 + (self.asked or signal.SIGTERM))

    # Not at a batch's end, where Lightning has yet to log it.
    on_train_batch_start = on_validation_start = _end_if_asked
