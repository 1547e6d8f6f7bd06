"""What the rendered images show: two dozen shapes, each a few polygons and discs in a unit square.

A part with `hole` is cut out of those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

Point = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """A filled polygon, in [-1, 1]², y downwards."""

    points: tuple[Point, ...]
    hole: bool = False


Shape = tuple[Part, ...]


def _poly(*numbers: float, hole: bool = False) -> Part:
    return Part(tuple(zip(numbers[::2], numbers[1::2], strict=True)), hole)


def _disc(x: float, y: float, rx: float, ry: float | None = None, hole: bool = False) -> Part:
    ry = rx if ry is None else ry
    turn = [2 * pi * i / 40 for i in range(40)]
    return Part(tuple((x + rx * cos(a), y + ry * sin(a)) for a in turn), hole)


def _around(corners: int, radii: Sequence[float] = (0.9,)) -> Part:
    """A regular polygon, or with two radii a star."""
    count = corners * len(radii)
    at = [(2 * pi * i / count - pi / 2, radii[i % len(radii)]) for i in range(count)]
    return Part(tuple((r * cos(a), r * sin(a)) for a, r in at))


def _heart() -> Part:
    turn = [2 * pi * i / 48 for i in range(48)]
    curve = [13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t) for t in turn]
    return Part(
        tuple((sin(t) ** 3 * 0.95, -y / 17) for t, y in zip(turn, curve, strict=True))
    )  # the well-known curve with four cosines


SHAPES: dict[str, Shape] = {
    "ball": (_disc(0, 0, 0.85),),
    "ring": (_disc(0, 0, 0.9), _disc(0, 0, 0.5, hole=True)),
    "moon": (_disc(0, 0, 0.9), _disc(0.4, -0.15, 0.72, hole=True)),
    "egg": (_disc(0, 0, 0.55, 0.9),),
    "box": (_poly(-0.8, -0.8, 0.8, -0.8, 0.8, 0.8, -0.8, 0.8),),
    "window": (
        _poly(-0.8, -0.8, 0.8, -0.8, 0.8, 0.8, -0.8, 0.8),
        _poly(-0.6, -0.6, -0.1, -0.6, -0.1, 0.6, -0.6, 0.6, hole=True),
        _poly(0.1, -0.6, 0.6, -0.6, 0.6, 0.6, 0.1, 0.6, hole=True),
    ),
    "kite": (_poly(0, -0.95, 0.6, -0.2, 0, 0.95, -0.6, -0.2),),
    "wedge": (_poly(0, -0.85, 0.9, 0.75, -0.9, 0.75),),
    "nut": (_around(6), _disc(0, 0, 0.4, hole=True)),
    "star": (_around(5, (0.95, 0.4)),),
    "spark": (_around(4, (0.95, 0.22)),),
    "gear": (_around(9, (0.95, 0.95, 0.68, 0.68)), _disc(0, 0, 0.28, hole=True)),
    "flower": (
        *(_disc(0.55 * cos(a), 0.55 * sin(a), 0.36) for a in (2 * pi * i / 6 for i in range(6))),
        _disc(0, 0, 0.22, hole=True),
    ),
    "heart": (_heart(),),
    "cross": (
        _poly(-0.28, -0.9, 0.28, -0.9, 0.28, 0.9, -0.28, 0.9),
        _poly(-0.9, -0.28, 0.9, -0.28, 0.9, 0.28, -0.9, 0.28),
    ),
    "arrow": (
        _poly(0.05, -0.85, 0.95, 0, 0.05, 0.85),
        _poly(-0.9, -0.3, 0.1, -0.3, 0.1, 0.3, -0.9, 0.3),
    ),
    "house": (
        _poly(0, -0.95, 0.95, -0.1, -0.95, -0.1),
        _poly(-0.7, -0.1, 0.7, -0.1, 0.7, 0.85, -0.7, 0.85),
        _poly(-0.2, 0.3, 0.2, 0.3, 0.2, 0.85, -0.2, 0.85, hole=True),
    ),
    "tree": (
        _poly(0, -0.95, 0.6, -0.2, -0.6, -0.2),
        _poly(0, -0.5, 0.8, 0.45, -0.8, 0.45),
        _poly(-0.16, 0.45, 0.16, 0.45, 0.16, 0.95, -0.16, 0.95),
    ),
    "fish": (
        _disc(-0.2, 0, 0.7, 0.42),
        _poly(0.35, 0, 0.95, -0.5, 0.95, 0.5),
        _disc(-0.55, -0.1, 0.09, hole=True),
    ),
    "key": (
        _disc(-0.55, 0, 0.4),
        _disc(-0.55, 0, 0.18, hole=True),
        _poly(-0.2, -0.11, 0.95, -0.11, 0.95, 0.4, 0.75, 0.4, 0.75, 0.11, 0.6, 0.11, 0.6, 0.4,
              0.42, 0.4, 0.42, 0.11, -0.2, 0.11),
    ),
    "mug": (
        _disc(0.5, 0, 0.42),
        _disc(0.5, 0, 0.24, hole=True),
        _poly(-0.75, -0.7, 0.45, -0.7, 0.45, 0.75, -0.75, 0.75),
    ),
    "mushroom": (
        _disc(0, -0.05, 0.9, 0.75),
        _poly(-1, 0, 1, 0, 1, 0.8, -1, 0.8, hole=True),
        _poly(-0.25, 0, 0.25, 0, 0.32, 0.85, -0.32, 0.85),
    ),
    "hourglass": (_poly(-0.7, -0.9, 0.7, -0.9, 0.08, 0, 0.7, 0.9, -0.7, 0.9, -0.08, 0),),
    "bolt": (_poly(0.25, -0.95, -0.6, 0.15, -0.08, 0.15, -0.25, 0.95, 0.6, -0.2, 0.08, -0.2),),
}  # fmt: skip
"""Shape by the name of its class."""


def mask(shape: Shape, size: int, turn: float, scale: float, at: Point) -> Image.Image:
    """The shape in white on black, smooth at its edges: turned (radians), scaled and moved."""
    from PIL import Image, ImageDraw

    fine = 3 * size
    canvas = Image.new("L", (fine, fine), 0)
    draw = ImageDraw.Draw(canvas)
    for part in shape:
        points = [
            (
                (0.5 + at[0] + scale * (x * cos(turn) - y * sin(turn)) / 2) * fine,
                (0.5 + at[1] + scale * (x * sin(turn) + y * cos(turn)) / 2) * fine,
            )
            for x, y in part.points
        ]
        draw.polygon(points, fill=0 if part.hole else 255)
    return canvas.resize((size, size), Image.Resampling.BOX)
