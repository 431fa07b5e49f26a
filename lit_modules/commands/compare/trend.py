"""How a difference in loss changes with the tokens that are read: a + b·D^-c, and where it is zero."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 2000  # of what other seeds would give
POWERS = np.linspace(0.05, 2.0, 79)  # c: losses fall with powers from 0.05 (arXiv:2001.08361) to far above
FURTHEST = 4  # times the most tokens that were read: nothing is said of more than that
SEED = 0


class Curves(NamedTuple):
    """Δ(D) = a + b·D^-c, with D in units of the fewest tokens; each an array over what was fitted."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray

    def at(self, scaled: np.ndarray) -> np.ndarray:
        """Their values at numbers of tokens in those units, (curves, tokens)."""
        return self.a[:, None] + self.b[:, None] * scaled ** -self.c[:, None]

    def zeros(self) -> np.ndarray:
        """Where they are zero, in the same units; nan if nowhere."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return (-self.a / self.b) ** (-1 / self.c)


class Trend(NamedTuple):
    """Where the lines of two rows cross, in tokens, within what is looked at; nan if they do not there."""

    crossing: float  # of the means over seeds
    low: float  # of the middle 95 % of draws of what other seeds would give; infinite where they do not cross
    high: float
    crossed: float  # the fraction of draws in which they do
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


def other_seeds(differences: Sequence[np.ndarray]) -> np.ndarray:
    """Draws of the means that other seeds would give, (draws, tokens), by Student's t.

    Seeds are taken to differ as much at each number of tokens, since two of them alone say little of their spread. To
    resample so few seeds instead covers 60 to 80 % where it says 95.
    """
    generator, counts = np.random.default_rng(SEED), np.array([len(each) for each in differences])
    means = np.array([each.mean() for each in differences])
    squares = sum(np.sum((each - each.mean()) ** 2) for each in differences)
    variance = squares / generator.chisquare((counts - 1).sum(), (DRAWS, 1))
    return means + np.sqrt(variance / counts) * generator.standard_normal((DRAWS, len(counts)))


def further(tokens: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve through the mean differences, from the most tokens that were read up to the furthest."""
    beyond = np.geomspace(tokens.max(), FURTHEST * tokens.max())
    [curve] = fit(tokens, means[None]).at(beyond / tokens.min())
    return beyond, curve


def trend(tokens: Sequence[float], differences: Sequence[np.ndarray]) -> Trend | None:
    """That of differences at each number of tokens, each an array over seeds.

    None for fewer than three numbers, and where no number of tokens has two seeds.
    """
    if len(tokens) < 3 or all(len(each) < 2 for each in differences):
        return None
    at = np.asarray(tokens, float)
    furthest = FURTHEST * at.max()

    def crossings(means: np.ndarray) -> np.ndarray:
        zeros = fit(at, means).zeros() * at.min()
        return np.where((zeros >= at.min()) & (zeros <= furthest), zeros, math.nan)

    found = crossings(other_seeds(differences))
    low, high = np.quantile(np.nan_to_num(found, nan=math.inf), [0.025, 0.975], method="nearest")
    [of_means] = crossings(np.array([[each.mean() for each in differences]]))
    return Trend(float(of_means), float(low), float(high), float(np.isfinite(found).mean()), furthest)
