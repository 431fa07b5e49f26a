"""Laws of the function: `forward` and `extend` are the same one, causal, for each row alone, with right gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mixers.mixer import Mixer
from mixers.model.states import select_rows
from mixers.testing.inputs import LENGTH, Build, assert_same, extend_in_pieces, make_input, make_mixer

SPLITS = [[LENGTH], [1] * LENGTH, [127, 23], [1, 64, 65, 20], [7, 63, 80]]
LARGE = 10.0  # times the usual standard deviation: what must not matter is made large, so that no maximum hides it


def any_split_gives_what_forward_gives(build: Build) -> None:
    """Outputs, and gradients of the input and of every parameter."""
    mixer, x = make_mixer(build), make_input(rows=2)
    whole = _outputs_and_gradients(mixer, x, mixer)
    for lengths in SPLITS:
        pieces = _outputs_and_gradients(mixer, x, lambda x: extend_in_pieces(mixer, x, lengths)[0])  # noqa: B023
        for name, expected in whole.items():
            what = f"{name}: extend by pieces of {lengths[:4]} differs from forward"
            assert_same(pieces[name], expected, f"{what}; look for what a state does not hold, or is detached in it")


def one_token_is_a_sequence(build: Build) -> None:
    """`forward` of a single token is `extend` by it."""
    mixer, x = make_mixer(build), make_input(rows=1)[:, :1]
    assert_same(mixer(x), extend_in_pieces(mixer, x, [1])[0], "forward of one token differs from extend by it")


def the_future_changes_nothing_before_it(build: Build) -> None:
    """Not even a future of large numbers."""
    mixer, x = make_mixer(build), make_input(rows=2)
    advice = "look for a mean, maximum or norm over time, and for a mask, padding or shift that is off by one"
    for now in (1, 70, 128):
        other = torch.cat([x[:, :now], LARGE * torch.randn_like(x[:, now:])], 1)
        assert_same(mixer(other)[:, :now], mixer(x)[:, :now], f"the first {now} outputs see later inputs; {advice}")


def the_past_matters(build: Build) -> None:
    """The last of a few outputs depends on the first input."""
    mixer, x = make_mixer(build), make_input(rows=2)[:, :8]
    other = torch.cat([torch.randn_like(x[:, :1]), x[:, 1:]], 1)
    same = torch.allclose(mixer(other)[:, -1], mixer(x)[:, -1])
    assert not same, "the last output does not depend on the first token; look for a state that is not used"


def rows_are_independent(build: Build) -> None:
    """A row alone gives what it gives among others of large numbers, through `forward` and through `extend`."""
    mixer, x = make_mixer(build), make_input(rows=3)
    x[[0, 2]] *= LARGE
    row, advice = slice(1, 2), "not what it gives it among others; look for a mean, maximum or norm over the batch"
    assert_same(mixer(x[row]), mixer(x)[row], f"forward gives a row alone {advice}")
    _, state = extend_in_pieces(mixer, x, [100])
    alone = mixer.extend(x[row, 100:], select_rows(state, row))[0]
    assert_same(alone, mixer.extend(x[:, 100:], state)[0][row], f"extend gives a row alone {advice}")


def gradients_are_right(build: Build) -> None:
    """Those of the input are those of finite differences."""
    mixer, x = make_mixer(build), make_input(rows=1)[:, :5]
    right = torch.autograd.gradcheck(mixer, x.requires_grad_(), fast_mode=True, raise_exception=False)
    assert right, "the gradient of the input is not that of finite differences: look for detach, .data and no_grad"


def every_parameter_is_used(build: Build) -> None:
    """DistributedDataParallel refuses a parameter that has no gradient."""
    mixer, x = make_mixer(build), make_input(rows=1)
    mixer(x).sum().backward()
    unused = [name for name, weight in mixer.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not unused, f"no output depends on {', '.join(unused)}: use it, remove it, or make it a buffer"


def _outputs_and_gradients(mixer: Mixer[Any], x: Tensor, run: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    learned = {name: weight for name, weight in mixer.named_parameters() if weight.requires_grad}
    named = {"the input": x.clone().requires_grad_(), **learned}
    try:
        y = run(named["the input"])
        assert y.requires_grad, "the output has no gradient: look for detach, .data and no_grad"
        direction = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().view_as(y)  # of no symmetry
        gradients = torch.autograd.grad((y * direction).sum(), list(named.values()), materialize_grads=True)
    except RuntimeError as error:
        if "inplace" in str(error) or "in-place" in str(error):
            advice = "write nothing in place, neither the input nor a state nor an output: `a = a + b`, not `a += b`"
            raise AssertionError(f"a tensor that the gradient needs was overwritten; {advice}. {error}") from error
        raise
    return {"outputs": y.detach()} | {f"the gradient of {n}": g for n, g in zip(named, gradients, strict=True)}
