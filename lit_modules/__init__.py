"""What needs Lightning: the training module, the data, the trainer and the command line."""

from lit_modules.data.datamodule import Text
from lit_modules.training.language_model import LitLanguageModel
from lit_modules.training.trainer import Trainer

__all__ = ["LitLanguageModel", "Text", "Trainer"]
