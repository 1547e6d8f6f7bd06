"""What the page is made of: sections of figures, tables and notes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from clipgap.intervals import Interval
from clipgap.report.sources import Sources
from clipgap.report.svg import Axis, Drawing, Entry, colour_of, linear, shortened
from clipgap.report.tables import Table

MOST_LETTERS = 54
"""Of the labels below bars, all together."""

Findings = Mapping[str, Any]
"""All numbers of a report, as plain data."""


@dataclass(frozen=True)
class Figure:
    """Drawings that are looked at together, under one caption."""

    name: str
    title: str
    caption: str
    drawings: list[Drawing] = field(repr=False)
    macro: ClassVar[str] = "figure"

    @property
    def is_empty(self) -> bool:
        return not self.drawings

    def file(self, drawing: Drawing) -> str:
        """The name of a drawing's own file."""
        place = self.drawings.index(drawing) + 1
        slug = re.sub(r"[^a-z0-9]+", "-", drawing.title.lower()).strip("-")[:40]
        return f"{self.name}-{place}-{slug}.svg" if slug else f"{self.name}-{place}.svg"


@dataclass(frozen=True)
class Note:
    """A sentence between figures and tables."""

    text: str
    macro: ClassVar[str] = "note"
    is_empty: ClassVar[bool] = False


@dataclass(frozen=True)
class File:
    """A text to be read on the page, and taken along."""

    title: str
    name: str
    text: str


@dataclass(frozen=True)
class Files:
    """Texts that are folded until somebody opens them."""

    name: str  # of their folder
    title: str
    caption: str
    files: Sequence[File] = field(repr=False)
    macro: ClassVar[str] = "files"

    @property
    def is_empty(self) -> bool:
        return not self.files


Part = Figure | Table | Note | Files
"""Each says which macro of `parts.html` shows it, and whether it is empty and left out."""


@dataclass(frozen=True)
class Section:
    """Numbers that belong together, and how they are shown.

    `findings` computes entries of `report.json`. Each of `parts` makes something of all entries
    that there are, in the order of the page; what is made is shown, and has its files. A section
    without a title opens the page.
    """

    name: str
    title: str
    findings: Callable[[Sources], Findings]
    parts: Sequence[Callable[[Findings], Iterable[Part]]]

    def shown(self, findings: Findings) -> list[Part]:
        """What there is to see."""
        made = (part for make in self.parts for part in make(findings))
        return [part for part in made if not part.is_empty]


def training_colours(findings: Findings) -> dict[str, int]:
    """Each training set keeps its colour through all figures."""
    names = [name for test in findings["tests"] for name in test["training"]]
    return {name: colour_of(n) for n, name in enumerate(dict.fromkeys(names))}


def outlines(
    title: str,
    shares: dict[str, list[tuple[float, float, float]]],
    legend: Sequence[Entry],
    x_label: str,
    y_label: str,
    of_what: str,
) -> Drawing:
    """Histograms as outlines that may lie over one another."""
    lows = [bins[0][0] for bins in shares.values()]
    highs = [bins[-1][1] for bins in shares.values()]
    peak = max(share for bins in shares.values() for _, _, share in bins)
    drawing = Drawing(
        title,
        linear(min(lows) - 0.02, max(highs) + 0.02, x_label),
        linear(0, peak * 1.08, y_label, percent=True, count=4),
        legend,
    )
    for entry in legend:
        bins = shares[entry.name]
        outline = [(bins[0][0], 0.0)]
        for low, high, share in bins:
            outline += [(low, share), (high, share)]
        outline.append((bins[-1][1], 0.0))
        drawing.path(outline, f"area s{entry.colour}")
    for entry in legend:
        for low, high, share in shares[entry.name]:
            tip = f"{entry.name}: {low:.2f} to {high:.2f}, {share:.2%} {of_what}"
            drawing.bar(low, high, share, entry.colour, tip)
    return drawing


def side_by_side(names: Sequence[str]) -> Axis:
    """An axis with a place for each name."""
    letters = MOST_LETTERS // max(len(names), 1)
    ticks = [(float(n), shortened(name, letters)) for n, name in enumerate(names)]
    return Axis(-0.6, len(names) - 0.4, "", ticks)


def draw_bar(
    drawing: Drawing, middle: float, width: float, value: Interval, colour: int, tip: str
) -> None:
    """A bar from 0, with its interval where it has one."""
    left, right = middle - width / 2, middle + width / 2
    outline = [(left, 0), (left, value.value), (right, value.value), (right, 0)]
    drawing.path(outline, f"area s{colour}")
    if value.low < value.high:
        drawing.whisker(middle, value.low, value.high, colour)
    drawing.bar(left, right, value.value, colour, tip)


def spread(rows: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the rows, evenly spread over all."""
    count = min(len(rows), most)
    return [rows[place * len(rows) // count] for place in range(count)]
