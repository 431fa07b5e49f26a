"""How sure a difference between two rows is."""

import numpy as np
import pytest

from lit_modules.commands.compare.results import bootstrap


def test_a_bootstraps_interval_is_that_of_the_normal_distribution_where_it_should_be() -> None:
    draw = np.random.default_rng(0)
    nats = draw.normal(0.1 * 100, 5, (1, 400))  # pieces of 100 tokens, 0.1 nats per token apart
    found = bootstrap(nats, np.full(400, 100.0))
    error = nats.std() / 100 / 400**0.5
    assert found.mean == pytest.approx(nats.mean() / 100)
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.1 * error)


def test_seeds_that_disagree_widen_the_interval() -> None:
    pieces = np.random.default_rng(0).normal(10, 5, (1, 400))
    agree = bootstrap(np.repeat(pieces, 3, 0), np.full(400, 100.0))
    apart = bootstrap(pieces + np.array([[-20.0], [0.0], [20.0]]), np.full(400, 100.0))
    assert apart.mean == pytest.approx(agree.mean)
    assert apart.high - apart.low > 5 * (agree.high - agree.low)
    assert agree.low > 0
    assert apart.low < 0 < apart.high


def test_one_piece_of_text_gives_no_interval() -> None:
    found = bootstrap(np.array([[3.0]]), np.array([100.0]))
    assert found.mean == pytest.approx(0.03)
    assert np.isnan([found.low, found.high]).all()
