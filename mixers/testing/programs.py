"""Laws of what other programs do with a mixer: compile, export, pickle, save, and build it without memory."""

import io
import pickle
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mixers.mixer import Mixer
from mixers.testing.inputs import (
    DIM,
    Build,
    assert_same,
    assert_same_states,
    clone,
    extend_in_pieces,
    make_input,
    make_mixer,
    must_work,
)

GRAPH_ADVICE = (
    "branches on a tensor's values, .item(), .tolist() and int(tensor), which also make a GPU wait for the CPU; branch "
    "on shapes, or use torch.where"
)


@torch.no_grad()
def it_compiles(build: Build) -> None:
    """In one graph, without falling back to Python."""
    mixer, x = make_mixer(build), make_input(rows=2)
    torch._dynamo.reset()
    _, state = mixer.extend(x[:, :100], mixer.initial_state(2))
    with must_work("torch.compile(fullgraph=True)", GRAPH_ADVICE):
        assert_same(
            torch.compile(mixer, fullgraph=True, backend="eager")(x),
            mixer(x),
            "forward gives something else when it is compiled",
        )
        extend = torch.compile(mixer.extend, fullgraph=True, backend="eager")
        assert_same(extend(x[:, 100:], state)[0], mixer(x)[:, 100:], "extend gives something else when it is compiled")


@torch.no_grad()
def one_token_exports(build: Build) -> None:
    """`torch.export` of `extend` by one token, which is what a server or a phone runs."""
    mixer, x = make_mixer(build), make_input(rows=2)
    _, state = mixer.extend(x[:, :9], mixer.initial_state(2))
    advice = f"{GRAPH_ADVICE}; fields of a state whose names begin with that of an earlier one, such as v and valid"
    with must_work("torch.export.export of extend by one token", advice):
        program = torch.export.export(_Extend(mixer), (x[:, 9:10], clone(state)))
        y, after = program.module()(x[:, 9:10], clone(state))
    expected, expected_after = mixer.extend(x[:, 9:10], state)
    assert_same(y, expected, "extend gives something else when it is exported")
    assert_same_states(after, expected_after, "extend gives another state when it is exported")


@torch.no_grad()
def it_and_its_state_pickle(build: Build) -> None:
    """Together, as a process sends them to another."""
    mixer, x = make_mixer(build), make_input(rows=2)
    _, state = extend_in_pieces(mixer, x[:, :9], [8, 1])
    with must_work("pickle", "lambdas, local functions and classes, open files and modules kept on the mixer"):
        mixer_again, state_again = pickle.loads(pickle.dumps((mixer, state)))
    again = mixer_again.extend(x[:, 9:], state_again)[0]
    assert_same(again, mixer.extend(x[:, 9:], state)[0], "extend gives something else after pickling")


@torch.no_grad()
def a_saved_state_loads_as_weights_only(build: Build) -> None:
    """`torch.save`, then `torch.load(weights_only=True)`, which runs no code that a file brings."""
    mixer, x = make_mixer(build), make_input(rows=2)
    _, state = extend_in_pieces(mixer, x[:, :9], [9])
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    with must_work(
        "torch.load(weights_only=True)", "a state that is no plain NamedTuple of tensors, defined in a module"
    ):
        again = torch.load(file, weights_only=True)
    assert type(again) is type(state), f"a {type(state).__name__} was saved, a {type(again).__name__} loaded"
    assert_same_states(again, state, "the loaded state is not the saved one")


def it_builds_on_meta(build: Build) -> None:
    """Without memory, as large models are planned."""
    with torch.device("meta"), must_work("building on the meta device", "values that are read while it is built"):
        mixer = build(DIM)
        state = mixer.initial_state(2)
    tensors = {**dict(mixer.named_parameters()), **dict(mixer.named_buffers())}
    tensors |= {f"leaf {i} of the initial state": leaf for i, leaf in enumerate(pytree.tree_leaves(state))}
    elsewhere = [name for name, tensor in tensors.items() if not tensor.is_meta]
    assert not elsewhere, (
        f"not built on the meta device: {', '.join(elsewhere)}; name no device, or that of the weights"
    )


class _Extend(nn.Module):
    """`extend` as a module, which is what torch.export takes."""

    def __init__(self, mixer: Mixer[Any]):
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.mixer.extend(x, state)
