"""What needs Lightning: the training module, the data, the trainer and the command line."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_modules.data.datamodule import Text
    from lit_modules.training.checkpoint import load
    from lit_modules.training.language_model import LitLanguageModel
    from lit_modules.training.pretrained_model import PretrainedLanguageModel
    from lit_modules.training.trainer import Trainer

__all__ = ["LitLanguageModel", "PretrainedLanguageModel", "Text", "Trainer", "load"]

_MODULES = {
    "LitLanguageModel": "training.language_model",
    "PretrainedLanguageModel": "training.pretrained_model",
    "Text": "data.datamodule",
    "Trainer": "training.trainer",
    "load": "training.checkpoint",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for: Lightning takes seconds, and not all of it needs Lightning."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
