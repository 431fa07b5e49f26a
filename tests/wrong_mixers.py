"""A right mixer, and for each law a wrong one that breaks it and no other, the way such mistakes are really made."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mixers import Mixer
from mixers.mixer import state_dtype


class Sums(NamedTuple):
    total: Tensor  # (b, d)
    count: Tensor  # (b,): tokens so far


class Right(Mixer[Sums]):
    """The mean of all inputs so far and of as many zeros as would make them 8, times a factor.

    Args:
        dim: Width.
        gain: Factor.
    """

    def __init__(self, dim: int, *, gain: float = 0.5):
        super().__init__(dim)
        self.scale = nn.Parameter(torch.full((dim,), gain))

    def initial_state(self, batch) -> Sums:
        total = self.scale.new_zeros(batch, self.dim, dtype=state_dtype(self.scale))
        return Sums(total, total.new_zeros(batch, dtype=torch.long))

    def extend(self, x, state):
        return _mean_so_far(self.scale, x, state)


def _mean_so_far(scale, x, state):
    totals = x.cumsum(1, dtype=state.total.dtype) + state.total[:, None]
    count = state.count[:, None] + torch.arange(1, x.shape[1] + 1, device=x.device)
    y = totals / (count + 8).sqrt()[..., None] * scale
    return y.to(x.dtype), Sums(state.total + x.sum(1, dtype=state.total.dtype), state.count + x.shape[1])


WRONG: dict[str, type[Right]] = {}  # the law to the mixer that breaks it


def breaks(law):
    def add(mixer):
        mixer.__doc__ = mixer.__doc__ or Right.__doc__
        WRONG[law] = mixer
        return mixer

    return add


@breaks("any_split_gives_what_forward_gives")
class DetachesItsState(Right):
    def extend(self, x, state):
        return super().extend(x, Sums(state.total.detach(), state.count))


@breaks("one_token_is_a_sequence")
class TakesASingleTokenForNone(Right):
    def forward(self, x):
        return super().forward(x) if x.shape[1] > 1 else 0 * x


@breaks("the_future_changes_nothing_before_it")
class ScalesByTheWholeSequence(Right):
    def forward(self, x):
        return super().forward(x) / (x.square().mean((1, 2), keepdim=True) / 4).clamp(min=1)


@breaks("the_past_matters")
class ForgetsThePast(Right):
    def extend(self, x, state):
        return x * self.scale, state


@breaks("rows_are_independent")
class ScalesByTheWholeBatch(Right):
    def extend(self, x, state):
        y, state = super().extend(x, state)
        return y / (x.square().mean((0, 2), keepdim=True) / 4).clamp(min=1), state


@breaks("gradients_are_right")
class HasAGradientOfItsOwn(Right):
    def extend(self, x, state):
        y, state = super().extend(x, state)
        return y + (x - x.detach()), state


@breaks("every_parameter_is_used")
class HasAnUnusedParameter(Right):
    def __init__(self, dim, *, gain=0.5):
        super().__init__(dim, gain=gain)
        self.bias = nn.Parameter(torch.zeros(dim))


@breaks("a_state_is_never_changed")
class WritesIntoItsState(Right):
    def extend(self, x, state):
        y, after = super().extend(x, state)
        return y, after if torch.is_grad_enabled() else Sums(state.total.copy_(after.total), after.count)


@breaks("states_can_be_taken_by_row_and_joined")
class TakesTheFirstRowsPosition(Right):
    def extend(self, x, state):
        return super().extend(x, state._replace(count=state.count[:1].expand(len(x))))


@breaks("constant_state_tells_the_truth")
class SaysThatItsStateGrows(Right):
    constant_state = False


class SumsInATuple(NamedTuple):
    sums: tuple[Tensor, Tensor]


@breaks("a_state_is_a_tuple_of_tensors_batch_first")
class NamesNoTensor(Right, Mixer[SumsInATuple]):
    def initial_state(self, batch) -> SumsInATuple:
        return SumsInATuple(tuple(super().initial_state(batch)))

    def extend(self, x, state):
        y, after = _mean_so_far(self.scale, x, Sums(*state.sums))
        return y, SumsInATuple(tuple(after))


@breaks("decoding_gives_what_extend_gives")
class DecodesWithoutCounting(Right):
    def decode(self, x, state):
        y, after = self.extend(x, state)
        return y, after._replace(count=state.count)


@breaks("the_output_has_the_inputs_shape_and_dtype")
class IsOneNarrower(Right):
    def extend(self, x, state):
        y, state = super().extend(x, state)
        return y[..., 1:], state


class AnswersInFloat32(Right):
    __doc__ = Right.__doc__

    def extend(self, x, state):
        y, state = super().extend(x, state)
        return y.to(state_dtype(x)), state


@breaks("float32_does_not_drift")
class TurnsByPositionsInFloat32(Right):
    def extend(self, x, state):
        y, after = super().extend(x, state)
        position = state.count[:, None] + torch.arange(x.shape[1], device=x.device)
        return (y * (50.1 * position.to(state.total.dtype)).cos()[..., None]).to(x.dtype), after


@breaks("half_precision_stays_near_double")
class SubtractsLargeNumbers(Right):
    def extend(self, x, state):
        return super().extend((x + 128) - 128, state)


@breaks("half_precision_does_not_drift")
class RoundsItsState(Right):
    def initial_state(self, batch):
        total, count = super().initial_state(batch)
        return Sums(total.to(self.scale.dtype), count)

    def extend(self, x, state):
        y, after = super().extend(x, Sums(state.total.to(state_dtype(x)), state.count))
        return y, Sums(after.total.to(self.scale.dtype), after.count)


@breaks("it_compiles")
class LooksAtNumbers(Right):
    def extend(self, x, state):
        return super().extend(x if x.shape[1] == 1 or not x.isnan().any() else x.nan_to_num(), state)


@breaks("one_token_exports")
class LooksAtANumber(Right):
    def extend(self, x, state):
        return super().extend(x if x.shape[1] > 1 or not x.isnan().any() else x.nan_to_num(), state)


@breaks("it_and_its_state_pickle")
class HoldsALambda(Right):
    def __init__(self, dim, *, gain=0.5):
        super().__init__(dim, gain=gain)
        self.activation = lambda x: x


class SumsOfTheirOwn(NamedTuple):
    total: Tensor
    count: Tensor

    def __reduce__(self):
        return _sums_again, tuple(self)


def _sums_again(total, count):
    return SumsOfTheirOwn(total, count)


@breaks("a_saved_state_loads_as_weights_only")
class PicklesItsStateItsOwnWay(Right, Mixer[SumsOfTheirOwn]):
    def initial_state(self, batch) -> SumsOfTheirOwn:
        return SumsOfTheirOwn(*super().initial_state(batch))

    def extend(self, x, state):
        y, after = _mean_so_far(self.scale, x, Sums(*state))
        return y, SumsOfTheirOwn(*after)


@breaks("it_builds_on_meta")
class KeepsATableOnTheCPU(Right):
    def __init__(self, dim, *, gain=0.5):
        super().__init__(dim, gain=gain)
        self.register_buffer("table", torch.ones(dim, device="cpu"))


@breaks("no_tokens_and_no_rows_are_ordinary")
class ReshapesRows(Right):
    def initial_state(self, batch):
        total, count = super().initial_state(batch)
        return Sums(total.reshape(batch, -1), count)


@breaks("bad_input_is_refused")
class TakesAnything(Right):
    pass


# A method that is added afterwards is not checked by Mixer.
TakesAnything.extend = lambda self, x, state: _mean_so_far(self.scale, x, state)


@breaks("every_option_has_a_default_and_a_help_line")
class HasNoHelp(Right):
    """No help.

    Args:
        dim: Width.
    """
