"""Differences with intervals that cover what they say."""

import math
from functools import cache
from typing import NamedTuple

import numpy as np

COVERED = 0.95
STEPS = 100_000  # of an integral


class Difference(NamedTuple):
    """The mean of a row minus that of another, with the 95 % interval, nan if unknown."""

    mean: float
    low: float
    high: float


def two_way(nats: np.ndarray, tokens: np.ndarray) -> Difference:
    """The interval of a mean difference over seeds and pieces of text, both drawn at random (Howe's approximation).

    The variance of the mean is that between pieces and, beside it, that between seeds; each counts with its own
    Student's t, so that few seeds widen the interval as they should. With one seed only the pieces vary, and the
    interval says nothing of other seeds.

    Args:
        nats: Summed differences, (seeds, pieces).
        tokens: In each piece, (pieces,).

    Returns:
        The difference in nats per token.
    """
    seeds, pieces = nats.shape
    mean = float(nats.sum() / seeds / tokens.sum())
    if pieces == 1:
        return Difference(mean, math.nan, math.nan)
    apart = (nats - mean * tokens) / tokens.mean()
    of_seeds, of_pieces = apart.mean(1, keepdims=True), apart.mean(0, keepdims=True)
    square = student_t(pieces - 1) ** 2 * seeds * np.sum(of_pieces**2) / (pieces - 1)
    if seeds > 1:
        rest = np.sum((apart - of_seeds - of_pieces) ** 2) / (seeds - 1) / (pieces - 1)
        between = pieces * np.sum(of_seeds**2) / (seeds - 1) - rest
        square += student_t(seeds - 1) ** 2 * max(between, 0.0)
    half = math.sqrt(square / seeds / pieces)
    return Difference(mean, mean - half, mean + half)


def over_seeds(apart: np.ndarray) -> Difference:
    """The interval of a mean difference over seeds, (seeds,), by Student's t; one seed gives none."""
    seeds = len(apart)
    mean = float(apart.mean()) if seeds else math.nan
    half = student_t(seeds - 1) * float(apart.std(ddof=1)) / math.sqrt(seeds) if seeds > 1 else math.nan
    return Difference(mean, mean - half, mean + half)


@cache
def student_t(degrees: int) -> float:
    """How many standard errors to each side cover 95 % with so many degrees of freedom."""
    # With x = sqrt(n) tan u the density is cos(u)^(n-1), up to a factor, over a bounded range.
    edges = np.linspace(0, math.pi / 2, STEPS + 1)
    density = np.cos((edges[:-1] + edges[1:]) / 2) ** (degrees - 1)
    covered = np.concatenate([[0.0], np.cumsum(density) / np.sum(density)])
    return math.sqrt(degrees) * math.tan(float(np.interp(COVERED, covered, edges)))
