"""The strategy `fsdp2`: each process keeps a part of every parameter, of its gradient and of its moments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils import _pytree as pytree

from lit_modules.lightning_internals import DataParallelMesh
from lit_modules.training.sharded_checkpoint import is_sharded_checkpoint, read_shards, replace, save_shards
from mixers.checks import UsageError


class FSDP2(DataParallelMesh):
    """Shares parameters, gradients and the optimizer's moments out over all processes.

    Args:
        sharded_checkpoints: Whether each process saves its own part, in a folder; otherwise a checkpoint is a file as
            that of a run on one process, which the first writes and needs the memory for.
    """

    strategy_name = "fsdp2"

    def __init__(self, *, sharded_checkpoints: bool = False):
        super().__init__()
        self.sharded_checkpoints = sharded_checkpoints

    def setup(self, trainer: Trainer) -> None:
        super().setup(trainer)
        if not any(isinstance(parameter, DTensor) for parameter in self.model.parameters()):  # type: ignore[union-attr]
            name = type(self.lightning_module).__name__
            raise UsageError(f"strategy='fsdp2' cannot share out a {name}: write ddp, or shard it in configure_model.")

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return self._saved(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return self._saved(optimizer.state_dict())

    def _saved(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state as it is written: its tensors put together on the first process, or each a part of them."""

        def whole(tensor: DTensor) -> Tensor | None:
            full = tensor.full_tensor()
            return full.cpu() if self.is_global_zero else None

        return state if self.sharded_checkpoints else pytree.tree_map_only(DTensor, whole, state)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        if self.sharded_checkpoints:
            save_shards(checkpoint, Path(self.broadcast(filepath)), io=self.checkpoint_io)
        elif self.is_global_zero and is_sharded_checkpoint(path := Path(filepath)):  # a file is put in its place
            partial = path.with_name(f"{path.name}.partial")
            super().save_checkpoint(checkpoint, partial, storage_options)
            replace(path, partial)
        else:
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        if is_sharded_checkpoint(Path(checkpoint_path)):
            return read_shards(Path(checkpoint_path), self._target)
        # Each process reads its part only.
        return torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        module = self.lightning_module
        assert module is not None
        own = module.state_dict()
        parts = {name: _part(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        module.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = _parameters(optimizer)
            state = {
                number: {name: _part(value, parameters[number]) for name, value in values.items()}
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})

    def _target(self, path: Any, tensor: Tensor) -> Tensor | None:
        """What a tensor of a checkpoint is read into: this process's part of the parameter that it belongs to."""
        keys = [entry.key if hasattr(entry, "key") else entry.idx for entry in path]
        if keys[0] == "optimizer_states" and not self.optimizers:
            return None  # nothing is trained
        assert self.lightning_module is not None
        if keys[0] == "optimizer_states":
            own = _parameters(self.optimizers[keys[1]])[keys[3]]  # of optimizer_states, number, state, parameter, name
        else:
            own = self.lightning_module.state_dict().get(keys[1])
        if own is None or own.shape != tensor.shape:
            return torch.empty_like(tensor, device="cpu")  # a whole one, for the usual message about other shapes
        return torch.empty_like(own, dtype=tensor.dtype)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters by the number that an optimizer's state knows them by."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _part(value: Any, own: Any) -> Any:
    """The part of a tensor that this process has of another of the same shape; any other value as it is."""
    shared_out = isinstance(own, DTensor) and isinstance(value, Tensor) and not isinstance(value, DTensor)
    if not shared_out or value.shape != own.shape:
        return value
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)
