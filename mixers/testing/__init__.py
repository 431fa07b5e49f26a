"""The laws of a mixer, for everybody's mixers.

In a test file of your own package:

    import pytest
    from mixers.testing import LAWS

    @pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
    def test_my_mixer(law):
        law(MyMixer)

A law takes what builds the mixer from its width, `MyMixer` or `partial(MyMixer, num_heads=2)`. Where the mixer breaks
it, the law raises an AssertionError that says what must hold, what to look for and what was found. Equal means equal
in float64, to 1e-9.
"""

from mixers.testing import function, usage  # noqa: F401  (each adds its laws)
from mixers.testing.law import LAWS, Build

__all__ = ["LAWS", "Build"]
