"""What is timed: a step of training, the reading of a prompt, or one more token, of a layer or of a whole model."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mixers.model import LanguageModel, MixerFactory
from mixers.model.decoder import Decoder
from mixers.ops import OPS

Phase = Literal["train", "prefill", "decode"]

PIECE = 1024  # tokens read at once on the way to a long context


class Case(NamedTuple):
    """Where on its curve something is measured.

    Half precision is autocast over float32 weights in training, and weights of that dtype elsewhere.
    """

    length: int  # tokens trained on, read, or already read
    batch_size: int = 1
    dim: int = 1024
    depth: int = 16  # of a model; a layer has none
    vocab_size: int = 50257  # likewise
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    compiled: bool = False  # by torch.compile; a model's decoding on CUDA is captured as a graph instead


class Workload(NamedTuple):
    """Something to time."""

    run: Callable[[], object]
    parameters: int
    state_bytes: int | None = None  # for each sequence, after `length` tokens


Target = Callable[[Phase, Case], Workload]  # prepares the work, outside of the measured time


class Unavailable(Exception):
    """A subject cannot do what is asked; the message says why."""


def layer(build: MixerFactory) -> Target:
    """A mixer alone; training is forward and backward, for all its gradients."""

    def prepare(what: Phase, at: Case) -> Workload:
        mixer = build(at.dim).to(at.device)
        size = (at.batch_size, at.length, at.dim)
        if what == "train":
            x = torch.randn(size, device=at.device)
            return Workload(forward_and_backward(_compiled(mixer, at), x, at), parameters(mixer))

        def draw(length: int) -> Tensor:
            return torch.randn(at.batch_size, length, at.dim, device=at.device, dtype=at.dtype)

        return _reading(mixer.to(at.dtype), draw, what, at)

    return prepare


def model(build: MixerFactory) -> Target:
    """The language model made of a mixer; training is a whole step, with AdamW's."""
    return language_model(lambda at: LanguageModel(build, vocab_size=at.vocab_size, dim=at.dim, depth=at.depth))


def language_model(make: Callable[[Case], LanguageModel]) -> Target:
    """Any language model; training is a whole step, with AdamW's."""

    def prepare(what: Phase, at: Case) -> Workload:
        made = make(at).to(at.device)

        def draw(length: int) -> Tensor:
            return torch.randint(at.vocab_size, (at.batch_size, length), device=at.device)

        if what == "train":
            rows = draw(at.length + 1)
            for block in made.blocks:
                _compiled(block, at)
            return Workload(step(made, lambda: made.loss(rows[:, :-1], rows[:, 1:]), at), parameters(made))
        return _reading(made.to(at.dtype), draw, what, at)

    return prepare


def op(name: str, implementation: str) -> Target:
    """An implementation of an op, forward and backward for all its gradients."""

    def prepare(what: Phase, at: Case) -> Workload:
        if what != "train":
            raise Unavailable("an op alone is only trained")
        arguments, chosen = OPS[name].examples(at.length, at.dim, at.dtype, at.device), OPS[name][implementation]
        if reason := chosen.unsupported_reason(*arguments):
            raise Unavailable(reason)
        wanted = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor) and leaf.requires_grad]
        directions = [torch.randn_like(output) for output in pytree.tree_leaves(chosen.run(*arguments))]

        def run() -> None:
            torch.autograd.grad(pytree.tree_leaves(chosen.run(*arguments)), wanted, directions)

        return Workload(run, 0)

    return prepare


def forward_and_backward(module: nn.Module, x: Tensor, at: Case) -> Callable[[], object]:
    """A layer's training without an optimizer."""
    direction = torch.randn_like(x)

    def run() -> None:
        module.zero_grad()
        with autocast(at):
            y = module(x.detach().requires_grad_())
        y.backward(direction.to(y.dtype))

    return run


def step(module: nn.Module, loss: Callable[[], Tensor], at: Case) -> Callable[[], object]:
    """A step of a model's training."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=at.device.type in ("cpu", "cuda"))

    def run() -> None:
        with autocast(at):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def _reading(module: nn.Module, draw: Callable[[int], Tensor], what: Phase, at: Case) -> Workload:
    """Reading a prompt in one piece, or one token after it."""
    recurrent: Any = module.eval()
    advance: Callable[[Tensor, Any], tuple[Tensor, Any]] = getattr(recurrent, "next_logits", recurrent.extend)
    faster = torch.compile(advance) if at.compiled else advance
    if what == "prefill":
        with torch.inference_mode():
            x = draw(at.length)
            state = recurrent.initial_state(at.batch_size)
        return Workload(inferring(lambda: faster(x, state)), parameters(module))

    with torch.inference_mode():
        state = recurrent.initial_state(at.batch_size)
        for start in range(0, at.length, PIECE):
            state = advance(draw(min(PIECE, at.length - start)), state)[1]
        token = draw(1)
    size = state_bytes(state) // at.batch_size
    if at.compiled and at.device.type == "cuda" and isinstance(module, LanguageModel):
        decoder, ids = Decoder(module, state), token[:, 0]
        return Workload(inferring(lambda: decoder(ids)), parameters(module), size)

    def run() -> None:
        nonlocal state
        state = faster(token, state)[1]

    return Workload(inferring(run), parameters(module), size)


def inferring(run: Callable[[], object]) -> Callable[[], object]:
    return torch.inference_mode()(run)


def _compiled(module: nn.Module, at: Case) -> nn.Module:
    if at.compiled:
        module.compile()
    return module


def autocast(at: Case) -> AbstractContextManager[object]:
    """Autocast where training is in half precision."""
    return nullcontext() if at.dtype == torch.float32 else torch.autocast(at.device.type, at.dtype)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def state_bytes(state: Any) -> int:
    """What a state holds, not counting room beside it."""
    return sum(leaf.numel() * leaf.element_size() for leaf in pytree.tree_leaves(state))
