"""Text that the model writes while it learns."""

import pytorch_lightning as pl
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from lit_modules.evaluation.completion import Sampling, complete


class Samples(Callback):
    """Shows a text written by the model in TensorBoard after each validation, always from the same random numbers.

    Args:
        tokens: Length of the text.
        seed: Seed of the text.
    """

    def __init__(self, tokens: int = 100, *, seed: int = 0):
        self.sampling = Sampling(max_tokens=tokens, seed=seed)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        tokenizer = getattr(trainer.datamodule, "tokenizer", None)  # type: ignore[attr-defined]
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if tokenizer is None or not boards or trainer.sanity_checking or not trainer.is_global_zero:
            return
        [text] = complete(pl_module.model, tokenizer, [""], self.sampling)  # type: ignore[arg-type]
        for board in boards:
            board.experiment.add_text("sample", text, trainer.global_step)
