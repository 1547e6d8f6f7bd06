"""A small drawing: axes, marks and a legend as SVG whose colours are left to a style sheet.

Shapes carry classes only (`assets/chart.css`), so that one drawing serves light and dark pages and,
with the style sheet inside, stands alone as a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 400, 276
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 34, 46
COLOURS = 8
_GLYPH = 5.7  # mean width of a character of the legend
_LINE = 17

Transform = Callable[[float], float]


@dataclass(frozen=True)
class Axis:
    """A range of values, where its ticks are, and how values become places."""

    low: float
    high: float
    label: str
    ticks: Sequence[tuple[float, str]]
    transform: Transform = float

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        low, high = self.transform(self.low), self.transform(self.high)
        return (self.transform(value) - low) / (high - low)


@dataclass(frozen=True)
class Entry:
    """A series in the legend."""

    name: str
    colour: int
    mark: str = "area"  # or "dot", "line"


@dataclass
class Drawing:
    """Marks on axes, in the order in which they are added."""

    title: str
    x: Axis
    y: Axis
    legend: Sequence[Entry] = ()
    _marks: list[str] = field(default_factory=list)

    @property
    def _rows(self) -> list[list[tuple[Entry, float]]]:
        """The legend, broken into lines, with the place of each entry."""
        rows: list[list[tuple[Entry, float]]] = [[]]
        at = 0.0
        for entry in self.legend:
            width = 36 + _GLYPH * len(shortened(entry.name))
            if at and at + width > WIDTH - LEFT - RIGHT:
                rows.append([])
                at = 0.0
            rows[-1].append((entry, at))
            at += width
        return rows if self.legend else []

    @property
    def _top(self) -> float:
        return TOP + _LINE * len(self._rows)

    @property
    def _height(self) -> float:
        return HEIGHT + _LINE * max(0, len(self._rows) - 1)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a value."""
        right, bottom = WIDTH - RIGHT, self._height - BOTTOM
        return (
            LEFT + self.x.place(x) * (right - LEFT),
            bottom - self.y.place(y) * (bottom - self._top),
        )

    def path(self, points: Sequence[tuple[float, float]], classes: str) -> None:
        places = " ".join(
            f"{'L' if n else 'M'}{_n(x)} {_n(y)}"
            for n, (x, y) in enumerate(self.at(*point) for point in points)
        )
        self._marks.append(f'<path class="{classes}" d="{places}"/>')

    def dot(self, x: float, y: float, colour: int, tip: str = "") -> None:
        """A point, with a shape that tells series apart without colour."""
        shape = _shape(colour, *self.at(x, y))
        self._marks.append(f'<g class="dot s{colour}">{shape}{_tip(tip)}</g>')

    def whisker(self, x: float, low: float, high: float, colour: int) -> None:
        (place, bottom), (_, top) = self.at(x, low), self.at(x, high)
        self._marks.append(
            f'<path class="whisker s{colour}" d="M{_n(place)} {_n(bottom)}V{_n(top)}"/>'
        )

    def note(self, x: float, y: float, text: str) -> None:
        """Words above a place."""
        left, bottom = self.at(x, y)
        self._marks.append(
            f'<text class="key mid" x="{_n(left)}" y="{_n(bottom - 6)}">{escape(text)}</text>'
        )

    def bar(self, low: float, high: float, count: float, colour: int, tip: str) -> None:
        """An invisible area that answers the pointer."""
        (left, top), (right, bottom) = self.at(low, count), self.at(high, self.y.low)
        self._marks.append(
            f'<rect class="hit s{colour}" x="{_n(left)}" y="{_n(top)}" width="{_n(right - left)}" '
            f'height="{_n(max(0.0, bottom - top))}">{_tip(tip)}</rect>'
        )

    def render(self, style: str = "") -> str:
        """The drawing as text; with `style` it is a document of its own."""
        alone = ' xmlns="http://www.w3.org/2000/svg"' if style else ""
        parts = [
            f'<svg{alone} class="chart" viewBox="0 0 {WIDTH} {_n(self._height)}" role="img" '
            f'aria-label="{escape(self.title)}">',
            f"<style>{style}</style>" if style else "",
            f'<text class="title" x="{LEFT}" y="18">{escape(self.title)}</text>',
            *self._legend(),
            *self._axes(),
            *self._marks,
            "</svg>",
        ]
        return "\n".join(part for part in parts if part) + "\n"

    def _legend(self) -> list[str]:
        found = []
        for line, entries in enumerate(self._rows):
            y = TOP + 2 + line * _LINE
            for entry, at in entries:
                x = LEFT + at
                colour = entry.colour
                sign = {
                    "area": f'<rect class="swatch s{colour}" x="{_n(x)}" y="{y - 8}" width="13" '
                    'height="9" rx="1.5"/>',
                    "line": f'<path class="rule" d="M{_n(x)} {y - 4}h14"/>',
                    "dot": f'<g class="dot s{colour}">{_shape(colour, x + 6, y - 3.5)}</g>',
                }[entry.mark]
                text = escape(shortened(entry.name))
                found.append(f'{sign}<text class="key" x="{_n(x + 18)}" y="{y}">{text}</text>')
        return found

    def _axes(self) -> list[str]:
        right, bottom = WIDTH - RIGHT, self._height - BOTTOM
        middle = (self._top + bottom) / 2
        found = []
        for value, text in self.y.ticks:
            _, y = self.at(self.x.low, value)
            found.append(f'<path class="grid" d="M{LEFT} {_n(y)}H{right}"/>')
            found.append(f'<text class="tick end" x="{LEFT - 7}" y="{_n(y + 4)}">{text}</text>')
        for value, text in self.x.ticks:
            x, _ = self.at(value, self.y.low)
            found.append(f'<path class="axis" d="M{_n(x)} {_n(bottom)}v4"/>')
            found.append(
                f'<text class="tick mid" x="{_n(x)}" y="{_n(bottom + 17)}">{escape(text)}</text>'
            )
        found.append(f'<path class="axis" d="M{LEFT} {_n(bottom)}H{right}"/>')
        x_label, y_label = escape(self.x.label), escape(self.y.label)
        centre = (LEFT + right) / 2
        found.append(
            f'<text class="label mid" x="{_n(centre)}" y="{_n(bottom + 36)}">{x_label}</text>'
        )
        found.append(
            f'<text class="label mid" transform="translate(14 {_n(middle)}) rotate(-90)">'
            f"{y_label}</text>"
        )
        return found


