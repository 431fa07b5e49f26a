"""Laws of the state: kept, taken by row and joined, it continues as it would have; decoding gives the same."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mixers.mixer import Mixer
from mixers.model.states import concat_states, select_rows
from mixers.testing.inputs import (
    Build,
    assert_same,
    assert_same_states,
    clone,
    extend_in_pieces,
    make_input,
    make_mixer,
)


@torch.no_grad()
def a_state_is_never_changed(build: Build) -> None:
    """A state can be kept and continued more than once."""
    mixer, x = make_mixer(build), make_input(rows=2)
    state = extend_in_pieces(mixer, x, [5, 1, 1])[1]
    before, x_before = clone(state), x.clone()
    first = mixer.extend(x[:, 7:8], state)[1]
    expected = mixer.extend(x[:, 8:12], clone(first))[0]
    mixer.extend(torch.randn_like(x[:, 7:9]), state)
    assert_same(x, x_before, "extend wrote into its input; write `a + b`, not `a.add_(b)` or `a += b`")
    assert_same_states(state, before, "extend wrote into its state; write `a + b`, not `a.add_(b)` or `a += b`")
    again = mixer.extend(x[:, 8:12], first)[0]
    assert_same(again, expected, "a state changed as the one before it was continued again; do they share memory?")


@torch.no_grad()
def states_can_be_taken_by_row_and_joined(build: Build) -> None:
    """Rows that have read different numbers of tokens continue together."""
    mixer, x = make_mixer(build), make_input(rows=3)
    read = [4, 9, 20]
    states = [select_rows(extend_in_pieces(mixer, x[:, :n], [n])[1], slice(row, row + 1)) for row, n in enumerate(read)]
    state, outputs = concat_states(states), []
    for step in range(12):
        tokens = torch.stack([x[row, n + step] for row, n in enumerate(read)])
        y, state = mixer.extend(tokens[:, None], state)
        outputs.append(y)
    whole = mixer(x)
    expected = torch.stack([whole[row, n : n + 12] for row, n in enumerate(read)])
    what = f"rows after {read} tokens give together not what they give alone"
    assert_same(torch.cat(outputs, 1), expected, f"{what}; look for positions and lengths that rows share")


@torch.no_grad()
def constant_state_tells_the_truth(build: Build) -> None:
    """`constant_state` is whether a state has as many elements after 100 tokens as after 10."""
    mixer, x = make_mixer(build), make_input(rows=1)
    sizes = [_elements(extend_in_pieces(mixer, x[:, :length], [length])[1]) for length in (10, 100)]
    found = f"the state has {sizes[0]} elements after 10 tokens and {sizes[1]} after 100"
    assert (sizes[0] == sizes[1]) is mixer.constant_state, f"constant_state={mixer.constant_state}, but {found}"


def a_state_is_a_tuple_of_tensors_batch_first(build: Build) -> None:
    """A NamedTuple, as are those within it."""
    mixer, x = make_mixer(build), make_input(rows=3)
    for state in (mixer.initial_state(3), mixer.extend(x, mixer.initial_state(3))[1]):
        _assert_named_tuples_of_tensors(state, rows=3)


@torch.no_grad()
def decoding_gives_what_extend_gives(build: Build) -> None:
    """`prepare_decoding` and `decode`, prepared several times; and `prepare_decoding(state, 0)` continues as before."""
    mixer, x = make_mixer(build), make_input(rows=2)
    _, together = extend_in_pieces(mixer, x[:, :60], [60])
    early = extend_in_pieces(mixer, x[:, :4], [4])[1]
    apart = concat_states([select_rows(early, slice(1)), select_rows(together, slice(1, 2))])
    advice = "look for what decode does not update, and for what prepare_decoding does not carry over"
    for what, state, tokens in (
        ("rows of one length", together, x[:, 60:]),
        ("rows of different lengths", apart, torch.stack([x[0, 4:94], x[1, 60:]])),
    ):
        expected, after = mixer.extend(tokens[:, :30], clone(state))
        outputs, decoded = _decoded(mixer, tokens[:, :30], clone(state))
        assert_same(outputs, expected, f"{what}: outputs of decode and of extend differ; {advice}")
        plain = mixer.prepare_decoding(decoded, 0)
        both = concat_states([plain, after])  # which fills up what has room left
        decoded, extended = (select_rows(both, rows) for rows in (slice(2), slice(2, None)))
        assert_same_states(decoded, extended, f"{what}: states after decode and after extend differ; {advice}")
        continued = mixer.extend(tokens[:, 30:], plain)[0]
        assert_same(continued, mixer.extend(tokens[:, 30:], after)[0], f"{what}: extend after decode differs; {advice}")


def _decoded(mixer: Mixer[Any], x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Prepared for 10 tokens every 7 of them, so that room is left over and runs out."""
    outputs = []
    for piece in x.split(7, 1):
        state = mixer.prepare_decoding(state, 10)
        for token in piece.split(1, 1):
            y, state = mixer.decode(token, state)
            outputs.append(y.clone())
    return torch.cat(outputs, 1), state


def _assert_named_tuples_of_tensors(state: Any, rows: int) -> None:
    if isinstance(state, Tensor):
        assert state.shape[:1] == (rows,), f"a state of {rows} rows holds a tensor of shape {tuple(state.shape)}"
        return
    named, kind = isinstance(state, tuple) and hasattr(state, "_fields"), type(state).__name__
    assert named, f"a state is or holds a {kind}: write a NamedTuple of tensors, numbers as tensors (batch,)"
    for part in state:
        _assert_named_tuples_of_tensors(part, rows)


def _elements(state: Any) -> int:
    return sum(leaf.numel() for leaf in pytree.tree_leaves(state))
