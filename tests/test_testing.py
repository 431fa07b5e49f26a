"""The laws can fail: each wrong mixer breaks just those it should."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from mixers import Mixer
from mixers.testing import LAWS


class Sum(NamedTuple):
    total: Tensor


class RunningMean(Mixer[Sum]):
    """A right one: the mean of all inputs so far, up to a factor.

    Args:
        dim: Width.
        gain: Factor.
    """

    def __init__(self, dim: int, *, gain: float = 0.5):
        super().__init__(dim)
        self.scale = nn.Parameter(torch.full((dim,), gain))

    def initial_state(self, batch):
        return Sum(self.scale.new_zeros(batch, self.dim, dtype=torch.promote_types(self.scale.dtype, torch.float32)))

    def extend(self, x, state):
        total = x.cumsum(1, dtype=state.total.dtype) + state.total[:, None]
        return (total * self.scale).to(x.dtype), Sum(total[:, -1])


class LooksAhead(RunningMean):
    __doc__ = RunningMean.__doc__

    def forward(self, x):
        return super().forward(x) + 0.1 * x.flip(1)


class ForgetsItsState(RunningMean):
    __doc__ = RunningMean.__doc__

    def extend(self, x, state):
        return super().extend(x, self.initial_state(len(x)))


class WritesIntoItsState(RunningMean):
    __doc__ = RunningMean.__doc__

    def extend(self, x, state):
        y, after = super().extend(x, state)
        state.total.data.add_(1)
        return y, after


class MixesRows(RunningMean):
    __doc__ = RunningMean.__doc__

    def extend(self, x, state):
        y, state = super().extend(x, state)
        return y + y.mean(0), state


class LiesAboutItsState(RunningMean):
    __doc__ = RunningMean.__doc__
    constant_state = False


class SeesOneToken(RunningMean):
    __doc__ = RunningMean.__doc__

    def extend(self, x, state):
        return x * self.scale, state


class StopsGradients(RunningMean):
    __doc__ = RunningMean.__doc__

    def forward(self, x):
        return super().forward(x.detach()) + 0 * x


class HasNoHelp(RunningMean):
    """No help.

    Args:
        dim: Width.
    """


def broken_by(build):
    broken = set()
    for law in LAWS:
        try:
            law(build)
        except AssertionError:
            broken.add(law.__name__)
    return broken


def test_a_right_mixer_breaks_no_law():
    assert broken_by(RunningMean) == set()


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        (LooksAhead, "the_future_changes_nothing_before_it"),
        (ForgetsItsState, "any_split_gives_what_forward_gives"),
        (WritesIntoItsState, "a_state_is_never_changed"),
        (MixesRows, "rows_are_independent"),
        (LiesAboutItsState, "constant_state_tells_the_truth"),
        (SeesOneToken, "the_past_matters"),
        (StopsGradients, "gradients_are_right"),
        (HasNoHelp, "every_option_has_a_default_and_a_help_line"),
    ],
)
def test_a_wrong_mixer_breaks_the_law_it_should(wrong, law):
    assert law in broken_by(wrong)
