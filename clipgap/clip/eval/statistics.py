"""How sure an accuracy is, and a difference between two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(correct: int, samples: int) -> Interval:
    """The share of correct samples with Wilson's score interval."""
    if samples < 1:
        raise ValueError("an accuracy needs a sample")
    share = correct / samples
    z2 = _Z * _Z
    centre = correct + z2 / 2
    spread = _Z * math.sqrt(correct * (samples - correct) / samples + z2 / 4)
    # At the ends one bound is exactly 0 or 1, which rounding may miss.
    low = 0.0 if correct == 0 else (centre - spread) / (samples + z2)
    high = 1.0 if correct == samples else (centre + spread) / (samples + z2)
    return Interval(share, low, high)


def paired_bootstrap(
    first: NDArray[np.bool_], second: NDArray[np.bool_], draws: int, seed: int
) -> Interval:
    """The difference of two accuracies on the same samples, with its percentile bootstrap.

    A sample adds 1, 0 or -1 to the difference, and drawing samples again draws from these three
    with the shares they have. So each draw is one multinomial of three counts, whatever the number
    of samples.
    """
    if first.shape != second.shape or not len(first):
        raise ValueError("a paired difference needs the same samples of both")
    n = len(first)
    better = int(np.count_nonzero(first & ~second))
    worse = int(np.count_nonzero(second & ~first))
    shares = np.array([better, worse, n - better - worse]) / n
    counts = np.random.default_rng(seed).multinomial(n, shares, size=draws)
    differences = (counts[:, 0] - counts[:, 1]) / n
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return Interval((better - worse) / n, float(low), float(high))
