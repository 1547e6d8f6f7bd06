"""Every error a user can meet, and the exit code the command line gives it.

    ClipgapError                1   something we did wrong
    ├── UsageError              2   the call does not fit together
    ├── InputError              3   a file, a row or a setting that cannot be used
    │   └── ResumeError         3   an unfinished output was made from other inputs or settings
    ├── MissingDependency       5   a package, a compiler or a device is not there
    └── Interrupted            75   stopped on request; the same command with --resume goes on

A message names what is wrong, where (file, row, key), and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence

QUARANTINED = 4
"""Exit code that is no error: finished, but something was set aside."""


class ClipgapError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UsageError(ClipgapError):
    """Arguments that do not fit together."""

    exit_code = 2


class InputError(ClipgapError):
    """Input that cannot be used as it is."""

    exit_code = 3

    @classmethod
    def listing(cls, headline: str, problems: Sequence[str], shown: int = 20) -> InputError:
        """One error for many problems, so that a user mends them all in one go."""
        lines = [f"  - {problem}" for problem in problems[:shown]]
        if len(problems) > shown:
            lines.append(f"  … and {len(problems) - shown:,} more")
        return cls("\n".join([headline, *lines]))


class ResumeError(InputError):
    """An unfinished output that belongs to another plan."""


class MissingDependency(ClipgapError):
    """A package, compiler or device that the chosen way needs."""

    exit_code = 5


class Interrupted(ClipgapError):
    """Stopped by a signal after the last finished unit was saved."""

    exit_code = 75
