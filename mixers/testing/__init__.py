"""The laws of a mixer, for everybody's mixers.

In a test file of your own package:

    import pytest
    from mixers.testing import LAWS

    @pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
    def test_my_mixer(law):
        law(MyMixer)

A law takes what builds the mixer from its width, `MyMixer` or `partial(MyMixer, num_heads=2)`. Where the mixer breaks
it, the law raises an AssertionError that says what differs and what to look for. Equal means equal in float64, to 1e-9.
"""

from collections.abc import Callable

from mixers.testing import function, interface, precision, programs, states
from mixers.testing.inputs import Build

__all__ = ["LAWS", "Build"]

LAWS: list[Callable[[Build], None]] = [
    function.any_split_gives_what_forward_gives,
    function.one_token_is_a_sequence,
    function.the_future_changes_nothing_before_it,
    function.the_past_matters,
    function.rows_are_independent,
    function.gradients_are_right,
    function.every_parameter_is_used,
    states.a_state_is_never_changed,
    states.states_can_be_taken_by_row_and_joined,
    states.constant_state_tells_the_truth,
    states.a_state_is_a_tuple_of_tensors_batch_first,
    states.decoding_gives_what_extend_gives,
    precision.the_output_has_the_inputs_shape_and_dtype,
    precision.float32_does_not_drift,
    precision.half_precision_stays_near_double,
    precision.half_precision_does_not_drift,
    programs.it_compiles,
    programs.one_token_exports,
    programs.it_and_its_state_pickle,
    programs.a_saved_state_loads_as_weights_only,
    programs.it_builds_on_meta,
    interface.no_tokens_and_no_rows_are_ordinary,
    interface.bad_input_is_refused,
    interface.every_option_has_a_default_and_a_help_line,
]
