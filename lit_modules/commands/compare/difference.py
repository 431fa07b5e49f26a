"""How much one row is worse than another, and how sure that is."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lit_modules.commands.compare.results import RowResult

DRAWS = 10_000
COVERED = 0.95


class Difference(NamedTuple):
    """Mean loss of a row minus that of another, in nats a token, with the interval that covers 95 %, nan if unknown."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def difference(row: RowResult, other: RowResult, corpus: str) -> Difference | None:
    """A paired bootstrap over seeds and pieces of text; None where the two have no seed in common.

    Runs with the same seed read the same text in the same order, and both are tested on the same pieces, so each
    pair of (seed, piece) gives one difference. Seeds and pieces are drawn anew with replacement, all pieces with the
    same seeds; with one seed only the pieces vary, and the interval says nothing of other seeds.
    """
    ours = {result.run.seed: result.pieces[corpus] for result in row.results}
    theirs = {result.run.seed: result.pieces[corpus] for result in other.results}
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    nats = np.array([ours[seed][:, 1] - theirs[seed][:, 1] for seed in seeds])
    return bootstrap(nats, tokens=ours[seeds[0]][:, 0])


def bootstrap(nats: np.ndarray, tokens: np.ndarray, *, seed: int = 0) -> Difference:
    """The interval of a mean difference.

    Args:
        nats: Summed differences, (seeds, pieces).
        tokens: In each piece, (pieces,).
        seed: Of the draws.
    """
    seeds, pieces = nats.shape
    mean = float(nats.sum() / seeds / tokens.sum())
    if pieces == 1:
        return Difference(mean, math.nan, math.nan)
    draw = np.random.default_rng(seed)
    seed_counts = draw.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS)
    piece_counts = draw.multinomial(pieces, np.full(pieces, 1 / pieces), DRAWS)
    sums = ((seed_counts @ nats) * piece_counts).sum(1) / seeds
    low, high = np.quantile(sums / (piece_counts @ tokens), [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return Difference(mean, float(low), float(high))


def spread(losses: Sequence[float]) -> float | None:
    """The sample standard deviation; None of fewer than two."""
    return float(np.std(losses, ddof=1)) if len(losses) > 1 else None
