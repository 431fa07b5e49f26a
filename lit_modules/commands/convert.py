"""The command `convert`: writes a checkpoint in another form."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lit_modules.console import command
from lit_modules.training import checkpoint
from lit_modules.training.checkpoint_file import verify
from lit_modules.training.checkpoint_io import CheckpointFiles
from lit_modules.training.pretrained_model import is_pretrained
from lit_modules.training.sharded_checkpoint import is_sharded_checkpoint, read_shards, save_shards
from mixers.checks import UsageError

SHARED_OUT = ("state_dict", "optimizer_states")  # what a folder holds as if each process had written a part of it


def convert(
    ckpt_path: str, output: str, *, to: Literal["pretrained", "file", "sharded"] = "pretrained", root: str = "runs"
) -> None:
    """Writes a checkpoint in another form, for others to load or for other processes to train on.

    Args:
        ckpt_path: The checkpoint, a file or a sharded folder; `last` is the newest of all runs.
        output: Where to write; nothing may be there yet.
        to: `pretrained` is a folder to share, of the weights in safetensors, config.json, tokenizer.json and a model
            card; `file` and `sharded` are checkpoints to train on from, as one file or as a folder of several.
        root: The folder of all runs.

    Raises:
        UsageError: Something is at `output`, or the checkpoint has that form already.
    """
    target = Path(output)
    if target.exists():
        raise UsageError(f"output={output!r} is there already: write another path, or move it away.")
    if is_pretrained(ckpt_path):
        raise UsageError(
            f"ckpt_path={ckpt_path!r} is a folder to share, from which no run goes on: write a checkpoint."
        )
    source = checkpoint.find(ckpt_path, root)
    checkpoint.read_file(source)  # which refuses what is none
    if to != "pretrained" and is_sharded_checkpoint(source) == (to == "sharded"):
        raise UsageError(f"ckpt_path={str(source)!r} has the form --to={to} already: write another.")
    write = {"pretrained": _share, "file": file_from_shards, "sharded": shards_from_file}[to]
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")  # renamed when it is whole
    write(source, partial)
    partial.rename(target)
    use = "fit" if to != "pretrained" else "generate"
    print(f"written: {output}\nuse it: {command()} {use} --ckpt_path={output}")


def _share(path: Path, folder: Path) -> None:
    checkpoint.load(path)[0].save_pretrained(folder)


def file_from_shards(folder: Path, file: Path) -> None:
    """Writes a checkpoint that is a folder as one file; memory has to hold all of it.

    Raises:
        UsageError: A file of the folder is missing or has changed.
    """
    CheckpointFiles().save_checkpoint(read_shards(folder), file)


def shards_from_file(file: Path, folder: Path) -> None:
    """Writes a checkpoint that is one file as a folder, from which any number of processes go on."""
    verify(file)
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    save_shards(content, folder, io=CheckpointFiles(), is_shared_out=_is_weight_or_moment)


def _is_weight_or_moment(path: Any, leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and path[0].key in SHARED_OUT
