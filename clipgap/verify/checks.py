"""What a verification checks, one thing after the other, and what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from clipgap.runs.how import OnProgress, Progress

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


@dataclass(frozen=True)
class Check:
    """One thing that was checked; `detail` names what is wrong, or how much was right."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found."""

    path: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


class Checks:
    """Checks as they are made."""

    def __init__(self, report: OnProgress) -> None:
        self.done: list[Check] = []
        self._report = report

    @property
    def all_good(self) -> bool:
        return all(check.ok for check in self.done)

    def make(self, name: str, look: Callable[..., str], *arguments: object) -> None:
        """`look` adds to the problems that it is given, and says what it looked at."""
        self._report(Progress(stage="verifying", at=name))
        problems = Problems()
        seen = look(*arguments, problems)
        self.add(name, problems, seen)

    def add(self, name: str, problems: Problems, seen: str) -> None:
        self.done.append(Check(name, not problems.count, str(problems) or seen))
