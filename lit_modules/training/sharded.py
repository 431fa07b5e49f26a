"""Fully sharded training (FSDP2): each process keeps a part of every parameter, of its gradient and of its moments."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils import _pytree as pytree

from lit_modules.lightning_internals import DataParallelMesh
from lit_modules.training.sharded_checkpoint import is_sharded_checkpoint, read_shards, save_shards
from mixers import LanguageModel
from mixers.model import Block

# What may be called from outside, beside `forward`: each gathers the parameters first, and lets them go afterwards.
BLOCK_METHODS = ("extend", "decode", "initial_state", "prepare_decoding")
MODEL_METHODS = (*BLOCK_METHODS, "loss", "losses", "scores", "next_logits", "restart")


class Recipe(NamedTuple):
    """How a language model was built, so that it can be built again with the same random numbers."""

    options: dict[str, Any]
    random_state: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, options: dict[str, Any]) -> "Recipe":
        """The recipe of `LanguageModel(**options)` if it is built next."""
        return cls(options, torch.get_rng_state(), torch.get_default_dtype())

    def build(self) -> LanguageModel:
        """The same model again."""
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self.random_state)
                return LanguageModel(**self.options)
        finally:
            torch.set_default_dtype(default)


_LATER = ContextVar("weights_later", default=False)


@contextmanager
def weights_later() -> Iterator[None]:
    """Models of LitLanguageModels made within have no weights until FSDP2 builds them, block by block."""
    token = _LATER.set(True)
    try:
        yield
    finally:
        _LATER.reset(token)


def weights_device() -> AbstractContextManager[Any]:
    """Where models are built: on the meta device within `weights_later`."""
    return torch.device("meta") if _LATER.get() else nullcontext()


def shard(model: LanguageModel, recipe: Recipe, mesh: DeviceMesh) -> LanguageModel:
    """The model with its parameters shared out over all processes.

    Args:
        model: With weights, of which those of the first process count, or on the meta device.
        recipe: Builds a model that is on the meta device.
        mesh: The processes.
    """
    if isinstance(model, FSDPModule):
        return model
    dtype = next(model.parameters()).dtype
    # Numbers are as without sharding: autocast and the mixers themselves choose the dtype of each product.
    policy = MixedPrecisionPolicy(reduce_dtype=torch.promote_types(dtype, torch.float32))
    if next(model.parameters()).is_meta:
        random_state = recipe.random_state.to(mesh.device_type)
        torch.distributed.broadcast(random_state, 0)
        with _each_block(lambda block: _shard(block, mesh, policy, BLOCK_METHODS)):
            model = recipe._replace(random_state=random_state.cpu()).build()
    else:
        model.to(mesh.device_type)
        for tensor in model.state_dict().values():
            torch.distributed.broadcast(tensor, 0)
        for block in model.blocks:
            _shard(block, mesh, policy, BLOCK_METHODS)
    _shard(model, mesh, policy, MODEL_METHODS)
    return model


def _shard(module: nn.Module, mesh: DeviceMesh, policy: MixedPrecisionPolicy, methods: tuple[str, ...]) -> None:
    # Also the outermost one gives its parameters back after each call, so that they are sharded whenever they are read.
    fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    for method in methods:
        register_fsdp_forward_method(module, method)


@contextmanager
def _each_block(work: Callable[[Block], None]) -> Iterator[None]:
    """Does `work` with each block as soon as it is built and put into its model."""

    def registered(parent: nn.Module, name: str, module: nn.Module | None) -> None:
        if isinstance(module, Block):
            work(module)

    handle = register_module_module_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()


def is_sharded(model: nn.Module) -> bool:
    """Whether every process has a part of the model only, so that all must call it together."""
    return isinstance(model, FSDPModule)


@contextmanager
def same_logits(model: LanguageModel) -> Iterator[None]:
    """Within it all processes of a sharded model predict what the first does, and so draw the same tokens.

    Otherwise a rounding error could end the text of one, for which all others would wait.
    """
    methods = {name: getattr(model, name) for name in ("next_logits", "decode") if is_sharded(model)}
    for name, method in methods.items():
        setattr(model, name, partial(_call_and_broadcast, method))
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(model, name, method)


def _call_and_broadcast(method: Callable[..., tuple[Tensor, Any]], ids: Tensor, states: Any) -> tuple[Tensor, Any]:
    logits, states = method(ids, states)
    logits = logits.contiguous()
    torch.distributed.broadcast(logits, 0)
    return logits, states


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
