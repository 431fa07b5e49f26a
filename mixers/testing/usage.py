"""Laws of use: in any precision; compiled, exported, pickled, saved; what is wrong is refused, options explained."""

import inspect
import io
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy, deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mixers.mixer import Mixer
from mixers.testing.law import assert_same, clone, extend_in_pieces, law

LONG = 4096
FLOAT32_DRIFT = 1e-3  # of the outputs' standard deviation: the rounding of 4,096 steps in 24 bits, with room
BFLOAT16_NEAR = 0.1  # of the outputs' standard deviation, root mean square: eight bits, a few products deep
STEPS = 512
# How much further from float64 the last outputs may be in steps of one token than in one piece. A sum that is kept in
# float32 comes to at most 1.13 in our mixers, one that is rounded to bfloat16 at each step to 1.6 and up to 20.
BFLOAT16_DRIFT = 1.35


@law(rows=2, length=9)
def the_output_has_the_inputs_shape_and_dtype(mixer: Mixer[Any], x: Tensor) -> None:
    """The output has the shape and dtype of the input, in float64, float32 and bfloat16."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        mixer, x = mixer.to(dtype), x.to(dtype)
        for name, y in (("forward", mixer(x)), ("extend", extend_in_pieces(mixer, x, [8, 1])[0])):
            same = (y.shape, y.dtype) == (x.shape, x.dtype)
            assert same, f"{name} gives {tuple(y.shape)} in {y.dtype} for {tuple(x.shape)} in {x.dtype}"


@law(rows=1, length=LONG)
def float32_does_not_drift(mixer: Mixer[Any], x: Tensor) -> None:
    """In float32 the outputs are those in float64 after 4,096 tokens, too: look for sums that grow, differences of
    large numbers, and angles of large positions."""
    exact = mixer(x)
    y = extend_in_pieces(mixer.float(), x.float(), [LONG - 256] + [1] * 256)[0]
    error = ((y - exact).abs().max() / exact.std()).item()
    assert error < FLOAT32_DRIFT, f"they are {error:.1e} of their standard deviation away"


@law(rows=2)
def half_precision_stays_near_double(mixer: Mixer[Any], x: Tensor) -> None:
    """In bfloat16 and under autocast the outputs are near those in float64: compute sums, exponentials and differences
    of large numbers in float32."""
    for what, exact, *outputs in _in_half_precision(mixer, x, [100] + [1] * 50):
        for name, y in zip(("forward", "extend"), outputs, strict=True):
            error = _error(y, exact)
            assert error < BFLOAT16_NEAR, f"{name} in {what} is {error:.1%} of their standard deviation away"


@law(rows=1, length=STEPS)
def half_precision_does_not_drift(mixer: Mixer[Any], x: Tensor) -> None:
    """In bfloat16 and under autocast, 512 steps of one token stay as near to float64 as `forward` does: keep what adds
    up in float32 (`state_dtype(weight)`), in the initial state and in what `extend` returns. What a state only keeps
    as it is, such as keys and values, may have the weights' precision."""
    for what, exact, *outputs in _in_half_precision(mixer, x, [1] * STEPS):
        whole, steps = (_error(y[:, -64:], exact[:, -64:]) for y in outputs)
        times = steps / max(whole, 1e-4)
        assert times < BFLOAT16_DRIFT, f"in {what} the error of steps is {times:.1f} times that of forward"


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


def _in_half_precision(mixer: Mixer[Any], x: Tensor, lengths: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """Outputs in float64, of `forward` and of `extend`, with weights and inputs that are rounded beforehand."""
    mixer, x = mixer.bfloat16(), x.bfloat16()
    exact = deepcopy(mixer).double()(x.double())
    for what, dtype in (("bfloat16", torch.bfloat16), ("autocast", torch.float32)):
        mixer, x = mixer.to(dtype), x.to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=what == "autocast"):
            outputs = mixer(x), extend_in_pieces(mixer, x, lengths)[0]
        yield what, exact, *outputs


def _error(actual: Tensor, exact: Tensor) -> float:
    """Root mean square, in standard deviations."""
    return ((actual.double() - exact).square().mean().sqrt() / exact.std()).item()
