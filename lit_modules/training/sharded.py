"""Language models of which each process has a part only, built block by block."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn.modules.module import register_module_module_registration_hook

from lit_modules.data.batches import SizedLoader
from mixers import LanguageModel
from mixers.checks import UsageError
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
    model.captures_graphs = False  # no graph can capture that processes wait for each other
    return model


def _shard(module: nn.Module, mesh: DeviceMesh, policy: MixedPrecisionPolicy, methods: tuple[str, ...]) -> None:
    for name, parameter in module.named_parameters():
        if parameter.dim() == 0:
            raise UsageError(f"the parameter {name} is a scalar, which cannot be shared out: give it the shape (1,).")
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


def check_shares(loaders: Any, processes: int) -> None:
    """Raises UsageError where a process would have no block of a text, for which the others would wait."""
    for loader in loaders if isinstance(loaders, list) else [loaders]:
        if isinstance(loader, SizedLoader) and len(loader.blocks) < processes:
            raise UsageError(
                f"a text of {len(loader.blocks)} blocks of {loader.blocks.block_size} tokens cannot be shared by "
                f"{processes} processes: give more text, or write a smaller block_size."
            )


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
