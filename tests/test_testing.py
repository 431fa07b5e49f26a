"""The laws can fail: each has a wrong mixer that breaks it and no other."""

import pytest
from wrong_mixers import WRONG, AnswersInFloat32, Right

from mixers.testing import LAWS

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
