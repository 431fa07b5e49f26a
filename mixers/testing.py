"""The laws of a mixer, for everybody's mixers.

In a test file of your own package:

    import pytest
    from mixers.testing import LAWS

    @pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
    def test_my_mixer(law):
        law(MyMixer)

A law takes what builds the mixer from its width, `MyMixer` or `partial(MyMixer, num_heads=2)`, and raises
AssertionError where it is broken. Equal means equal in float64, to 1e-9.
"""

import copy
import inspect
import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from mixers.mixer import Mixer
from mixers.model.states import concat_states, select_rows

Build = Callable[[int], Mixer[Any]]

DIM = 32
LENGTH = 150  # no power of two, nor a multiple of a chunk
SPLITS = [[LENGTH], [1] * LENGTH, [127, 23], [1, 64, 65, 20], [7, 63, 80]]
EXACT = 1e-9
LONG = 4096
FLOAT32_DRIFT = 1e-3  # of the outputs' standard deviation: the rounding of 4,096 steps in 24 bits, with room
BFLOAT16_NEAR = 0.1  # of the outputs' standard deviation, root mean square: eight bits, a few products deep


def any_split_gives_what_forward_gives(build: Build) -> None:
    """Outputs, and gradients of the input and of every parameter."""
    mixer, x = _mixer(build), _input(rows=2)
    whole = _outputs_and_gradients(mixer, x, lambda x: mixer(x))
    for lengths in SPLITS:
        pieces = _outputs_and_gradients(mixer, x, lambda x: _extended(mixer, x, lengths)[0])  # noqa: B023
        for name, expected in whole.items():
            _same(pieces[name], expected, f"{name}, in pieces of {lengths[:4]}")


def one_token_is_a_sequence(build: Build) -> None:
    mixer, x = _mixer(build), _input(rows=1)[:, :1]
    _same(mixer(x), _extended(mixer, x, [1])[0], "one token")


def the_future_changes_nothing_before_it(build: Build) -> None:
    mixer, x = _mixer(build), _input(rows=2)
    for now in (1, 70, 128):
        other = torch.cat([x[:, :now], torch.randn_like(x[:, now:])], 1)
        _same(mixer(other)[:, :now], mixer(x)[:, :now], f"before token {now}")


def the_past_matters(build: Build) -> None:
    mixer, x = _mixer(build), _input(rows=2)[:, :8]
    other = torch.cat([torch.randn_like(x[:, :1]), x[:, 1:]], 1)
    assert not torch.allclose(mixer(other)[:, -1], mixer(x)[:, -1]), "the last output does not see the first token"


def rows_are_independent(build: Build) -> None:
    mixer, x = _mixer(build), _input(rows=3)
    _same(mixer(x[1:2]), mixer(x)[1:2], "a row alone")


def a_state_is_never_changed(build: Build) -> None:
    """A state can be kept and continued more than once."""
    mixer, x = _mixer(build), _input(rows=2)
    with torch.no_grad():
        state = _extended(mixer, x, [5, 1, 1])[1]
        before = pytree.tree_map(torch.clone, state)
        first = mixer.extend(x[:, 7:8], state)[1]
        expected = mixer.extend(x[:, 8:12], pytree.tree_map(torch.clone, first))[0]
        mixer.extend(torch.randn_like(x[:, 7:9]), state)
        pytree.tree_map(lambda now, then: _same(now, then, "an older state"), state, before)
        _same(mixer.extend(x[:, 8:12], first)[0], expected, "a state whose predecessor was continued again")


def states_can_be_taken_by_row_and_joined(build: Build) -> None:
    """Rows that have read different numbers of tokens continue together."""
    mixer, x = _mixer(build), _input(rows=3)
    with torch.no_grad():
        read = [4, 9, 20]
        states = [select_rows(_extended(mixer, x[:, :n], [n])[1], slice(row, row + 1)) for row, n in enumerate(read)]
        state, outputs = concat_states(states), []
        for step in range(12):
            tokens = torch.stack([x[row, n + step] for row, n in enumerate(read)])
            y, state = mixer.extend(tokens[:, None], state)
            outputs.append(y)
        whole = mixer(x)
        expected = torch.stack([whole[row, n : n + 12] for row, n in enumerate(read)])
        _same(torch.cat(outputs, 1), expected, "joined rows")


def constant_state_tells_the_truth(build: Build) -> None:
    mixer, x = _mixer(build), _input(rows=1)
    with torch.no_grad():
        sizes = [_size(_extended(mixer, x[:, :length], [length])[1]) for length in (10, 100)]
    assert (sizes[0] == sizes[1]) is mixer.constant_state, f"constant_state={mixer.constant_state}, numbers: {sizes}"


def a_state_is_a_tuple_of_tensors_batch_first(build: Build) -> None:
    mixer, x = _mixer(build), _input(rows=3)
    for state in (mixer.initial_state(3), mixer.extend(x, mixer.initial_state(3))[1]):
        assert isinstance(state, tuple), f"a state is a {type(state).__name__}"
        for leaf in pytree.tree_leaves(state):
            assert isinstance(leaf, Tensor), f"a state holds a {type(leaf).__name__}"
            assert leaf.shape[:1] == (3,), f"a state of 3 rows holds {tuple(leaf.shape)}"


def gradients_are_right(build: Build) -> None:
    mixer, x = _mixer(build), _input(rows=1)[:, :5]
    right = torch.autograd.gradcheck(mixer, x.requires_grad_(), fast_mode=True, raise_exception=False)
    assert right, "the gradient of the input is not that of finite differences"


