"""What is timed: a step of training, the reading of a prompt, or one more token, of a layer or of a whole model."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mixers.model import LanguageModel, MixerFactory
from mixers.model.decoder import WARM_UP, Decoder
from mixers.ops import OPS

Phase = Literal["train", "prefill", "decode"]

PIECE = 1024  # tokens read at once on the way to a long context
inferring = torch.inference_mode()  # of a function: runs it in that mode


class Case(NamedTuple):
    """Where on its curve something is measured."""

    length: int  # tokens trained on, read, or already read
    batch_size: int = 1
    dim: int = 1024
    depth: int = 16  # of a model; a layer has none
    vocab_size: int = 50257  # likewise
    dtype: torch.dtype = torch.float32  # half precision is autocast over float32 weights in training, else the weights'
    device: torch.device = torch.device("cpu")
    compiled: bool = False  # by torch.compile


class Workload(NamedTuple):
    run: Callable[[], object]
    parameters: int
    state_bytes: int | None = None  # for each sequence, after `length` tokens


Target = Callable[[Phase, Case], Workload]  # prepares the work, outside of the measured time


class Unavailable(Exception):
    """A target cannot do what is asked; the message says why."""


def layer(build: MixerFactory) -> Target:
    """A mixer alone; training is forward and backward, for all its gradients."""

    def prepare(phase: Phase, case: Case) -> Workload:
        mixer = build(case.dim).to(case.device)
        dtype = torch.float32 if phase == "train" else case.dtype
        x = torch.randn(case.batch_size, case.length, case.dim, device=case.device, dtype=dtype)
        if phase != "train":
            return _reading(mixer.to(dtype), x, phase, case)
        if case.compiled:
            mixer.compile()
        return Workload(forward_and_backward(mixer, x, case), parameters(mixer))

    return prepare


def model(build: MixerFactory) -> Target:
    """The language model made of a mixer."""
    return language_model(lambda case: LanguageModel(build, vocab_size=case.vocab_size, dim=case.dim, depth=case.depth))


def language_model(make: Callable[[Case], LanguageModel]) -> Target:
    """Any language model; training is a whole step, with AdamW's."""

    def prepare(phase: Phase, case: Case) -> Workload:
        made = make(case).to(case.device)
        rows = torch.randint(case.vocab_size, (case.batch_size, case.length + 1), device=case.device)
        if phase != "train":
            return _reading(made.to(case.dtype), rows[:, 1:], phase, case)
        for block in made.blocks if case.compiled else ():
            block.compile()
        return Workload(step(made, lambda: made.loss(rows[:, :-1], rows[:, 1:]), case), parameters(made))

    return prepare


def op(name: str, implementation: str) -> Target:
    """An implementation of an op, forward and backward for all its gradients."""

    def prepare(phase: Phase, case: Case) -> Workload:
        if phase != "train":
            raise Unavailable("an op alone is only trained")
        arguments = OPS[name].examples(case.length, case.dim, case.dtype, case.device)
        chosen = OPS[name][implementation]
        if reason := chosen.unsupported_reason(*arguments):
            raise Unavailable(reason)
        wanted = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor) and leaf.requires_grad]
        directions = [torch.randn_like(output) for output in pytree.tree_leaves(chosen.run(*arguments))]
        return Workload(lambda: torch.autograd.grad(pytree.tree_leaves(chosen.run(*arguments)), wanted, directions), 0)

    return prepare


def forward_and_backward(module: nn.Module, x: Tensor, case: Case) -> Callable[[], object]:
    """A layer's training without an optimizer."""
    direction = torch.randn_like(x)

    def run() -> None:
        module.zero_grad()
        with autocast(case):
            y = module(x.detach().requires_grad_())
        y.backward(direction.to(y.dtype))

    return run


def step(module: nn.Module, loss: Callable[[], Tensor], case: Case) -> Callable[[], object]:
    """A step of a model's training."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=case.device.type in ("cpu", "cuda"))

    def run() -> None:
        with autocast(case):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


@inferring
def _reading(module: nn.Module, x: Tensor, phase: Phase, case: Case) -> Workload:
    """Reading a prompt in one piece, or one token after it."""
    recurrent: Any = module.eval()
    advance, state = getattr(recurrent, "next_logits", recurrent.extend), recurrent.initial_state(len(x))
    if phase == "prefill":
        read = torch.compile(advance) if case.compiled else advance
        return Workload(inferring(lambda: read(x, state)), parameters(module))
    for piece in x.split(PIECE, 1):
        state = advance(piece, state)[1]
    if case.compiled:
        recurrent.decode = torch.compile(recurrent.decode)
    decoder, token = Decoder(recurrent, state), x[:, -1].clone()
    for _ in range(WARM_UP + 1):  # until its graph is captured
        decoder(token)
    state_bytes = sum(leaf.nbytes for leaf in pytree.tree_leaves(state)) // len(x)
    return Workload(lambda: decoder(token), parameters(module), state_bytes)


def autocast(case: Case) -> AbstractContextManager[object]:
    """Autocast where training is in half precision."""
    return nullcontext() if case.dtype == torch.float32 else torch.autocast(case.device.type, case.dtype)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
