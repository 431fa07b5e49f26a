"""Checkpoints: finding them, and reading them without running anything that they hold."""

import pickle
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from lit_modules.data.tokenizer import Tokenizer
from lit_modules.training.mixer_config import factory
from mixers import LanguageModel
from mixers.checks import MissingFileError, UsageError

Options = dict[str, Any]
NEEDED = {"state_dict", "hyper_parameters", "global_step"}  # in each checkpoint that fit saves


def load(ckpt_path: str | Path = "last", *, root: str | Path = "runs") -> tuple[LanguageModel, Tokenizer]:
    """The model and the tokenizer of a checkpoint that `fit` saved, in evaluation mode, on the CPU, without Lightning.

    Nothing in the file is executed: it is read with torch's `weights_only=True`.

    Args:
        ckpt_path: The .ckpt file; `last` is the newest last.ckpt of any run below `root`.
        root: The folder of all runs.

    Raises:
        MissingFileError: There is no such file.
        UsageError: The file is not one of our checkpoints, or was not trained on text.
    """
    content = read_file(find(ckpt_path, root))
    saved = content["hyper_parameters"]
    options = {name: saved[name] for name in signature(LanguageModel).parameters if name in saved}
    if "mixer" in options:
        options["mixer"] = factory(options["mixer"])
    options["overrides"] = {int(layer): factory(mixer) for layer, mixer in (options.get("overrides") or {}).items()}
    model = LanguageModel(**options)
    try:
        model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in content["state_dict"].items()})
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise UsageError(f"ckpt_path={str(ckpt_path)!r} has not the weights of its own model: {said}") from error
    return model.eval(), Tokenizer.from_json(content["Text"]["tokenizer"])


def find(ckpt_path: str | Path, root: str | Path) -> Path:
    """The file that `ckpt_path` means, as `load` has it; raises MissingFileError where there is none."""
    if ckpt_path != "last":
        if not Path(ckpt_path).is_file():
            raise MissingFileError(f"ckpt_path={str(ckpt_path)!r} is no file: write the path of a .ckpt, or last.")
        return Path(ckpt_path)
    candidates = list(Path(root).rglob("last.ckpt"))
    if not candidates:
        raise MissingFileError(
            f"ckpt_path='last' finds no last.ckpt below {str(root)!r}: train first, or write the path of a checkpoint, "
            "--ckpt_path=FILE."
        )
    return max(candidates, key=lambda path: path.stat().st_mtime_ns)


def read_file(path: Path) -> Options:
    """The content of one of our checkpoints, of which nothing is executed; raises UsageError for any other file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # most callers read no weights
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError):
        content = None
    if not isinstance(content, dict) or not content.keys() >= NEEDED:
        raise UsageError(
            f"ckpt_path={str(path)!r} is no checkpoint of lit-mixers: write the path of one that fit saved."
        )
    if not {"Text", "datamodule_hyper_parameters"} <= content.keys():
        raise UsageError(f"ckpt_path={str(path)!r} holds no tokenizer: write the path of a checkpoint that fit saved.")
    return content


def run_folder(path: Path) -> Path | None:
    """The folder of the run that a checkpoint belongs to, if it lies where runs keep them."""
    return path.parent.parent if path.parent.name == "checkpoints" else None
