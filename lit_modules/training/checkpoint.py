"""Checkpoints: finding them, reading them, and what they say against the command line."""

import inspect
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from lit_modules.data.tokenizer import Tokenizer, read_tokenizer
from lit_modules.training.language_model import LitLanguageModel
from lit_modules.training.mixer_config import complete
from mixers import LanguageModel
from mixers.checks import MissingFileError, UsageError

Options = dict[str, Any]

# What the weights were made for: all of the model's options but dropout, and of the data's those that number tokens.
FIXED_MODEL = set(inspect.signature(LanguageModel).parameters) - {"dropout", "vocab_size"}
FIXED_DATA = {"tokenizer", "vocab_size"}


class Saved(NamedTuple):
    """What a checkpoint holds beside the weights."""

    path: Path
    step: int
    model: Options
    data: Options
    trainer: Options  # from the run's config.yaml, where the checkpoint still lies in its run's folder
    tokenizer: Tokenizer


def find(ckpt_path: str, root: str | Path) -> Path:
    """The file that `ckpt_path` means; `last` is the newest last.ckpt of any run below `root`.

    Raises:
        FileNotFoundError: There is none.
    """
    if ckpt_path != "last":
        if not Path(ckpt_path).is_file():
            raise MissingFileError(f"ckpt_path={ckpt_path!r} is no file: write the path of a .ckpt, or last.")
        return Path(ckpt_path)
    candidates = list(Path(root).rglob("last.ckpt"))
    if not candidates:
        raise MissingFileError(
            f"ckpt_path='last' finds no last.ckpt below {str(root)!r}: train first, or set trainer.default_root_dir."
        )
    return max(candidates, key=lambda path: path.stat().st_mtime_ns)


def load(path: Path) -> dict[str, Any]:
    """The content of one of our checkpoints; nothing in it is ever executed.

    Raises:
        ValueError: The file is something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # most callers read no weights
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError):
        content = None
    if not isinstance(content, dict) or not {"state_dict", "hyper_parameters"} <= content.keys():
        raise UsageError(
            f"ckpt_path={str(path)!r} is no checkpoint of lit-mixers: write the path of one that fit saved."
        )
    return content


def read(path: Path) -> Saved:
    """What a checkpoint holds beside the weights.

    Raises:
        ValueError: The file is not one of our checkpoints, or was not trained on text.
    """
    content = load(path)
    if "Text" not in content:
        raise UsageError(f"ckpt_path={str(path)!r} holds no tokenizer: write the path of a checkpoint that fit saved.")
    return Saved(
        path=path,
        step=content["global_step"],
        model=_options(content["hyper_parameters"]),
        data=_options(content["datamodule_hyper_parameters"]),
        trainer=_trainer_options(path),
        tokenizer=Tokenizer.from_json(content["Text"]["tokenizer"]),
    )


def load_for_text(path: Path) -> tuple[LanguageModel, Tokenizer]:
    """The model and the tokenizer of a checkpoint, ready to write.

    Raises:
        ValueError: The file is not one of our checkpoints, or was not trained on text.
    """
    saved = read(path)
    model = LitLanguageModel.load_from_checkpoint(path, map_location="cpu", weights_only=True).model
    return model, saved.tokenizer


def run_folder(path: Path) -> Path | None:
    """The folder of the run that a checkpoint belongs to, if it lies where runs keep them."""
    return path.parent.parent if path.parent.name == "checkpoints" else None


def beside(path: Path) -> Path:
    """Where the results of a checkpoint go: the folder of its run, or its own if it lies elsewhere."""
    return run_folder(path) or path.parent


def merged(saved: Saved, typed: Options) -> Options:
    """The options of a run that goes on from a checkpoint: what was typed, and for the rest what was saved.

    Args:
        saved: What the checkpoint holds.
        typed: The options that the user gave, by section: trainer, model, data.

    Raises:
        ValueError: Something typed contradicts what the weights were made for.
    """
    model, data = typed.get("model", {}), typed.get("data", {})
    for name in FIXED_MODEL & model.keys():
        _refuse_other(f"model.{name}", model[name], saved.model.get(name))
    if "vocab_size" in data:
        _refuse_other("data.vocab_size", data["vocab_size"], saved.data["vocab_size"])
    if "tokenizer" in data and not _is_tokenizer(data["tokenizer"], saved):
        _refuse("data.tokenizer", data["tokenizer"], saved.data["tokenizer"])
    free = {name: value for name, value in model.items() if name not in FIXED_MODEL}
    return {
        "seed_everything": typed.get("seed_everything", saved.model["seed"]),
        "trainer": {**saved.trainer, **typed.get("trainer", {})},
        # Two options follow from others.
        "model": {name: value for name, value in {**saved.model, **free}.items() if name not in ("seed", "vocab_size")},
        "data": {**saved.data, **data, "tokenizer": str(saved.path)},
        "ckpt_path": str(saved.path),
    }


def _refuse_other(name: str, typed: Any, saved: Any) -> None:
    """Refuses a typed value that is not the saved one; of a mixer, the options not typed do not matter."""
    if isinstance(saved, dict) and "class_path" in saved and isinstance(typed, dict):
        asked, there = complete(typed), complete(saved)
        if asked.cls is not there.cls:
            _refuse(name, asked.name, there.name)
        for option, value in typed.get("init_args", {}).items():
            _refuse_other(f"{name}.{option}", value, there.options[option])
    elif isinstance(saved, dict) and isinstance(typed, dict) and saved.keys() == typed.keys():
        for key, value in typed.items():
            _refuse_other(f"{name}.{key}", value, saved[key])
    elif typed != saved:
        _refuse(name, typed, saved)


def _refuse(name: str, typed: Any, saved: Any) -> None:
    raise UsageError(
        f"{name}={typed!r} contradicts the checkpoint, which was made with {saved!r}: leave it out, or train anew."
    )


def _is_tokenizer(name: str, saved: Saved) -> bool:
    """Whether a tokenizer option means the tokenizer of the checkpoint, by its name or as a file that holds it."""
    if name == saved.data["tokenizer"]:
        return True
    return Path(name).is_file() and read_tokenizer(name, cache_dir=Path()) == saved.tokenizer


def _options(hyper_parameters: Options) -> Options:
    return {name: value for name, value in hyper_parameters.items() if not name.startswith("_")}


def _trainer_options(path: Path) -> Options:
    run = run_folder(path)
    config = run / "config.yaml" if run else None
    if config is None or not config.is_file():
        return {}
    options: Options = yaml.safe_load(config.read_text(encoding="utf-8")).get("trainer", {})
    return options
