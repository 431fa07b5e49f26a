"""Laws of the function and of its state: `forward`, `extend` and `decode` are one, causal, for each row alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mixers.mixer import Mixer
from mixers.model.states import concat_states, select_rows
from mixers.testing.law import LENGTH, assert_same, clone, extend_in_pieces, law

SPLITS = [[LENGTH], [1] * LENGTH, [127, 23], [1, 64, 65, 20], [7, 63, 80]]
LARGE = 10.0  # times the usual standard deviation: what must not matter is made large, so that no maximum hides it


@law(rows=2)
@torch.enable_grad()
def any_split_gives_what_forward_gives(mixer: Mixer[Any], x: Tensor) -> None:
    """Extending over any split gives the outputs and gradients of `forward`: look for what a state does not hold, or
    is detached in it, and write nothing in place, neither the input nor a state: `a = a + b`, not `a += b`."""
    whole = _outputs_and_gradients(mixer, x, mixer)
    for lengths in SPLITS:
        pieces = _outputs_and_gradients(mixer, x, lambda x: extend_in_pieces(mixer, x, lengths)[0])  # noqa: B023
        assert_same(pieces, whole, f"extend by pieces of {lengths[:4]} differs from forward")


@law(rows=1, length=1)
def one_token_is_a_sequence(mixer: Mixer[Any], x: Tensor) -> None:
    """`forward` of a single token is `extend` by it."""
    assert_same(mixer(x), extend_in_pieces(mixer, x, [1])[0], "forward differs")


@law(rows=2)
def the_future_changes_nothing_before_it(mixer: Mixer[Any], x: Tensor) -> None:
    """Later inputs, however large, do not change an output: look for a mean, maximum or norm over time, and for a mask,
    padding or shift that is off by one."""
    for now in (1, 70, 128):
        other = torch.cat([x[:, :now], LARGE * torch.randn_like(x[:, now:])], 1)
        assert_same(mixer(other)[:, :now], mixer(x)[:, :now], f"the first {now} outputs see later inputs")


@law(rows=2, length=8)
def the_past_matters(mixer: Mixer[Any], x: Tensor) -> None:
    """The last of a few outputs depends on the first input: look for a state that is not used."""
    other = torch.cat([torch.randn_like(x[:, :1]), x[:, 1:]], 1)
    assert not torch.allclose(mixer(other)[:, -1], mixer(x)[:, -1]), "the last output is the same"


@law(rows=3)
def rows_are_independent(mixer: Mixer[Any], x: Tensor) -> None:
    """A row alone gives what it gives among others: look for a mean, maximum or norm over the batch."""
    x[[0, 2]] *= LARGE
    assert_same(mixer(x[1:2]), mixer(x)[1:2], "forward differs")
    state = extend_in_pieces(mixer, x, [100])[1]
    alone = mixer.extend(x[1:2, 100:], select_rows(state, torch.tensor([1])))[0]
    assert_same(alone, mixer.extend(x[:, 100:], state)[0][1:2], "extend differs")


@law(rows=1, length=5)
@torch.enable_grad()
def gradients_are_right(mixer: Mixer[Any], x: Tensor) -> None:
    """The gradient of the input is that of finite differences: look for detach, .data and no_grad."""
    torch.autograd.gradcheck(mixer, x.requires_grad_(), fast_mode=True)


@law(rows=1)
@torch.enable_grad()
def every_parameter_is_used(mixer: Mixer[Any], x: Tensor) -> None:
    """Every parameter has a gradient; DistributedDataParallel refuses others."""
    mixer(x).sum().backward()
    unused = [name for name, weight in mixer.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not unused, f"no output depends on {', '.join(unused)}: use it, remove it, or make it a buffer"


@law(rows=2)
def a_state_is_never_changed(mixer: Mixer[Any], x: Tensor) -> None:
    """A state can be kept and continued more than once: write `a + b`, not `a.add_(b)` or `a += b`, and let states
    share no memory that is written to."""
    state = extend_in_pieces(mixer, x, [5, 1, 1])[1]
    before, x_before = clone(state), x.clone()
    first = mixer.extend(x[:, 7:8], state)[1]
    expected = mixer.extend(x[:, 8:12], clone(first))[0]
    mixer.extend(torch.randn_like(x[:, 7:9]), state)
    assert_same(x, x_before, "extend wrote into its input")
    assert_same(state, before, "extend wrote into its state")
    assert_same(mixer.extend(x[:, 8:12], first)[0], expected, "continuing a state again changed the one after it")


@law(rows=3)
def states_can_be_taken_by_row_and_joined(mixer: Mixer[Any], x: Tensor) -> None:
    """Rows that have read different numbers of tokens continue together: look for positions that rows share."""
    read = [4, 9, 20]
    states = [select_rows(extend_in_pieces(mixer, x[:, :n], [n])[1], slice(row, row + 1)) for row, n in enumerate(read)]
    tokens = torch.stack([x[row, n : n + 12] for row, n in enumerate(read)])
    expected = torch.stack([y[n : n + 12] for y, n in zip(mixer(x), read, strict=True)])
    state = concat_states(states)
    for step in range(12):
        y, state = mixer.extend(tokens[:, step : step + 1], state)
        assert_same(y, expected[:, step : step + 1], f"token {step} after {read} others differs")


@law(rows=1)
def constant_state_tells_the_truth(mixer: Mixer[Any], x: Tensor) -> None:
    """`constant_state` is whether a state has as many elements after 100 tokens as after 10."""
    states = [extend_in_pieces(mixer, x, [length])[1] for length in (10, 100)]
    few, many = (sum(leaf.numel() for leaf in pytree.tree_leaves(state)) for state in states)
    assert (few == many) is mixer.constant_state, f"constant_state={mixer.constant_state}, but it has {few} and {many}"


@law(rows=3)
def a_state_is_a_tuple_of_tensors_batch_first(mixer: Mixer[Any], x: Tensor) -> None:
    """A state is a NamedTuple of tensors, batch first, or of such tuples; numbers are tensors (batch,)."""
    parts: list[Any] = [mixer.initial_state(3), mixer.extend(x, mixer.initial_state(3))[1]]
    for part in parts:
        if isinstance(part, Tensor):
            assert part.shape[:1] == (3,), f"a state of 3 rows holds a tensor of shape {tuple(part.shape)}"
        else:
            assert hasattr(part, "_fields"), f"a state is or holds a {type(part).__name__}"
            parts.extend(part)


@law(rows=2)
def decoding_gives_what_extend_gives(mixer: Mixer[Any], x: Tensor) -> None:
    """`decode` after `prepare_decoding` is `extend`, and so is `extend` after both and `prepare_decoding(state, 0)`:
    look for what `decode` does not update, and for what `prepare_decoding` does not carry over."""
    together = extend_in_pieces(mixer, x, [60])[1]
    early = extend_in_pieces(mixer, x, [4])[1]
    apart = concat_states([select_rows(early, slice(1)), select_rows(together, slice(1, 2))])
    for what, state, tokens in (
        ("of one length", together, x[:, 60:]),
        ("of different lengths", apart, torch.stack([x[0, 4:94], x[1, 60:]])),
    ):
        expected, after = mixer.extend(tokens[:, :30], clone(state))
        decoded, outputs = clone(state), []
        for step, token in enumerate(tokens[:, :30].split(1, 1)):
            if step % 7 == 0:  # for more than 7, so that room is left over and runs out
                decoded = mixer.prepare_decoding(decoded, 10)
            y, decoded = mixer.decode(token, decoded)
            outputs.append(y.clone())
        assert_same(torch.cat(outputs, 1), expected, f"rows {what}: outputs of decode differ")
        decoded = mixer.prepare_decoding(decoded, 0)
        both = concat_states([decoded, after])  # which fills up what has room left
        assert_same(select_rows(both, slice(2)), select_rows(both, slice(2, 4)), f"rows {what}: states differ")
        continued = mixer.extend(tokens[:, 30:], decoded)[0]
        assert_same(continued, mixer.extend(tokens[:, 30:], after)[0], f"rows {what}: extend after decode differs")


def _outputs_and_gradients(mixer: Mixer[Any], x: Tensor, run: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    learned = {name: weight for name, weight in mixer.named_parameters() if weight.requires_grad}
    inputs = {"x": x.requires_grad_()} | learned
    y = run(x)
    assert y.requires_grad, "the output has no gradient: look for detach, .data and no_grad"
    direction = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().view_as(y)  # of no symmetry
    gradients = torch.autograd.grad(y, list(inputs.values()), direction, materialize_grads=True)
    return {"y": y.detach()} | {f"gradient of {name}": g for name, g in zip(inputs, gradients, strict=True)}
