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


def lower_bound(successes: int, trials: int, level: float = LEVEL) -> float:
    """Clopper and Pearson's one-sided bound: the least share under which so many successes, or
    more, among independent trials are no rarer than 1 - level. 0 if there was none.
    """
    if not successes:
        return 0.0
    failures = trials - successes
    ways = [_log_choose(trials, j) for j in range(failures + 1)]

    def chance(share: float) -> float:
        """Of at most so many failures."""
        success, failure = math.log(share), math.log1p(-share)
        terms = (w + (trials - j) * success + j * failure for j, w in enumerate(ways))
        return math.fsum(map(math.exp, terms))

    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (low, middle) if chance(middle) > 1 - level else (middle, high)
    return low


def clopper_pearson(successes: int, trials: int) -> Interval:
    """The share of successes among independent trials, with the exact interval of 95 %."""
    level = (1 + LEVEL) / 2
    high = 1 - lower_bound(trials - successes, trials, level)
    return Interval(successes / trials, lower_bound(successes, trials, level), high)


def trials_for(share: float, level: float = LEVEL) -> int:
    """How many trials without a failure it takes for a lower bound of this share."""
    return math.ceil(math.log(1 - level) / math.log(share)) if 0 < share < 1 else 1


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
