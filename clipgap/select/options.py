"""What is said of a split on the command line; the Python API takes a rule and a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from clipgap.options import Options, option

Operation = Literal["union", "intersection", "difference"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
CAPTION = "a photo of a {class}"


@dataclass(frozen=True)
class RuleOptions(Options):
    """Which rows are kept; exactly one rule a call."""

    prune: tuple[str, ...] = option(
        (),
        "Drop rows nearer to a point of this test set than its threshold. Repeatable.",
        metavar="NAME",
    )
    offset: float = option(0.0, "Prune where the similarity exceeds τ + δ.", metavar="δ")
    below: float | None = option(
        None,
        "Keep the rows whose similarity to every test point of --by is at most S.",
        metavar="S",
        min=-1,
        max=1,
    )
    near: int | None = option(
        None, "Keep the N rows least similar to the test sets of --by.", metavar="N"
    )
    far: int | None = option(
        None, "Keep the N rows most similar to the test sets of --by.", metavar="N"
    )
    core: int | None = option(
        None, "As --far, by the highest similarity to any of --by.", metavar="N"
    )
    by: tuple[str, ...] = option(
        (), "Test set that --below, --near, --far, --core go by. Repeatable.", metavar="NAME"
    )
    rand: int | None = option(None, "Keep N rows at random.", metavar="N")
    seed: int = option(0, "For --rand: any number.", metavar="S")
    where: tuple[str, ...] = option(
        (),
        "Keep rows with this label, or COLUMN!=VALUE without it; VALUE,VALUE for any of several. "
        "Repeatable: all must hold.",
        metavar="COLUMN=VALUE",
    )
    labels: str | None = option(
        None, "Labels for --where: parquet or CSV with a key column.", metavar="FILE"
    )
    union: bool = option(False, "Keep what is in any keep-list.")
    intersection: bool = option(False, "Keep what is in all keep-lists.")
    difference: bool = option(False, "Keep what is in the first keep-list and in no other.")

    def given(self) -> list[str]:
        """The rules that were asked for."""
        numbers = [name for name in _NUMBERS if getattr(self, name) is not None]
        others = ("prune", "where", *OPERATIONS)
        return numbers + [name for name in others if getattr(self, name)]


_NUMBERS = ("below", "near", "far", "core", "rand")


@dataclass(frozen=True)
class ReferenceOptions(Options):
    """A reference set that joins the split."""

    with_reference: str | None = option(
        None, "Add all samples of this reference set, with captions.", metavar="STORE"
    )
    reference_classes: str | None = option(
        None,
        "Their classes: parquet or CSV with the columns key and class.",
        metavar="FILE",
    )
    caption: str = option(
        CAPTION, "Their captions; {class} is the name of the class.", metavar="TEXT"
    )
