"""Going on from a checkpoint: its options as a config, and what the weights do not allow to be changed."""

from inspect import signature
from pathlib import Path
from typing import Any

from lit_modules.data.datamodule import Text
from lit_modules.data.tokenizer import read_tokenizer
from lit_modules.training.checkpoint import Options, Saved
from lit_modules.training.mixer_config import complete
from mixers import LanguageModel
from mixers.checks import UsageError

FOLLOWING = {"vocab_size", "start_token", "seed"}  # options of the model that follow from others, and cannot be given


def as_config(saved: Saved) -> Options:
    """A checkpoint's options as a config of `fit`, `validate` or `test`."""
    return {
        "seed_everything": saved.model["seed"],
        "trainer": saved.trainer,
        "model": {name: value for name, value in saved.model.items() if name not in FOLLOWING},
        "data": saved.data,
    }


def check(saved: Saved, options: Options) -> None:
    """Refuses options that the weights were not made for.

    Args:
        saved: What the checkpoint holds.
        options: Those of the run that is to go on, with the sections model and data.

    Raises:
        UsageError: One of them differs from the checkpoint's, and changes what the model computes.
    """
    for name, parameter in signature(LanguageModel).parameters.items():
        if name not in LanguageModel.changeable_options | FOLLOWING:
            _refuse_other(f"model.{name}", options["model"][name], saved.model.get(name, parameter.default))
    tokenizer = options["data"]["tokenizer"]
    for name in saved.data.keys() - Text.changeable_options:
        if name != "tokenizer" or not _is_file_of_tokenizer(tokenizer, saved):
            _refuse_other(f"data.{name}", options["data"][name], saved.data[name])


def _refuse_other(name: str, asked: Any, saved: Any) -> None:
    """Refuses a value that is not the saved one; of mixers, each option by itself."""
    if isinstance(asked, dict) and isinstance(saved, dict) and "class_path" in asked.keys() & saved.keys():
        wanted, there = complete(asked), complete(saved)
        if wanted.cls is not there.cls:
            _refuse(name, wanted.name, there.name)
        for option, value in wanted.options.items():
            if option not in wanted.cls.changeable_options:
                _refuse_other(f"{name}.{option}", value, there.options[option])
    elif isinstance(asked, dict) and isinstance(saved, dict) and _by_text(asked).keys() == _by_text(saved).keys():
        for key, value in _by_text(asked).items():
            _refuse_other(f"{name}.{key}", value, _by_text(saved)[key])
    elif asked != saved:
        _refuse(name, asked, saved)


def _by_text(options: Options) -> dict[str, Any]:
    return {str(key): value for key, value in options.items()}  # a block's index is text in some formats


def _refuse(name: str, asked: Any, saved: Any) -> None:
    raise UsageError(
        f"{name}={asked!r} contradicts the checkpoint, which was made with {saved!r}: leave it out, or train anew."
    )


def _is_file_of_tokenizer(name: str, saved: Saved) -> bool:
    """Whether a tokenizer option is a file that holds the tokenizer of the checkpoint."""
    return Path(name).is_file() and read_tokenizer(name, cache_dir=Path()) == saved.tokenizer
