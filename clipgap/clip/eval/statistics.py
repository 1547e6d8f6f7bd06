"""How sure a difference between two accuracies is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipgap.intervals import LEVEL, Interval


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
