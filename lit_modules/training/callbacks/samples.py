"""Text that the model writes while it learns."""

import pytorch_lightning as pl
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from lit_modules.evaluation.completion import Sampling, complete
from lit_modules.training.sharded import is_sharded, same_logits
from mixers import LanguageModel


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
        if tokenizer is None or not boards or trainer.sanity_checking:
            return
        model: LanguageModel = pl_module.model  # type: ignore[assignment]
        if not (trainer.is_global_zero or is_sharded(model)):  # of a sharded one each process has a part only
            return
        with same_logits(model):
            [text] = complete(model, tokenizer, [""], self.sampling)
        for board in boards:
            board.experiment.add_text("sample", text, trainer.global_step)  # does nothing but on the first process
