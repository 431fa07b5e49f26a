"""What a model remembers of a text, kept in a file: other texts go on from there, in another process, too."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lit_modules.data.tokenizer import Tokenizer
from mixers import LanguageModel
from mixers.checks import MissingFileError, UsageError

SAMPLED = 64  # numbers of each tensor by which models are told apart


class ReadText(NamedTuple):
    """A text that was read: the states after all of its tokens but the last, in one row, and the last."""

    states: tuple[Any, ...]
    last: int


@torch.inference_mode()
def read(model: LanguageModel, tokenizer: Tokenizer, text: str, before: ReadText | None) -> ReadText:
    """Reads a text that follows another one, or begins."""
    ids = ([before.last] if before else []) + tokenizer.encode(text) or [tokenizer.end]
    states = before.states if before else model.initial_state(1)
    if len(ids) > 1:
        first = torch.tensor([ids[:-1]], device=next(model.parameters()).device)
        states = model.next_logits(first, states)[1]
    return ReadText(states, ids[-1])


def save(path: Path, model: LanguageModel, text: ReadText) -> None:
    """Writes a file that `load` reads; UsageError where there is one already."""
    if path.exists():
        raise UsageError(f"save_state={str(path)!r} is there already: write another path, or move it away.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")  # renamed when it is whole
    states = pytree.tree_map(lambda leaf: leaf.detach().cpu().clone(), text.states)
    torch.save({"states": states, "last": text.last, "model": fingerprint(model)}, partial)
    os.replace(partial, path)


def load(path: Path, model: LanguageModel) -> ReadText:
    """The text that a file keeps, of which nothing is executed.

    Raises:
        MissingFileError: There is no such file.
        UsageError: The file is another kind of file, or another model read the text.
    """
    if not path.is_file():
        raise MissingFileError(f"load_state={str(path)!r} is no file: write the path of one that --save_state made.")
    try:
        content = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
        text = ReadText(content["states"], content["last"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"load_state={str(path)!r} is no file that --save_state made, or is damaged: write the path of another."
        ) from error
    if content["model"] != fingerprint(model):
        raise UsageError(f"load_state={str(path)!r} was saved with another model: give the --ckpt_path of that one.")
    return text


def fingerprint(model: LanguageModel) -> str:
    """A digest of some numbers of each tensor of a model, by which its states are known to be its own."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        some = tensor.flatten()[:: max(1, tensor.numel() // SAMPLED)]
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + _bytes(some))
    return total.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
