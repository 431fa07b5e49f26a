"""How a difference in loss changes with the tokens that are read: a + b·D^-c, and where it is zero."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000  # of the seeds
POWERS = np.linspace(0.05, 2.0, 79)  # c: losses fall with powers from 0.05 (arXiv:2001.08361) to far above
FURTHEST = 4  # times the most tokens that were read: nothing is said of more than that
SEED = 0


class Curve(NamedTuple):
    """Δ(D) = a + b·D^-c, with D in units of the fewest tokens."""

    a: float
    b: float
    c: float

    def zero(self) -> float:
        """Where it is zero, in the same units; nan if nowhere."""
        if self.b == 0 or -self.a / self.b <= 0:
            return math.nan
        return float((-self.a / self.b) ** (-1 / self.c))


class Trend(NamedTuple):
    """Where the lines of two rows cross, in tokens, within what is looked at; nan if they do not there."""

    crossing: float  # of the means over seeds
    low: float  # of the middle 95 % of resamples of the seeds; infinite where they do not cross up to the furthest
    high: float
    crossed: float  # the fraction of resamples in which they do
    furthest: float  # tokens


def fit(tokens: np.ndarray, differences: np.ndarray) -> Curve:
    """The least squares over a and b for each c, and the best c."""
    scaled, best = tokens / tokens.min(), (math.inf, Curve(math.nan, math.nan, math.nan))
    for c in POWERS:
        design = np.stack([np.ones_like(scaled), scaled**-c], 1)
        (a, b), *_ = np.linalg.lstsq(design, differences, rcond=None)
        error = float(np.sum((design @ (a, b) - differences) ** 2))
        best = min(best, (error, Curve(float(a), float(b), float(c))))
    return best[1]


def trend(tokens: Sequence[float], differences: Sequence[np.ndarray]) -> Trend | None:
    """That of differences at each number of tokens, each an array over seeds; None for fewer than three numbers."""
    if len(tokens) < 3:
        return None
    at, generator = np.asarray(tokens, float), np.random.default_rng(SEED)
    furthest = FURTHEST * at.max()

    def crossing(means: np.ndarray) -> float:
        zero = fit(at, means).zero() * at.min()
        return zero if at.min() <= zero <= furthest else math.nan

    resampled = np.stack([generator.choice(each, (RESAMPLES, len(each))).mean(1) for each in differences], 1)
    zeros = np.array([crossing(means) for means in resampled])
    low, high = np.quantile(np.nan_to_num(zeros, nan=math.inf), [0.025, 0.975], method="nearest")
    means = np.array([each.mean() for each in differences])
    return Trend(crossing(means), float(low), float(high), float(np.isfinite(zeros).mean()), furthest)
