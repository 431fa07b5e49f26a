"""The laws can fail: each has a wrong mixer that breaks it and no other."""

import pytest
from torch.utils import _pytree as pytree
from wrong_mixers import WRONG, AnswersInFloat32, HasAnUnusedParameter, Right, Sums

import mixers
from mixers.testing import LAWS, function, usage

NAMES = [law.__name__ for law in LAWS]


def broken_by(build):
    broken = set()
    for law in LAWS:
        try:
            law(build)
        except AssertionError:
            broken.add(law.__name__)
    return broken


def test_a_right_mixer_breaks_no_law():
    assert broken_by(Right) == set()


def test_every_law_has_a_wrong_mixer():
    assert list(WRONG) == NAMES


@pytest.mark.parametrize("law", NAMES)
def test_a_wrong_mixer_breaks_its_law_and_no_other(law):
    assert broken_by(WRONG[law]) == {law}


def test_an_output_that_is_always_float32_is_found():
    assert broken_by(AnswersInFloat32) == {"the_output_has_the_inputs_shape_and_dtype"}


class LooksAhead(Right):
    def forward(self, x):
        return super().forward(x) + 0.1 * x.flip(1)


class ForgetsItsState(Right):
    def extend(self, x, state):
        return super().extend(x, self.initial_state(len(x)))


class HidesThatItWritesIntoItsState(Right):
    def extend(self, x, state):
        y, after = super().extend(x, state)
        state.total.data.add_(1)
        return y, after


class MixesRows(Right):
    def extend(self, x, state):
        y, state = super().extend(x, state)
        return y + y.mean(0), state


class StopsGradients(Right):
    def forward(self, x):
        return super().forward(x.detach()) + 0 * x


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        (LooksAhead, function.the_future_changes_nothing_before_it),
        (ForgetsItsState, function.any_split_gives_what_forward_gives),
        (HidesThatItWritesIntoItsState, function.a_state_is_never_changed),
        (MixesRows, function.rows_are_independent),
        (StopsGradients, function.gradients_are_right),
    ],
)
def test_a_mistake_that_breaks_several_laws_breaks_its_own(wrong, law):
    with pytest.raises(AssertionError):
        law(wrong)


class AddsToItsState(Right):
    def extend(self, x, state):
        y, after = super().extend(x, state)
        return y + 0 * y * state.total[:, None], Sums(state.total.add_(x.sum(1)), after.count)


class GivesNoGradient(Right):
    def extend(self, x, state):
        y, state = super().extend(x, state)
        return y.detach(), state


@pytest.mark.parametrize(
    ("wrong", "law", "message"),
    [
        (AddsToItsState, function.any_split_gives_what_forward_gives, r"write nothing in place.*`a = a \+ b`"),
        (GivesNoGradient, function.any_split_gives_what_forward_gives, "no gradient: look for detach"),
        (HasAnUnusedParameter, function.every_parameter_is_used, "no output depends on bias: use it"),
    ],
)
def test_a_law_says_what_to_look_for_where_autograd_would_not(wrong, law, message):
    with pytest.raises(AssertionError, match=message):
        law(wrong)


@pytest.mark.parametrize("name", ["h3", "linear_attention", "retention", "rwkv", "s4d"])
def test_a_sum_that_is_kept_in_half_precision_is_found_in_every_mixer(name):
    class Rounding(mixers.get(name)):
        def extend(self, x, state):
            y, state = super().extend(x, state)
            return y, pytree.tree_map(lambda t: t.bfloat16().to(t.dtype) if t.is_floating_point() else t, state)

    with pytest.raises(AssertionError, match="keep what adds up in float32"):
        usage.half_precision_does_not_drift(Rounding)
