"""How sure a share is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: float, trials: float) -> Interval:
    """The share of successes among independent trials, with Wilson's score interval.

    Without a trial nothing is known: the interval is all there is.
    """
    if trials <= 0:
        return Interval(0.0, 0.0, 1.0)
    share = successes / trials
    z2 = _Z * _Z
    centre = successes + z2 / 2
    spread = _Z * math.sqrt(successes * (trials - successes) / trials + z2 / 4)
    # At the ends one bound is exactly 0 or 1, which rounding may miss.
    low = 0.0 if successes == 0 else max(0.0, (centre - spread) / (trials + z2))
    high = 1.0 if successes == trials else min(1.0, (centre + spread) / (trials + z2))
    return Interval(share, low, high)
