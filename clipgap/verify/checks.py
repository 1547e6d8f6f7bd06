"""What a verification checks, one thing after the other, and what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clipgap.runs.how import OnProgress, Progress
from clipgap.verify.problems import Problems


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
