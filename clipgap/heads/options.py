"""How rows are labelled by heads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipgap.errors import UsageError
from clipgap.options import Options, option


@dataclass(frozen=True)
class ByHeads(Options):
    """Heads that say the domain of each row, for commands that can do without."""

    heads: Path | None = option(
        None,
        "Heads (from `clipgap domains fit`): adds the domain of each training row.",
        metavar="HEADS",
    )
    model: str | None = option(
        None,
        "The model of the embeddings that heads are for, if the store does not tell.",
        metavar="NAME",
        shown="the store's",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is not None and self.heads is None:
            raise UsageError("--model is said for heads; give them by --heads, or leave it out")
