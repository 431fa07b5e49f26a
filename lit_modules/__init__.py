"""What needs Lightning: the training module, the data, the trainer and the command line."""

from lit_modules.language_model import LitLanguageModel
from lit_modules.text import Text
from lit_modules.trainer import Trainer

__all__ = ["LitLanguageModel", "Text", "Trainer"]
