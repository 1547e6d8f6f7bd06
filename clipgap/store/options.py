"""What is said of stores: whether they may meet, and whether they are whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgap.files.naming import allowing_missing
from clipgap.options import Options, option


@dataclass(frozen=True)
class Mixing(Options):
    """Whether stores of different models may meet."""

    mixed_models: bool = option(
        False, "Go on although the stores were embedded by different models."
    )


@dataclass(frozen=True)
class Gaps(Options):
    """Whether shards may be missing from the stores that are named."""

    allow_missing: bool = option(
        False, "Take stores from whose sequence of shards numbers are missing, as a killed run's."
    )

    def named(self, source: Any) -> Any:
        """A store as it was named; the leave is part of the name, for whoever opens it again."""
        if self.allow_missing and isinstance(source, str | Path):
            return allowing_missing(str(source))
        return source
