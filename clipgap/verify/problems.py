"""What `verify` found wrong: the first few in words, all of them counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

SHOWN = 20


@dataclass
class Problems:
    """Collects problems in bounded memory, however many rows are wrong."""

    shown: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, problem: str) -> None:
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(problem)

    def add_all(self, problems: Iterable[str]) -> None:
        for problem in problems:
            self.add(problem)

    def at(self, places: NDArray[Any], describe: Callable[[Any], str]) -> None:
        """One problem a place; only those that will be shown are put into words."""
        for place in places[: SHOWN - len(self.shown)]:
            self.shown.append(describe(place))
        self.count += len(places)

    def __str__(self) -> str:
        more = [f"… and {self.count - SHOWN:,} more"] if self.count > SHOWN else []
        return "; ".join(self.shown + more)
