"""Going on from a checkpoint: its options as a config, and what the weights do not allow to be changed."""

from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from lit_modules.data.datamodule import Text
from lit_modules.data.tokenizer import Tokenizer, read_tokenizer
from lit_modules.training.checkpoint import Options, run_folder
from lit_modules.training.mixer_config import complete
from mixers import LanguageModel
from mixers.checks import UsageError

FOLLOWING = {"vocab_size", "start_token", "seed"}  # options of the model that follow from others, and cannot be given


def as_config(path: Path, content: Options) -> Options:
    """The options of a checkpoint as a config of `fit`, `validate` or `test`; the trainer's are in its run's folder."""
    model, data = content["hyper_parameters"], content["datamodule_hyper_parameters"]
    config = (run_folder(path) or path) / "config.yaml"  # no file where the checkpoint was moved
    return {
        "seed_everything": model["seed"],
        "trainer": yaml.safe_load(config.read_text("utf-8")).get("trainer", {}) if config.is_file() else {},
        "model": {name: value for name, value in model.items() if name not in FOLLOWING and name[0] != "_"},
        "data": {name: value for name, value in data.items() if name[0] != "_"},
    }


def is_finished(content: Options, trainer: Options) -> bool:
    """Whether a checkpoint is of a run that has all its steps and, if it validates at all, its last validation."""
    step, validated = content["global_step"], content.get("callbacks", {}).get("KeepLast", {}).get("validated_step", 0)
    validates = trainer["limit_val_batches"] != 0
    return bool(
        0 < trainer["max_steps"] <= step and (validated == step or trainer["max_steps"] < step or not validates)
    )


def check(content: Options, options: Options) -> None:
    """Raises UsageError for an option, of the sections model and data, that the weights were not made for."""
    model, data = content["hyper_parameters"], content["datamodule_hyper_parameters"]
    for name, parameter in signature(LanguageModel).parameters.items():
        if name not in LanguageModel.changeable_options | FOLLOWING:
            _refuse_other(f"model.{name}", options["model"][name], model.get(name, parameter.default))
    for name in signature(Text).parameters.keys() - Text.changeable_options:
        if name != "tokenizer" or not _is_file_of_tokenizer(options["data"][name], content):
            _refuse_other(f"data.{name}", options["data"][name], data[name])


def _refuse_other(name: str, asked: Any, saved: Any) -> None:
    wanted, there = _parts(name, asked), _parts(name, saved)
    for part in wanted | there:
        if wanted.get(part) != there.get(part):
            raise UsageError(
                f"{part}={wanted.get(part)!r} contradicts the checkpoint, which was made with {there.get(part)!r}: "
                "leave it out, or train anew."
            )


def _parts(name: str, value: Any) -> Options:
    """What a value fixes, by name: of a mixer, its name and each option; of a dict, each value; else the value."""
    if not isinstance(value, dict):
        return {name: value}
    parts: Options = {}
    if "class_path" in value:
        mixer = complete(value)
        parts[name] = mixer.name
        value = {key: option for key, option in mixer.options.items() if key not in mixer.cls.changeable_options}
    for key, option in value.items():
        parts |= _parts(f"{name}.{key}", option)
    return parts


def _is_file_of_tokenizer(name: str, content: Options) -> bool:
    """Whether a tokenizer option is a file that holds the tokenizer of the checkpoint."""
    kept = Tokenizer.from_json(content["Text"]["tokenizer"])
    return Path(name).is_file() and read_tokenizer(name, cache_dir=Path()) == kept
