"""Laws of precision: dtypes are kept, and rounding does not add up over many tokens."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mixers.mixer import Mixer
from mixers.testing.law import extend_in_pieces, law

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


def _in_half_precision(mixer: Mixer[Any], x: Tensor, lengths: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """Outputs in float64, of `forward` and of `extend`, with weights and inputs that are rounded beforehand."""
    mixer, x = mixer.bfloat16(), x.bfloat16()
    exact = copy.deepcopy(mixer).double()(x.double())
    for what, dtype in (("bfloat16", torch.bfloat16), ("autocast", torch.float32)):
        mixer, x = mixer.to(dtype), x.to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=what == "autocast"):
            outputs = mixer(x), extend_in_pieces(mixer, x, lengths)[0]
        yield what, exact, *outputs


def _error(actual: Tensor, exact: Tensor) -> float:
    """Root mean square, in standard deviations."""
    return ((actual.double() - exact).square().mean().sqrt() / exact.std()).item()
