"""The small worlds: what is drawn, in which styles, into which sets.

Each has a web-like set of mixed styles, in which some samples may be near-duplicates of test
images; a reference set; and test sets. Which samples are planted is in their .json, so what a scan
finds can be held against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from clipgap.synthetic import digits
from clipgap.synthetic.options import RenderOptions
from clipgap.synthetic.outlines import SHAPES, Shape, mask
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
PROMPTS = ("an image of a {}", "a picture of a {}", "a {}", "one {}")
PLAIN_CAPTIONS = (*(prompt.format("{name}") for prompt in PROMPTS), "a {style} of a {name}")
"""One in five says the style: where every other one does, a small model learns styles first."""

TEMPLATES = ("a photo of a {}", "a sketch of a {}", "a painting of a {}", "{}")
STYLES_OF_DOMAINS = ("photo", "sketch", "painting", "clipart", "infograph", "quickdraw")
LEAST_ALIKE = "ring moon window wedge star heart cross arrow house fish key hourglass".split()
"""A dozen shapes that a small model learns to tell apart soon, in any style."""

CAPTIONLESS = 0.05
"""Share of web samples whose caption says nothing about the image, as it happens on the web."""


Look = Callable[[int, float, Random], Picture]
"""Draws a class, in a hue."""

Shares = Mapping[str, float]
"""How much of a set each look is, by its name."""


@dataclass(frozen=True)
class World:
    """Classes, and which looks they have where."""

    names: tuple[str, ...]
    looks: Mapping[str, Look]
    web: Shares
    reference: Shares
    tests: Mapping[str, Shares]  # by name of the test set
    near: str  # the test set that near-duplicates are planted of
    domains: Mapping[str, str] = field(default_factory=dict)  # of looks that are not one themselves
    captions: Sequence[str] = CAPTIONS
    templates: Sequence[str] = TEMPLATES

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
            name: list(self._samples(name, options.points, looks, [seed, 2, number], True))
            for number, (name, looks) in enumerate(self.tests.items())
        }
        reference = self._samples("reference", options.reference, self.reference, [seed, 1], True)
        web = list(self._samples("web", options.web, self.web, [seed, 0], False))
        web += self._planted(tests[self.near], options.planted, [seed, 3])
        order = np.random.default_rng([seed, 4]).permutation(len(web))
        return {"web": [web[i] for i in order], "reference": list(reference), **tests}

    def _samples(
        self, prefix: str, count: int, looks: Shares, seed: list[int], plain: bool
    ) -> Iterator[Sample]:
        """Samples of all classes in turn; with `plain`, captioned as a reference set is."""
        random = np.random.default_rng(seed)
        hues = list(COLOURS)
        for number in range(count):
            label = number % len(self.names)
            look = str(random.choice(list(looks), p=list(looks.values())))
            colour = hues[int(random.integers(len(hues)))]
            hue = COLOURS[colour] + random.normal(0, 0.015)
            said = "a photo of a {name}" if plain else str(random.choice(self.captions))
            if not plain and random.random() < CAPTIONLESS:
                said = "picture {number}"
            yield Sample(
                key=f"{prefix}{number:06d}",
                picture=self.looks[look](label, hue, random),
                caption=said.format(
                    name=self.names[label], colour=colour, style=look, number=number
                ),
                label=label,
                domain=self.domains.get(look, look),
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
                domain=original.domain,
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
        looks=_shapes(SHAPES),
        web={"photo": 0.6, "painting": 0.2, "chalk drawing": 0.1, "sketch": 0.1},
        reference={"photo": 1},
        tests={"val": {"photo": 1}, "sketch": {"sketch": 1}, "painting": {"painting": 1}},
        near="sketch",
    )


def domains() -> World:
    """Shapes as natural, as renditions, and as photos made to look painted, which are ambiguous.

    The reference has as many images that are no photos as photos: heads can be fitted to it. In
    each test set a twentieth is of the other domain, as in those of the web.
    """
    renditions = STYLES_OF_DOMAINS[1:]
    few = {"filtered photo": 0.05, "clipart": 0.05}
    return _plain_shapes(
        web={"photo": 0.5, "filtered photo": 0.1, **dict.fromkeys(renditions, 0.08)},
        reference={"photo": 0.4, "filtered photo": 0.2, **dict.fromkeys(renditions, 0.08)},
        tests={
            "val": {"photo": 0.9, **few},
            **{style: {style: 0.95, "photo": 0.05} for style in renditions},
        },
        domains={
            "photo": "natural",
            "filtered photo": "ambiguous",
            **dict.fromkeys(renditions, "rendition"),
        },
    )


def compositions() -> World:
    """Shapes in six domains, of each as many; a reference of photos."""
    return _plain_shapes(
        web=dict.fromkeys(STYLES_OF_DOMAINS, 1 / len(STYLES_OF_DOMAINS)),
        reference={"photo": 1},
        tests={style: {style: 1} for style in STYLES_OF_DOMAINS},
    )


def _plain_shapes(**parts: Any) -> World:
    """Shapes, those first that are least alike, with captions that say no colours."""
    names = tuple(dict.fromkeys((*LEAST_ALIKE, *SHAPES)))
    return World(
        names=names,
        looks=_shapes(names),
        near="sketch",
        captions=PLAIN_CAPTIONS,
        templates=PROMPTS,
        **parts,
    )


def _shapes(names: Iterable[str]) -> dict[str, Look]:
    drawn = [SHAPES[name] for name in names]
    return {style: partial(_shape, drawn, style) for style in STYLES}


def _shape(shapes: Sequence[Shape], style: str, label: int, hue: float, random: Random) -> Picture:
    drawn = mask(
        shapes[label],
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
        reference={"print": 1},
        tests={"type": {"print": 1}, "handwritten": {"other handwriting": 1}},
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


WORLDS: dict[str, Callable[[], World]] = {
    "shapes": shapes,
    "digits": written_digits,
    "domains": domains,
    "compositions": compositions,
}
