"""Laws of precision: dtypes are kept, and rounding does not add up over many tokens."""

import copy
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from mixers.mixer import Mixer
from mixers.testing.inputs import Build, extend_in_pieces, make_input, make_mixer

LONG = 4096
FLOAT32_DRIFT = 1e-3  # of the outputs' standard deviation: the rounding of 4,096 steps in 24 bits, with room
BFLOAT16_NEAR = 0.1  # of the outputs' standard deviation, root mean square: eight bits, a few products deep
STEPS = 512
# How much further from float64 the last outputs may be in steps of one token than in one piece. A sum that is kept in
# float32 comes to at most 1.13 in our mixers, one that is rounded to bfloat16 at each step to 1.6 and up to 20.
BFLOAT16_DRIFT = 1.35


@torch.no_grad()
def the_output_has_the_inputs_shape_and_dtype(build: Build) -> None:
    """In float64, float32 and bfloat16, through `forward` and through `extend`."""
    mixer, x = make_mixer(build), make_input(rows=2)[:, :9]
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        mixer, x = mixer.to(dtype), x.to(dtype)
        for name, y in (("forward", mixer(x)), ("extend", extend_in_pieces(mixer, x, [8, 1])[0])):
            found, wanted = (f"{tuple(tensor.shape)} in {tensor.dtype}" for tensor in (y, x))
            assert found == wanted, f"{name} gives {found} for an input of {wanted}"


@torch.no_grad()
def float32_does_not_drift(build: Build) -> None:
    """One token at a time over 4,096 of them."""
    mixer, x = make_mixer(build), make_input(rows=1, length=LONG)
    exact = mixer(x)
    single = copy.deepcopy(mixer).float()
    y = extend_in_pieces(single, x.float(), [LONG - 256] + [1] * 256)[0]
    error = ((y - exact).abs().max() / exact.std()).item()
    assert error < FLOAT32_DRIFT, (
        f"after {LONG} tokens float32 is {error:.1e} of the outputs' standard deviation from float64: look for sums "
        "that grow, differences of large numbers, and angles of large positions"
    )


@torch.no_grad()
def half_precision_stays_near_double(build: Build) -> None:
    """In bfloat16 and under autocast, whole and in pieces; the weights themselves are rounded beforehand."""
    half, x = make_mixer(build).bfloat16(), make_input(rows=2).bfloat16()
    exact = copy.deepcopy(half).double()(x.double())
    for what, mixer, inputs, context in _half_precisions(half, x):
        with context:
            _near(mixer(inputs), exact, what)
            _near(extend_in_pieces(mixer, inputs, [100] + [1] * 50)[0], exact, f"{what}, in pieces,")


@torch.no_grad()
def half_precision_does_not_drift(build: Build) -> None:
    """In bfloat16 and under autocast, one token at a time over 512 of them.

    This is what a recurrent state in float32 is for. A state that only keeps inputs or projections as they are, such as
    keys and values, may have their precision.
    """
    half, x = make_mixer(build).bfloat16(), make_input(rows=1, length=STEPS).bfloat16()
    exact = copy.deepcopy(half).double()(x.double())[:, -64:]
    for what, mixer, inputs, context in _half_precisions(half, x):
        with context:
            outputs = mixer(inputs), extend_in_pieces(mixer, inputs, [1] * STEPS)[0]
        whole, steps = (_error(y[:, -64:], exact) for y in outputs)
        times = steps / max(whole, 1e-4)
        assert times < BFLOAT16_DRIFT, (
            f"{what}: after {STEPS} steps of one token the error is {times:.1f} times that of forward: "
            "keep what adds up in float32 (`state_dtype(weight)`), in the initial state and in what extend returns"
        )


def _half_precisions(half: Mixer[Any], x: Tensor) -> list[tuple[str, Mixer[Any], Tensor, Any]]:
    autocast = torch.autocast("cpu", torch.bfloat16)
    return [("bfloat16", half, x, nullcontext()), ("autocast", copy.deepcopy(half).float(), x.float(), autocast)]


def _error(actual: Tensor, exact: Tensor) -> float:
    """Root mean square, in standard deviations."""
    return ((actual.double() - exact).square().mean().sqrt() / exact.std()).item()


def _near(actual: Tensor, exact: Tensor, what: str) -> None:
    error = _error(actual, exact)
    assert error < BFLOAT16_NEAR, (
        f"{what} is {error:.1%} of the outputs' standard deviation away from float64: compute sums, exponentials and "
        "differences of large numbers in float32"
    )
