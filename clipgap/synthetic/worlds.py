"""The two small worlds: what is drawn, in which styles, into which sets.

Each has a web-like set of mixed styles, in which some samples are near-duplicates of test images; a
reference set in one style; and test sets in that style and in others. Which samples are planted
is in their .json, so what a scan finds can be held against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

from clipgap.synthetic import digits
from clipgap.synthetic.options import RenderOptions
from clipgap.synthetic.outlines import SHAPES, mask
from clipgap.synthetic.samples import Sample
from clipgap.synthetic.styles import COLOURS, STYLES, Mask, Picture, Random, ink

SIZE = 64
CAPTIONS = (
    "a {style} of a {name}",
    "a {style} of one {name}",
    "the {name}",
    "{name}, {style}",
    "a {colour} {name}",
)
CAPTIONLESS = 0.05
"""Share of web samples whose caption says nothing about the image, as it happens on the web."""


Look = Callable[[int, float, Random], Picture]
"""Draws a class, in a hue."""


@dataclass(frozen=True)
class World:
    """Classes, and which looks they have where."""

    names: tuple[str, ...]
    looks: Mapping[str, Look]
    web: Mapping[str, float]  # shares of the looks
    reference: str
    tests: Mapping[str, str]  # look by name of the test set
    near: str  # the test set that near-duplicates are planted of

    def first(self, classes: int) -> World:
        """The same with its first classes only."""
        return replace(self, names=self.names[:classes])

    def sizes(self, options: RenderOptions) -> dict[str, int]:
        """How many samples each set will have."""
        tests = dict.fromkeys(self.tests, options.points)
        return {"web": options.web + options.planted, "reference": options.reference, **tests}

    def sets(self, options: RenderOptions) -> dict[str, list[Sample]]:
        """Every set by the name of its folder."""
        seed = options.seed
        tests = {
            name: list(self._samples(name, options.points, {look: 1.0}, [seed, 2, number], True))
            for number, (name, look) in enumerate(self.tests.items())
        }
        one_look = {self.reference: 1.0}
        reference = self._samples("reference", options.reference, one_look, [seed, 1], True)
        web = list(self._samples("web", options.web, self.web, [seed, 0], False))
        web += self._planted(tests[self.near], options.planted, [seed, 3])
        order = np.random.default_rng([seed, 4]).permutation(len(web))
        return {"web": [web[i] for i in order], "reference": list(reference), **tests}

    def _samples(
        self, prefix: str, count: int, looks: Mapping[str, float], seed: list[int], plain: bool
    ) -> Iterator[Sample]:
        """Samples of all classes in turn; with `plain`, captioned as a reference set is."""
        random = np.random.default_rng(seed)
        hues = list(COLOURS)
        for number in range(count):
            label = number % len(self.names)
            look = str(random.choice(list(looks), p=list(looks.values())))
            colour = hues[int(random.integers(len(hues)))]
            hue = COLOURS[colour] + random.normal(0, 0.015)
            said = "a photo of a {name}" if plain else str(random.choice(CAPTIONS))
            if not plain and random.random() < CAPTIONLESS:
                said = "picture {number}"
            yield Sample(
                key=f"{prefix}{number:06d}",
                picture=self.looks[look](label, hue, random),
                caption=said.format(
                    name=self.names[label], colour=colour, style=look, number=number
                ),
                label=label,
                origin=look,
            )

    def _planted(self, points: list[Sample], count: int, seed: list[int]) -> Iterator[Sample]:
        """Test images as the web has them: shifted by a pixel, a little lighter, with noise."""
        random = np.random.default_rng(seed)
        chosen = random.choice(len(points), count, replace=count > len(points))
        for number, point in enumerate(chosen):
            original = points[point]
            yield Sample(
                key=f"copy{number:06d}",
                picture=_copied(original.picture, random),
                caption=f"a {original.origin} of a {self.names[original.label]}",
                label=original.label,
                origin=f"near-duplicate of {original.key}",
            )


def _copied(picture: Picture, random: Random) -> Picture:
    moved = np.roll(picture, random.integers(-1, 2, 2).tolist(), (0, 1))
    lighter = moved * random.uniform(0.94, 1.04) + random.normal(0, 0.012, picture.shape)
    return np.clip(lighter, 0, 1)


def shapes() -> World:
    """Two dozen shapes in four styles; the reference has photos alone."""
    return World(
        names=tuple(SHAPES),
        looks={style: partial(_shape, style) for style in STYLES},
        web={"photo": 0.6, "painting": 0.2, "chalk drawing": 0.1, "sketch": 0.1},
        reference="photo",
        tests={"val": "photo", "sketch": "sketch", "painting": "painting"},
        near="sketch",
    )


def _shape(style: str, label: int, hue: float, random: Random) -> Picture:
    drawn = mask(
        SHAPES[tuple(SHAPES)[label]],
        SIZE,
        turn=random.uniform(-0.2, 0.2),
        scale=random.uniform(0.65, 0.9),
        at=tuple(random.uniform(-0.05, 0.05, 2)),
    )
    return STYLES[style](np.asarray(drawn, np.float32) / 255, hue, random)


def written_digits() -> World:
    """Digits that people wrote against digits in type; the reference has type alone."""
    images, labels = digits.handwritten(SIZE)
    pages = [(image, label) for image, label in zip(images, labels, strict=True)]
    fonts = digits.fonts()
    return World(
        names=digits.NAMES,
        looks={
            "print": partial(_printed, fonts),
            "painting": partial(_painted, "painting", fonts),
            "chalk drawing": partial(_painted, "chalk drawing", fonts),
            "handwriting": _Pages(pages[0::2]),
            "other handwriting": _Pages(pages[1::2]),
        },
        web={"print": 0.6, "painting": 0.15, "chalk drawing": 0.1, "handwriting": 0.15},
        reference="print",
        tests={"type": "print", "handwritten": "other handwriting"},
        near="handwritten",
    )


def _printed(fonts: Sequence[Path], label: int, hue: float, random: Random) -> Picture:
    return ink(_typed(fonts, label, random), hue, random)


def _painted(style: str, fonts: Sequence[Path], label: int, hue: float, random: Random) -> Picture:
    return STYLES[style](_typed(fonts, label, random), hue, random)


def _typed(fonts: Sequence[Path], label: int, random: Random) -> Mask:
    return digits.typed(label, fonts[int(random.integers(len(fonts)))], SIZE, random)


class _Pages:
    """Hands out written digits, class by class, each once before any comes again."""

    def __init__(self, pages: Sequence[tuple[Mask, int]]) -> None:
        self._next = {
            label: cycle([image for image, what in pages if what == label]) for label in range(10)
        }

    def __call__(self, label: int, hue: float, random: Random) -> Picture:
        return ink(next(self._next[label]), hue, random)


WORLDS: dict[str, Callable[[], World]] = {"shapes": shapes, "digits": written_digits}
