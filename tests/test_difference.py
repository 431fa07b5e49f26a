"""How sure a difference between two rows is."""

import numpy as np
import pytest

from lit_modules.commands.compare.intervals import over_seeds, student_t, two_way

PIECES = 32  # of 2,048 tokens, as the studies score
DRAWS = 2000


@pytest.mark.parametrize(("degrees", "expected"), [(1, 12.706), (2, 4.303), (4, 2.776), (31, 2.040), (10_000, 1.960)])
def test_the_quantiles_of_students_t_are_those_of_its_tables(degrees: int, expected: float) -> None:
    assert student_t(degrees) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("between_seeds", [0.0, 0.1, 0.3, 0.6, 1.5])  # beside 1 between pieces
def test_intervals_cover_95_percent(seeds: int, between_seeds: float) -> None:
    draw = np.random.default_rng(0)
    tokens = np.full(PIECES, 2048.0)
    covered = 0
    for _ in range(DRAWS):
        of_seed = draw.normal(0, between_seeds, (seeds, 1)) * (seeds > 1)
        nats = (of_seed + draw.normal(0, 1, (1, PIECES)) + draw.normal(0, 0.7, (seeds, PIECES))) * tokens
        found = two_way(nats, tokens)
        covered += found.low <= 0 <= found.high
    assert 0.93 <= covered / DRAWS <= 0.97


def test_pieces_count_by_their_tokens() -> None:
    nats, tokens = np.array([[10.0, 20.0, 1.0]]), np.array([100.0, 100.0, 50.0])
    assert two_way(nats, tokens).mean == pytest.approx(31 / 250)


def test_seeds_that_disagree_widen_the_interval() -> None:
    pieces = np.random.default_rng(0).normal(10, 5, (1, 400))
    agree = two_way(np.repeat(pieces, 3, 0), np.full(400, 100.0))
    apart = two_way(pieces + np.array([[-20.0], [0.0], [20.0]]), np.full(400, 100.0))
    assert apart.mean == pytest.approx(agree.mean)
    assert apart.high - apart.low > 5 * (agree.high - agree.low)
    assert agree.low > 0
    assert apart.low < 0 < apart.high


def test_one_piece_of_text_gives_no_interval() -> None:
    found = two_way(np.array([[3.0]]), np.array([100.0]))
    assert found.mean == pytest.approx(0.03)
    assert np.isnan([found.low, found.high]).all()


def test_the_interval_over_seeds_is_that_of_the_paired_t_test() -> None:
    found = over_seeds(np.array([0.1, 0.2, 0.3]))
    assert found == pytest.approx((0.2, 0.2 - 0.2484, 0.2 + 0.2484), abs=1e-4)  # 4.303 * 0.1 / sqrt(3)
    alone = over_seeds(np.array([0.1]))
    assert alone.mean == 0.1
    assert np.isnan([alone.low, alone.high]).all()