def float32_does_not_drift(build: Build) -> None:
    """One token at a time over 4,096 of them."""
    mixer, x = _mixer(build), _input(rows=1, length=LONG)
    with torch.no_grad():
        exact = mixer(x)
        single = copy.deepcopy(mixer).float()
        y = _extended(single, x.float(), [LONG - 256] + [1] * 256)[0]
    error = ((y - exact).abs().max() / exact.std()).item()
    assert error < FLOAT32_DRIFT, f"float32 is {error:.1e} of the standard deviation off"


def half_precision_stays_near_double(build: Build) -> None:
    """In bfloat16 and under autocast, whole and in pieces; the weights themselves are rounded beforehand."""
    x = _input(rows=2).bfloat16()
    half = _mixer(build).bfloat16()
    single = copy.deepcopy(half).float()
    with torch.no_grad():
        exact = copy.deepcopy(half).double()(x.double())
        _near(half(x), exact, "bfloat16")
        _near(_extended(half, x, [100] + [1] * 50)[0], exact, "bfloat16 in pieces")
        with torch.autocast("cpu", torch.bfloat16):
            _near(single(x.float()), exact, "autocast")
            _near(_extended(single, x.float(), [100] + [1] * 50)[0], exact, "autocast in pieces")


def it_compiles(build: Build) -> None:
    """In one graph, without falling back to Python."""
    mixer, x = _mixer(build), _input(rows=2)
    torch._dynamo.reset()
    with torch.no_grad():
        forward = torch.compile(mixer, fullgraph=True, backend="eager")
        _same(forward(x), mixer(x), "compiled forward")
        extend = torch.compile(mixer.extend, fullgraph=True, backend="eager")
        _, state = mixer.extend(x[:, :100], mixer.initial_state(2))
        _same(extend(x[:, 100:], state)[0], mixer(x)[:, 100:], "compiled extend")


def it_and_its_state_pickle(build: Build) -> None:
    mixer, x = _mixer(build), _input(rows=2)
    with torch.no_grad():
        _, state = _extended(mixer, x[:, :9], [8, 1])
        mixer_again, state_again = pickle.loads(pickle.dumps((mixer, state)))
        _same(mixer_again.extend(x[:, 9:], state_again)[0], mixer.extend(x[:, 9:], state)[0], "unpickled")


def it_builds_on_meta(build: Build) -> None:
    """Without memory, as large models are planned."""
    with torch.device("meta"):
        mixer = build(DIM)
        state = mixer.initial_state(2)
    tensors = [*mixer.parameters(), *mixer.buffers(), *pytree.tree_leaves(state)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}, "something was not built on the meta device"


def every_option_has_a_default_and_a_help_line(build: Build) -> None:
    cls = type(build(DIM))
    width, *options = list(inspect.signature(cls).parameters.values())
    documented = set(re.findall(r"^\s+(\w+): ", inspect.getdoc(cls) or "", re.MULTILINE))
    for option in options:
        assert option.kind is option.KEYWORD_ONLY, f"{option.name} is not keyword-only"
        assert option.default is not option.empty, f"{option.name} has no default"
        assert option.name in documented, f"{option.name} has no line under `Args:` in {cls.__name__}'s docstring"
    assert width.default is width.empty, f"the width, {width.name}, has a default"


LAWS: list[Callable[[Build], None]] = [
    any_split_gives_what_forward_gives,
    one_token_is_a_sequence,
    the_future_changes_nothing_before_it,
    the_past_matters,
    rows_are_independent,
    a_state_is_never_changed,
    states_can_be_taken_by_row_and_joined,
    constant_state_tells_the_truth,
    a_state_is_a_tuple_of_tensors_batch_first,
    gradients_are_right,
    float32_does_not_drift,
    half_precision_stays_near_double,
    it_compiles,
    it_and_its_state_pickle,
    it_builds_on_meta,
    every_option_has_a_default_and_a_help_line,
]


def _mixer(build: Build) -> Mixer[Any]:
    torch.manual_seed(0)
    return build(DIM).double()


def _input(*, rows: int, length: int = LENGTH) -> Tensor:
    return torch.randn(rows, length, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _extended(mixer: Mixer[Any], x: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Any]:
    state, outputs = mixer.initial_state(len(x)), []
    for piece in x[:, : sum(lengths)].split(list(lengths), 1):
        y, state = mixer.extend(piece, state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


def _outputs_and_gradients(mixer: Mixer[Any], x: Tensor, run: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = run(x)
    named: Iterable[tuple[str, Tensor]] = [("the input", x), *mixer.named_parameters()]
    names, tensors = zip(*named, strict=True)
    direction = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().view_as(y)  # of no symmetry
    gradients = torch.autograd.grad((y * direction).sum(), tensors)
    return {"outputs": y.detach()} | {f"the gradient of {n}": g for n, g in zip(names, gradients, strict=True)}


def _size(state: Any) -> int:
    return sum(leaf.numel() for leaf in pytree.tree_leaves(state))


def _same(actual: Tensor, expected: Tensor, what: str) -> None:
    assert_close(actual, expected, rtol=EXACT, atol=EXACT, msg=lambda message: f"{what}: {message}")


def _near(actual: Tensor, exact: Tensor, what: str) -> None:
    error = ((actual.double() - exact).square().mean().sqrt() / exact.std()).item()
    assert error < BFLOAT16_NEAR, f"{what} is {error:.1%} of the standard deviation off"
