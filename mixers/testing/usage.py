"""Laws of use: compile, export, pickle, save and plan it; what is wrong is refused, and every option is explained."""

import inspect
import io
import pickle
import re
from contextlib import suppress
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mixers.mixer import Mixer
from mixers.testing.law import assert_same, clone, extend_in_pieces, law


@law(rows=2)
def it_compiles(mixer: Mixer[Any], x: Tensor) -> None:
    """`torch.compile` makes one graph of it: branch on shapes, or use torch.where; look for branches on a tensor's
    values, .item(), .tolist() and int(tensor), which also make a GPU wait for the CPU."""
    torch._dynamo.reset()
    state = mixer.extend(x[:, :100], mixer.initial_state(2))[1]
    forward, extend = (torch.compile(f, fullgraph=True, backend="eager") for f in (mixer, mixer.extend))
    assert_same(forward(x), mixer(x), "forward differs")
    assert_same(extend(x[:, 100:], state)[0], mixer(x)[:, 100:], "extend differs")


@law(rows=2, length=10)
def one_token_exports(mixer: Mixer[Any], x: Tensor) -> None:
    """`torch.export` takes `extend` by one token, which is what a server or a phone runs: look for what cannot be
    compiled, and for fields of a state whose names begin with that of an earlier one, such as v and valid."""
    state = extend_in_pieces(mixer, x, [9])[1]
    extending = copy(mixer)
    extending.forward = mixer.extend  # type: ignore[method-assign]  # torch.export takes a module
    program = torch.export.export(extending, (x[:, 9:], clone(state))).module()
    assert_same(program(x[:, 9:], clone(state)), mixer.extend(x[:, 9:], state), "the output or the state differs")


@law(rows=2)
def it_and_its_state_pickle(mixer: Mixer[Any], x: Tensor) -> None:
    """Together, as a process sends them to another: look for lambdas, local functions and classes, and open files."""
    state = extend_in_pieces(mixer, x, [8, 1])[1]
    mixer_again, state_again = pickle.loads(pickle.dumps((mixer, state)))
    assert_same(mixer_again.extend(x[:, 9:], state_again)[0], mixer.extend(x[:, 9:], state)[0], "extend differs")


@law(rows=2)
def a_saved_state_loads_as_weights_only(mixer: Mixer[Any], x: Tensor) -> None:
    """`torch.load(weights_only=True)`, which runs no code that a file brings, takes what `torch.save` wrote of a state:
    look for a state that is no plain NamedTuple of tensors, defined in a module."""
    state, file = extend_in_pieces(mixer, x, [9])[1], io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert_same(torch.load(file, weights_only=True), state, "the loaded state differs")


@law(rows=2, device="meta")
def it_builds_on_meta(mixer: Mixer[Any], x: Tensor) -> None:
    """It and its state are built on the meta device, as large models are planned: name no device, or that of the
    weights, and read no values."""
    with torch.device("meta"):
        leaves = pytree.tree_leaves(mixer.initial_state(2))
    tensors = [*mixer.named_parameters(), *mixer.named_buffers(), *(("a leaf of the state", leaf) for leaf in leaves)]
    elsewhere = [name for name, tensor in tensors if not tensor.is_meta]
    assert not elsewhere, f"not on the meta device: {', '.join(elsewhere)}"


@law(rows=2, length=9)
def no_tokens_and_no_rows_are_ordinary(mixer: Mixer[Any], x: Tensor) -> None:
    """Zero tokens give an empty output and leave the state as it is; zero rows give an empty output and state: look for
    torch.stack of an empty list, reshape(..., -1), a maximum over no elements, x[:, -1] of zero tokens."""
    state = extend_in_pieces(mixer, x, [9])[1]
    for rows, tokens in ((2, 0), (0, 9), (0, 1)):
        piece, before = x[:rows, :tokens], state if rows else mixer.initial_state(0)
        y, after = mixer.extend(piece, clone(before))
        assert_same([mixer(piece), y], [piece, piece], f"of {rows} rows and {tokens} tokens an output differs")
        if tokens == 0:
            assert_same(after, before, "extend by zero tokens gives another state")


@law(rows=3, length=5)
def bad_input_is_refused(mixer: Mixer[Any], x: Tensor) -> None:
    """Another width or rank, integers, and a state of other rows or of another type are a ValueError."""
    state = mixer.extend(x, mixer.initial_state(3))[1]
    inputs = [torch.cat([x, x[..., :1]], -1), x[..., :1], x[0], x[None], x.long()]
    states = [None, (x[:, 0],), mixer.initial_state(1), mixer.initial_state(4)]
    for wrong in inputs:
        with suppress(ValueError):
            mixer(wrong)
            raise AssertionError(f"forward takes {tuple(wrong.shape)} of {wrong.dtype}")
    for piece, before in [(wrong, state) for wrong in inputs] + [(x, wrong) for wrong in states]:
        with suppress(ValueError):
            mixer.extend(piece, before)
            raise AssertionError(f"extend takes {tuple(piece.shape)} of {piece.dtype} with the state {before}")


@law(rows=1)
def every_option_has_a_default_and_a_help_line(mixer: Mixer[Any], x: Tensor) -> None:
    """The width comes first, without a default; each option after it is keyword-only and has a default and a line under
    `Args:` of the class, which the command line shows."""
    cls = type(mixer)
    width, *options = inspect.signature(cls).parameters.values()
    documented = set(re.findall(r"^\s+(\w+): ", inspect.getdoc(cls) or "", re.MULTILINE))
    for option in options:
        usual = option.kind is option.KEYWORD_ONLY and option.default is not option.empty
        assert usual, f"{option.name} is not keyword-only or has no default: write `*, {option.name}=...`"
        assert option.name in documented, f"{option.name} has no line under `Args:` in {cls.__name__}'s docstring"
    assert width.default is width.empty, f"the width, {width.name}, has a default"
