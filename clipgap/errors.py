"""Every error a user can meet, and the exit code the command line gives it.

    ClipgapError                1   something we did wrong
    ├── UsageError              2   the call does not fit together
    ├── InputError              3   a file, a row or a setting that cannot be used
    │   └── ResumeError         3   an unfinished output was made from other inputs or settings
    ├── MissingDependency       5   a package, a compiler or a device is not there
    ├── OutOfResources          5   memory, threads, processes or open files ran out
    └── Interrupted            75   stopped on request; the same command with --resume goes on

A message names what is wrong, where (file, row, key), and what to do about it.

`ShareDone` is no error: it ends a run whose last steps need what others do.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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


class OutOfResources(ClipgapError):
    """The system has no more of something, or a limit is reached."""

    exit_code = 5

    @classmethod
    def behind(cls, error: BaseException) -> OutOfResources | None:
        """What Python, a library or a package that did not load meant to say, if it was this."""
        said = str(error)
        if isinstance(error, MemoryError) or (
            isinstance(error, ImportError) and any(words in said for words in _NOT_LOADED)
        ):
            return cls(f"memory ran out{said and f': {said}'}. {_REMEDIES[errno.ENOMEM]}")
        if isinstance(error, RuntimeError) and "can't start new thread" in said:
            return cls(f"the system starts no more threads. {_REMEDIES[errno.EAGAIN]}")
        if isinstance(error, OSError) and error.errno in _REMEDIES:
            where = f": {error.filename}" if error.filename else ""
            return cls(f"{error.strerror}{where}. {_REMEDIES[error.errno]}")
        cause = error.__cause__ if isinstance(error, ClipgapError) else None
        if isinstance(cause, OSError) and cause.errno in _REMEDIES and str(cause.strerror) in said:
            # Up to there it says of which file; what follows is advice for a full disk.
            where = said.partition(str(cause.strerror))[0]
            return cls(f"{where}{cause.strerror}. {_REMEDIES[cause.errno]}")
        if isinstance(cause, OSError) or (cause and isinstance(error, MissingDependency)):
            return cls.behind(cause)
        return None


_NOT_LOADED = ("failed to map segment", "Cannot allocate memory")
"""What the system's loader says of a library that is there but finds too little memory."""

_REMEDIES = {
    errno.ENOMEM: (
        "Free some, raise the limit (ulimit -v, the container's, the job's), or ask for less at a "
        "time: fewer --threads or --workers, smaller --block-rows or --batch-size"
    ),
    errno.EAGAIN: (
        "Raise the limit on processes or memory (ulimit -u, ulimit -v, the container's), or take "
        "fewer --threads or --workers"
    ),
    errno.EMFILE: "Raise the limit (ulimit -n), or take fewer --workers",
    errno.ENFILE: "Other programs hold them; close some, or take fewer --workers",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
}
"""By error number of the system: what to do."""


class Interrupted(ClipgapError):
    """Stopped by a signal after the last finished unit was saved."""

    exit_code = 75


@dataclass
class ShareDone(Exception):
    """A share of a run is done; the rest is up to whoever merges all shares."""

    folder: Path
    share: str
    units: int

    def __str__(self) -> str:
        return f"{self.folder}: {self.share} is done"
