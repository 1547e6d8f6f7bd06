"""How much is tried: enough for every change, or all with CLIPGAP_THOROUGH=1 (`make thorough`).

Nothing here is random: the same is tried each time, so what fails once fails again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

THOROUGH = bool(os.environ.get("CLIPGAP_THOROUGH"))


def examples(count: int) -> Any:
    """For a test: so many examples of a property that is quickly tried, where 25 are the rule."""
    from hypothesis import settings  # this file is also for those who need none

    return settings(max_examples=max(count, settings().max_examples) if THOROUGH else count)


def spread(count: int, most: int | None) -> list[int]:
    """So many of the numbers 1 to `count`, the first and the last among them; None is all.

    If it is to be one, it is the middle.
    """
    if THOROUGH or most is None or most >= count:
        return list(range(1, count + 1))
    if most == 1:
        return [(count + 1) // 2]
    return sorted({1 + i * (count - 1) // max(1, most - 1) for i in range(most)})


def one_of_each(kinds: Sequence[str], most: int | None) -> list[int]:
    """Numbers of writes, by their kinds: the first of all, and the last of each kind."""
    if THOROUGH:
        return spread(len(kinds), None)
    last = sorted({1, *{kind: number for number, kind in enumerate(kinds, 1)}.values()})
    return [last[number - 1] for number in spread(len(last), most)]
