"""How a difference changes with the tokens that are read, and where it is zero."""

import math

import numpy as np
import pytest

from lit_modules.commands.compare.trend import FURTHEST, fit, trend

TOKENS = np.array([2e6, 8e6, 32e6])


@pytest.mark.parametrize(("a", "b", "c"), [(0.1, -0.4, 0.5), (-0.2, -0.3, 0.3), (0.05, -0.2, 1.0)])
def test_a_curve_of_that_form_is_found_again(a: float, b: float, c: float) -> None:
    found = fit(TOKENS, np.array([a + b * (TOKENS / TOKENS[0]) ** -c]))
    assert np.concatenate(found) == pytest.approx((a, b, c), abs=0.02)


def test_lines_that_cross_are_said_to_cross_there() -> None:
    zero = 20e6  # tokens
    curve = 0.1 - 0.1 * (TOKENS / zero) ** -0.5
    noise = np.random.default_rng(0).normal(0, 1e-4, (3, 5))
    found = trend(TOKENS, list(curve[:, None] + noise))
    assert found is not None
    assert found.crossing == pytest.approx(zero, rel=0.05)
    assert found.low < zero < found.high
    assert found.crossed == 1


def test_a_crossing_beyond_what_is_looked_at_is_none() -> None:
    curve = 0.1 - 0.1 * (TOKENS / (2 * FURTHEST * TOKENS[-1])) ** -0.5
    found = trend(TOKENS, [np.array([value, value + 1e-6]) for value in curve])
    assert found is not None
    assert math.isnan(found.crossing)
    assert (found.high, found.crossed) == (math.inf, 0)


def test_two_budgets_have_no_trend() -> None:
    assert trend(TOKENS[:2], [np.zeros(2), np.zeros(2)]) is None


def test_one_seed_everywhere_has_no_trend() -> None:
    assert trend(TOKENS, [np.zeros(1)] * 3) is None


@pytest.mark.parametrize(("a", "b", "c"), [(0.16, -0.363, 0.27), (0.1, -0.3, 0.8)])
def test_intervals_cover_95_percent(a: float, b: float, c: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_modules.commands.compare.trend.DRAWS", 500)
    curve, zero = a + b * (TOKENS / TOKENS[0]) ** -c, TOKENS[0] * (-a / b) ** (-1 / c)
    draw, covered, studies = np.random.default_rng(0), 0, 1000
    for _ in range(studies):
        found = trend(TOKENS, [draw.normal(mean, 0.006, seeds) for mean, seeds in zip(curve, (5, 3, 2), strict=True)])
        assert found is not None
        covered += found.low <= zero <= found.high
    assert 0.93 <= covered / studies <= 0.97
