"""What a running scan tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A moment of a scan. Rates are of this run; rows of earlier runs cost it nothing."""

    stage: str  # "reading headers", "scanning", "keys", "writing", "verifying"
    rows: int = 0  # done, earlier runs included
    total_rows: int = 0
    earlier_rows: int = 0  # done by runs before this one
    shard: int = 0  # shards done, earlier runs included
    shards: int = 0
    seconds: float = 0.0  # since this run began to scan
    flops: float = 0.0  # 2·rows·M·d of this run
    survivors: int = 0  # pairs that the filter let through
    refined: int = 0  # pairs whose exact score was computed
    kernel: str = ""
    noun: str = "rows"  # what they are called
    note: str = ""  # a sentence for the user, e.g. about a test set without a gap

    @property
    def new_rows(self) -> int:
        return self.rows - self.earlier_rows

    @property
    def rows_per_second(self) -> float:
        return self.new_rows / self.seconds if self.seconds > 0 else 0.0

    @property
    def flops_per_second(self) -> float:
        return self.flops / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        rate = self.rows_per_second
        return (self.total_rows - self.rows) / rate if rate > 0 else None

    @property
    def survivors_per_row(self) -> float:
        return self.survivors / self.new_rows if self.new_rows else 0.0

    @property
    def refined_per_row(self) -> float:
        return self.refined / self.new_rows if self.new_rows else 0.0


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """For callers who do not watch."""
