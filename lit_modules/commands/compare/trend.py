"""How a difference in loss changes with the tokens that are read: a + b·D^-c, and where it is zero."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000  # of the seeds
POWERS = np.linspace(0.05, 2.0, 79)  # c: losses fall with powers from 0.05 (arXiv:2001.08361) to far above
FURTHEST = 4  # times the most tokens that were read: nothing is said of more than that
SEED = 0


class Curves(NamedTuple):
    """Δ(D) = a + b·D^-c, with D in units of the fewest tokens; each an array over what was fitted."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray

    def zeros(self) -> np.ndarray:
        """Where they are zero, in the same units; nan if nowhere."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return (-self.a / self.b) ** (-1 / self.c)


class Trend(NamedTuple):
    """Where the lines of two rows cross, in tokens, within what is looked at; nan if they do not there."""

    crossing: float  # of the means over seeds
    low: float  # of the middle 95 % of resamples of the seeds; infinite where they do not cross up to the furthest
    high: float
    crossed: float  # the fraction of resamples in which they do
    furthest: float  # tokens


def fit(tokens: np.ndarray, differences: np.ndarray) -> Curves:
    """The least squares over a and b for each c, and the best c, of differences (curves, tokens)."""
    scaled, curves = tokens / tokens.min(), len(differences)
    unknown = np.full(curves, math.nan)
    best, least = Curves(unknown, unknown, unknown), np.full(curves, math.inf)
    for c in POWERS:
        design = np.stack([np.ones_like(scaled), scaled**-c], 1)
        solution, *_ = np.linalg.lstsq(design, differences.T, rcond=None)
        errors = np.sum((design @ solution - differences.T) ** 2, 0)
        found, better = Curves(solution[0], solution[1], np.full(curves, c)), errors < least
        best = Curves(*(np.where(better, new, old) for new, old in zip(found, best, strict=True)))
        least = np.minimum(errors, least)
    return best


def trend(tokens: Sequence[float], differences: Sequence[np.ndarray]) -> Trend | None:
    """That of differences at each number of tokens, each an array over seeds; None for fewer than three numbers."""
    if len(tokens) < 3:
        return None
    at, generator = np.asarray(tokens, float), np.random.default_rng(SEED)
    furthest = FURTHEST * at.max()

    def crossings(means: np.ndarray) -> np.ndarray:
        zeros = fit(at, means).zeros() * at.min()
        return np.where((zeros >= at.min()) & (zeros <= furthest), zeros, math.nan)

    resampled = np.stack([generator.choice(each, (RESAMPLES, len(each))).mean(1) for each in differences], 1)
    found = crossings(resampled)
    low, high = np.quantile(np.nan_to_num(found, nan=math.inf), [0.025, 0.975], method="nearest")
    [of_means] = crossings(np.array([[each.mean() for each in differences]]))
    return Trend(float(of_means), float(low), float(high), float(np.isfinite(found).mean()), furthest)
