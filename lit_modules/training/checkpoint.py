"""Checkpoints: finding them, and reading them without running anything that they hold."""

import os
import pickle
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lit_modules.data.chat import ChatTemplate
from lit_modules.data.registry import saved_name, saved_state
from lit_modules.data.tokenizer import Tokenizer
from lit_modules.training.checkpoint_file import verify
from lit_modules.training.pretrained_model import PretrainedLanguageModel, from_checkpoint, from_folder, is_pretrained
from lit_modules.training.sharded_checkpoint import REST, is_sharded_checkpoint, read_shards
from mixers.checks import MissingFileError, UsageError

Options = dict[str, Any]
NEEDED = {"state_dict", "hyper_parameters", "global_step"}  # in each checkpoint that fit saves


def load(ckpt_path: str | Path = "last", *, root: str | Path = "runs") -> tuple[PretrainedLanguageModel, Tokenizer]:
    """The model and the tokenizer of a checkpoint that `fit` saved, in evaluation mode, on the CPU, without Lightning.

    Nothing in the file is executed: it is read with torch's `weights_only=True`.

    Args:
        ckpt_path: The .ckpt file, or a folder that `save_pretrained` or `convert` made; `last` is the newest last.ckpt
            of any run below `root`. If that is damaged, it is the newest other of the same run that is whole, else of
            an older run, and a line says so.
        root: The folder of all runs.

    Raises:
        MissingFileError: There is no such file.
        UsageError: The file is damaged, is not one of our checkpoints, or was not trained on text.
    """
    if ckpt_path != "last" and is_pretrained(ckpt_path):
        model = from_folder(Path(ckpt_path))
    else:
        content = read_whole(find(ckpt_path, root))
        tokenizer = Tokenizer.from_json(saved_state(content)["tokenizer"])
        model = from_checkpoint(content, tokenizer, f"ckpt_path={str(ckpt_path)!r}")
    if model.tokenizer is None:
        raise MissingFileError(f"ckpt_path={str(ckpt_path)!r} has no tokenizer.json: put that of the model beside it.")
    return model, model.tokenizer


def chat_template(ckpt_path: str | Path = "last", *, root: str | Path = "runs") -> ChatTemplate:
    """The template of the conversations that the model of a checkpoint was tuned on; UsageError if there were none."""
    path = find(ckpt_path, root)
    if (source := saved_state(read_file(path)).get("template")) is None:
        raise UsageError(
            f"ckpt_path={str(path)!r} was not tuned on conversations: leave chat out, or tune it first with "
            "--data=instructions --init_from."
        )
    return ChatTemplate(source)


def find(ckpt_path: str | Path, root: str | Path) -> Path:
    """The file that `ckpt_path` means, as `load` has it; raises MissingFileError where there is none."""
    if ckpt_path != "last":
        if not main_file(Path(ckpt_path)).is_file():
            raise MissingFileError(f"ckpt_path={str(ckpt_path)!r} is no file: write the path of a .ckpt, or last.")
        return Path(ckpt_path)
    candidates = [path for last in _newest_first(Path(root).rglob("last.ckpt")) for path in _of_run(last)]
    if not candidates:
        raise MissingFileError(
            f"ckpt_path='last' finds no last.ckpt below {str(root)!r}: train first, or write the path of a checkpoint, "
            "--ckpt_path=FILE."
        )
    for path in candidates:
        with suppress(UsageError):
            verify(main_file(path))
            if path != candidates[0] and _is_first_process():
                print(f"{candidates[0]} is damaged; the newest that is whole is {path}.", file=sys.stderr)
            return path
    raise UsageError(
        f"ckpt_path='last' finds no checkpoint that is whole below {str(root)!r}, and {str(candidates[0])!r} is "
        "damaged: train anew, or write the path of another."
    )


def _of_run(last: Path) -> list[Path]:
    """The last checkpoint of a run and, newest first, its others."""
    others = (path for path in last.parent.glob("*.ckpt") if path != last and main_file(path).is_file())
    return [last, *_newest_first(others)]


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _is_first_process() -> bool:
    """Whether this is the first process of a run, as launchers say it, or the only one."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def read_file(path: Path) -> Options:
    """The content of one of our checkpoints, of which nothing is executed; raises UsageError for any other file."""
    verify(main_file(path))
    try:
        # Most callers read no weights.
        content = torch.load(main_file(path), map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError):
        content = None
    if not isinstance(content, dict) or not content.keys() >= NEEDED:
        raise UsageError(
            f"ckpt_path={str(path)!r} is no checkpoint of lit-mixers: write the path of one that fit saved."
        )
    if saved_name(content) is None or "datamodule_hyper_parameters" not in content:
        raise UsageError(f"ckpt_path={str(path)!r} holds no tokenizer: write the path of a checkpoint that fit saved.")
    return content


def read_whole(path: Path) -> Options:
    """As `read_file`, with the weights also of a sharded checkpoint."""
    content = read_file(path)
    return read_shards(path) if is_sharded_checkpoint(path) else content


def main_file(path: Path) -> Path:
    """The file that holds everything but the weights: of a sharded checkpoint one of several, else the only one."""
    return path / REST if is_sharded_checkpoint(path) else path


def run_folder(path: Path) -> Path | None:
    """The folder of the run that a checkpoint belongs to, if it lies where runs keep them."""
    return path.parent.parent if path.parent.name == "checkpoints" else None