def linear(low: float, high: float, label: str, percent: bool = False, count: int = 5) -> Axis:
    """An axis with round ticks; with `percent`, of shares."""
    scale = 100 if percent else 1
    ticks = _round_ticks(low * scale, high * scale, count)
    return Axis(low, high, label, [(value / scale, text) for value, text in ticks])


def logit(low: float, high: float, label: str) -> Axis:
    """An axis of shares on which equal odds ratios are equal distances."""
    marks = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9)
    ticks = [(mark / 100, f"{mark:g}") for mark in marks if low <= mark / 100 <= high]
    while len(ticks) > 8:
        ticks = ticks[::2]
    return Axis(low, high, label, ticks, lambda share: math.log(share / (1 - share)))


def colour_of(number: int) -> int:
    """The colour of the n-th series, from 1."""
    return number % COLOURS + 1


def _round_ticks(low: float, high: float, count: int) -> list[tuple[float, str]]:
    span = (high - low) / count
    power = 10.0 ** math.floor(math.log10(span))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= span * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (step / power == 2.5))
    first = math.ceil(low / step - 1e-9)
    values = [(first + n) * step for n in range(int((high / step + 1e-9) - first) + 1)]
    return [(value, f"{value:,.{digits}f}") for value in values]


def _shape(colour: int, x: float, y: float) -> str:
    kind = (colour - 1) % 4
    if kind == 0:
        return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="3.6"/>'
    if kind == 1:
        return f'<rect x="{_n(x - 3.2)}" y="{_n(y - 3.2)}" width="6.4" height="6.4"/>'
    if kind == 2:
        return f'<path d="M{_n(x)} {_n(y - 4.4)}L{_n(x + 4.2)} {_n(y + 3)}H{_n(x - 4.2)}Z"/>'
    return (
        f'<path d="M{_n(x)} {_n(y - 4.6)}L{_n(x + 4.6)} {_n(y)}L{_n(x)} {_n(y + 4.6)}'
        f'L{_n(x - 4.6)} {_n(y)}Z"/>'
    )


def _tip(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def shortened(name: str, letters: int = 34) -> str:
    return name if len(name) <= letters else name[: letters - 1] + "…"


def _n(value: float) -> str:
    """A coordinate, short and always the same."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
