"""A checkpoint as a folder, to which each process writes its own part.

It holds what a checkpoint in one file holds. Tensors that are shared out over the processes lie in safetensors files,
one for each process, written and read by torch.distributed.checkpoint; everything else is in one file beside them, in
which those tensors have a shape but no numbers.
"""

import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch import distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree

from lit_modules.training.checkpoint_file import file_sha256
from mixers.checks import UsageError

REST = "checkpoint.ckpt"  # everything but the tensors that are shared out
SHARDS = "shards"  # where it keeps the sha256 of each of the other files

if TYPE_CHECKING:
    from lightning_fabric.plugins import CheckpointIO  # slow to import, and reading needs none of it

Checkpoint = dict[str, Any]


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether a path is a folder that `save_shards` wrote."""
    return (path / REST).is_file()


def save_shards(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    io: "CheckpointIO",
    is_shared_out: Callable[[Any, Any], bool] = lambda path, leaf: isinstance(leaf, DTensor),
) -> None:
    """Writes a checkpoint as a folder; all processes call it together.

    It is written beside the folder and renamed when it is whole. Until then what was there before stays.

    Args:
        checkpoint: The same on all processes but for its DTensors.
        folder: Where to; it replaces a folder or a file of that name.
        io: Writes the file that is not tensors.
        is_shared_out: Which parts, by their path and value, are written by the process that has them.
    """
    shards: dict[str, Tensor] = {}

    def take(path: Any, leaf: Any) -> Any:
        if not is_shared_out(path, leaf):
            return leaf
        shards[pytree.keystr(path)] = leaf
        return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta")

    rest = pytree.tree_map_with_path(take, checkpoint)
    partial = folder.with_name(f"{folder.name}.partial")
    if _rank() == 0:
        _remove(partial)
        partial.mkdir(parents=True)
    _wait()
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that a process is alone
        save(shards, storage_writer=HuggingFaceStorageWriter(str(partial), save_distributed=True))
    digests = _gather({name: file_sha256(partial / name) for name in _mine(_shard_names(partial))})
    if _rank() == 0:
        io.save_checkpoint({**rest, SHARDS: digests}, partial / REST)
        replace(folder, partial)
    _wait()


def read_shards(folder: Path, like: Callable[[Any, Tensor], Tensor | None] | None = None) -> Checkpoint:
    """The checkpoint of a folder; where processes share the work, all call it together.

    Args:
        folder: What `save_shards` wrote, with any number of processes.
        like: A tensor to read into for the path and the shape of one, as a DTensor to read only a part of it; None
            leaves it without numbers. By default whole tensors are read.

    Raises:
        UsageError: A file of the folder is missing or has changed.
    """
    rest: Checkpoint = torch.load(folder / REST, map_location="cpu", weights_only=True)
    _check(folder, rest.pop(SHARDS))
    shards: dict[str, Tensor] = {}

    def place(path: Any, leaf: Any) -> Any:
        if not (isinstance(leaf, Tensor) and leaf.is_meta):
            return leaf
        target = torch.empty_like(leaf, device="cpu") if like is None else like(path, leaf)
        if target is None:
            return leaf
        shards[pytree.keystr(path)] = target
        return target

    content = pytree.tree_map_with_path(place, rest)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that a process is alone
            load(shards, storage_reader=HuggingFaceStorageReader(str(folder)))
    except (CheckpointException, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise UsageError(f"ckpt_path={str(folder)!r} is not a whole checkpoint: write the path of another.") from error
    return content


def _check(folder: Path, digests: dict[str, str]) -> None:
    """Refuses a folder in which a file is not what was written; processes share the work, and agree."""
    missing = digests.keys() - set(_shard_names(folder))
    found = _gather({name: file_sha256(folder / name) for name in _mine(digests.keys() - missing)})
    if wrong := sorted(name for name in digests if found.get(name) != digests[name]):
        state = "is missing" if wrong[0] in missing else "has changed since it was written"
        raise UsageError(
            f"ckpt_path={str(folder)!r} cannot be used, since its {wrong[0]} {state}: write the path of another."
        )


def replace(folder: Path, new: Path) -> None:
    """Puts a new folder or file in the place of an old one, which exists under another name until then."""
    old = folder.with_name(f"{folder.name}.old")
    _remove(old)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _shard_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def _mine(names: Iterable[str]) -> list[str]:
    """The files that this process reads to check them."""
    return sorted(names)[_rank() :: dist.get_world_size() if dist.is_initialized() else 1]


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()


def _gather(mine: dict[str, str]) -> dict[str, str]:
    """The entries of all processes."""
    if not dist.is_initialized():
        return mine
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return {name: digest for each in everyone for name, digest in each.items()}
