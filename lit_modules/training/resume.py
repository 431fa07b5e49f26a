"""Going on from a checkpoint: its options as a config, and what the weights do not allow to be changed."""

from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from lit_modules.data import registry
from lit_modules.data.tokenizer import Tokenizer, read_tokenizer
from lit_modules.training.checkpoint import Options, main_file, run_folder
from lit_modules.training.mixer_config import complete
from lit_modules.training.pretrained import Pretrained
from mixers import LanguageModel
from mixers.checks import UsageError

FOLLOWING = {"vocab_size", "start_token", "seed"}  # options of the model that follow from others, and cannot be given


def as_config(path: Path, content: Options, data: str) -> Options:
    """The options of a checkpoint as a config of `fit`, `validate` or `test` on the data of that name.

    Those of the trainer, and what the run started from, are in its folder.
    """
    model, own = content["hyper_parameters"], content["datamodule_hyper_parameters"]
    if data != registry.saved_name(content):
        own = {"tokenizer": str(main_file(path))}
    config = (run_folder(path) or path) / "config.yaml"  # no file where the checkpoint was moved
    run = yaml.safe_load(config.read_text("utf-8")) if config.is_file() else {}
    return {
        "seed_everything": model["seed"],
        "trainer": run.get("trainer", {}),
        "model": {name: value for name, value in model.items() if name not in FOLLOWING and name[0] != "_"},
        "data": {name: value for name, value in own.items() if name[0] != "_"},
        "init_from": run.get("init_from"),
    }


def start_config(start: Pretrained) -> Options:
    """The options of a new run that its first weights decide, as a config of `fit`."""
    known = signature(LanguageModel).parameters.keys() - FOLLOWING
    model = {name: value for name, value in start.options.items() if name in known}
    return {"model": model, "data": {"tokenizer": str(start.tokenizer_file)}}


def is_finished(content: Options, trainer: Options) -> bool:
    """Whether a checkpoint is of a run that has all its steps and, if it validates at all, its last validation."""
    step, validated = content["global_step"], content.get("callbacks", {}).get("KeepLast", {}).get("validated_step", 0)
    validates = trainer["limit_val_batches"] != 0
    return bool(
        0 < trainer["max_steps"] <= step and (validated == step or trainer["max_steps"] < step or not validates)
    )


def check(content: Options, options: Options) -> None:
    """Raises UsageError for an option, of the sections model and data, that the weights were not made for."""
    check_model(content["hyper_parameters"], options)
    data, kept = content["datamodule_hyper_parameters"], Tokenizer.from_json(registry.saved_state(content)["tokenizer"])
    check_tokenizer(options, data["tokenizer"], kept)
    if (name := options["data"]["name"]) == registry.saved_name(content):
        fixed = data.keys() - registry.get(name).changeable_options - {"tokenizer"}
        for option in options["data"].keys() & fixed:
            _refuse_other(f"data.{option}", options["data"][option], data[option])


def check_model(saved: Options, options: Options) -> None:
    """Raises UsageError for an option of the section model that weights made with the options `saved` do not allow."""
    for name, parameter in signature(LanguageModel).parameters.items():
        if name not in LanguageModel.changeable_options | FOLLOWING:
            _refuse_other(f"model.{name}", options["model"][name], saved.get(name, parameter.default))


def check_tokenizer(options: Options, saved: str, kept: Tokenizer) -> None:
    """Raises UsageError for a tokenizer other than `kept`, which is called `saved`."""
    asked = options["data"]["tokenizer"]
    is_here = asked == "bytes" or Path(asked).is_file()
    if not (is_here and read_tokenizer(asked, cache_dir=Path()) == kept):
        _refuse_other("data.tokenizer", asked, saved)


def _refuse_other(name: str, asked: Any, saved: Any) -> None:
    wanted, there = _parts(name, asked), _parts(name, saved)
    for part in wanted | there:
        if wanted.get(part) != there.get(part):
            raise UsageError(
                f"{part}={wanted.get(part)!r} contradicts the checkpoint, which was made with {there.get(part)!r}: "
                "leave it out, or train anew."
            )


def _parts(name: str, value: Any) -> Options:
    """What a value fixes, by name: of a mixer, its name and each option; of a dict or a pattern of mixers, each in it;
    else the value."""
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        value = dict(enumerate(value))
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
