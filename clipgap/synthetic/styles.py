"""How a shape looks: as a photograph, a sketch, a painting, a chart of numbers, …

A style takes the shape's mask (0 outside, 1 inside) and a generator, and gives an image in [0, 1].
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.floating[Any]]  # (size, size)
Picture = NDArray[np.floating[Any]]  # (size, size, 3)
Random = np.random.Generator

COLOURS = {"red": 0.0, "orange": 0.08, "yellow": 0.15, "green": 0.33, "blue": 0.6, "purple": 0.78}


def photo(mask: Mask, hue: float, random: Random) -> Picture:
    """Lit from one side, on a background with texture, with a shadow and a camera's noise."""
    size = len(mask)
    background = _colour(random.random(), random.uniform(0.1, 0.5), random.uniform(0.3, 0.9))
    ground = background * (1 + 0.2 * _clouds(size, int(random.integers(3, 9)), random)[..., None])
    shadow = np.roll(mask, random.integers(1, 1 + size // 12, 2).tolist(), (0, 1))
    ground = ground * (1 - 0.5 * _blurred(shadow, 2)[..., None])
    light = 0.75 + 0.5 * _slope(size, random) + 0.12 * _clouds(size, 6, random)
    body = _colour(hue, random.uniform(0.6, 1), random.uniform(0.6, 1)) * light[..., None]
    picture = _over(mask, body, ground)
    return _clean(picture + random.normal(0, 0.03, picture.shape))


def sketch(mask: Mask, hue: float, random: Random) -> Picture:
    """Pencil on paper: the outline, and now and then some hatching."""
    lines = _edges(mask) * random.uniform(0.7, 1)
    if random.random() < 0.4:
        lines = np.maximum(lines, 0.45 * mask * _hatching(len(mask), random))
    grain = 0.04 * _clouds(len(mask), 20, random)
    paper = random.uniform(0.93, 1) + grain
    return _clean(np.repeat((paper - 0.85 * lines)[..., None], 3, axis=2))


def ink(mask: Mask, hue: float, random: Random) -> Picture:
    """In ink on paper, by a pen or a press."""
    paper = random.uniform(0.9, 1) + 0.03 * _clouds(len(mask), 12, random)
    pen = _colour(0.6, random.uniform(0, 0.8), random.uniform(0.05, 0.4))
    return _clean(_over(mask, pen, np.repeat(paper[..., None], 3, axis=2)))


def chalk(mask: Mask, hue: float, random: Random) -> Picture:
    """A light, smudged and coloured outline on a dark board."""
    board = _colour(random.uniform(0.3, 0.6), 0.4, random.uniform(0.12, 0.25))
    lines = np.minimum(1, _edges(mask) + 0.4 * _blurred(_edges(mask), 2))
    stroke = _colour(hue, 0.35, 1)
    return _clean(_over(lines * random.uniform(0.7, 1), stroke, board[None, None, :]))


def painting(mask: Mask, hue: float, random: Random) -> Picture:
    """Few flat colours in broad, wavy strokes."""
    size = len(mask)
    moved = _shaken(mask, 1.5, random)
    ground = _colour(random.random(), 0.7, 0.9) * (1 + 0.25 * _stripes(size, random))[..., None]
    body = _colour(hue, 1, 0.85) * (1 + 0.25 * _stripes(size, random))[..., None]
    picture = _over(moved, body, ground)
    return _clean(np.round(picture * 6) / 6)


def clipart(mask: Mask, hue: float, random: Random) -> Picture:
    """One flat colour within a dark outline, on white or on nearly white."""
    ground = _colour(random.random(), random.uniform(0, 0.08), 1)
    body = _colour(hue, random.uniform(0.7, 1), random.uniform(0.75, 1))
    picture = _over(mask, body, ground[None, None, :])
    return _clean(_over(np.minimum(1, 1.3 * _edges(mask)), _colour(hue, 1, 0.15), picture))


def infograph(mask: Mask, hue: float, random: Random) -> Picture:
    """An emblem on a page with a headline, bars and lines of what might be text."""
    size = len(mask)
    page = np.empty((size, size, 3), np.float32)
    page[:] = _colour(random.random(), random.uniform(0.05, 0.2), random.uniform(0.85, 1))
    accent, text = _colour(random.random(), 0.7, 0.7), _colour(0.6, 0.2, 0.4)
    page[: size // 10, size // 12 : int(size * random.uniform(0.5, 0.95))] = accent
    width = size // 9
    for left in range(size // 12, size - width, width + size // 20):
        page[size - int(size * random.uniform(0.05, 0.4)) :, left : left + width] = accent
    for top in range(size // 6, size // 2, size // 12):
        start = int(size * random.uniform(0, 0.7))
        page[top : top + 2, start : start + size // 4] = text
    return _clean(_over(mask, _colour(hue, 0.6, 0.8), page))


def quickdraw(mask: Mask, hue: float, random: Random) -> Picture:
    """A thin black line, drawn in seconds by an unsure hand."""
    lines = np.abs(np.gradient(_shaken(mask, 2.5, random))).max(axis=0)
    return _clean(np.repeat((1 - np.minimum(1, 2 * lines))[..., None], 3, axis=2))


def filtered(mask: Mask, hue: float, random: Random) -> Picture:
    """A photo made to look painted: few and strong colours, wavy, dark along the outline."""
    moved = _shaken(mask, 1.5, random)
    picture = photo(moved, hue, random) * (1 - 0.9 * _edges(moved))[..., None]
    grey = picture.mean(axis=2, keepdims=True)
    return _clean(np.round((grey + 2 * (picture - grey)) * 3) / 3)


STYLES: dict[str, Callable[[Mask, float, Random], Picture]] = {
    "photo": photo,
    "sketch": sketch,
    "painting": painting,
    "chalk drawing": chalk,
    "clipart": clipart,
    "infograph": infograph,
    "quickdraw": quickdraw,
    "filtered photo": filtered,
}


def _clean(picture: Picture) -> Picture:
    return np.clip(picture, 0, 1).astype(np.float32)


def _over(mask: Mask, front: Picture, back: Picture) -> Picture:
    share = mask[..., None]
    return share * front + (1 - share) * back


def _colour(hue: float, saturation: float, value: float) -> Picture:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)


def _clouds(size: int, cells: int, random: Random) -> Mask:
    """Smooth noise of mean 0, about as many lumps across as there are cells."""
    coarse = random.normal(size=(cells + 1, cells + 1)).astype(np.float32)
    at = np.linspace(0, cells, size, endpoint=False)
    low = at.astype(int)
    part = (at - low).astype(np.float32)
    rows = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
    smooth: Mask = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return smooth


def _slope(size: int, random: Random) -> Mask:
    """From -½ to ½ in some direction."""
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-0.5 : 0.5 : size * 1j, -0.5 : 0.5 : size * 1j]
    slope: Mask = np.cos(angle) * x + np.sin(angle) * y
    return slope


def _stripes(size: int, random: Random) -> Mask:
    waves = 2 * np.pi * random.uniform(3, 7) * _slope(size, random)
    stripes: Mask = np.sin(waves + _clouds(size, 4, random))
    return stripes


def _hatching(size: int, random: Random) -> Mask:
    lines: Mask = np.where(np.sin(2 * np.pi * 12 * _slope(size, random)) > 0.3, 1.0, 0.0)
    return lines


def _shaken(mask: Mask, by: float, random: Random) -> Mask:
    """Moved to and fro, by so many pixels or so."""
    size = len(mask)
    rows, columns = np.indices(mask.shape)
    shift = np.round(by * _clouds(size, 5, random)).astype(int)
    shaken: Mask = mask[np.clip(rows + shift, 0, size - 1), np.clip(columns - shift, 0, size - 1)]
    return shaken


def _edges(mask: Mask) -> Mask:
    """Thick where the mask changes."""
    high, low = mask, mask
    for axis in (0, 1):
        for step in (-1, 1):
            high = np.maximum(high, np.roll(mask, step, axis))
            low = np.minimum(low, np.roll(mask, step, axis))
    return _blurred(high - low, 1)


def _blurred(mask: Mask, times: int) -> Mask:
    for _ in range(times):
        for axis in (0, 1):
            mask = (np.roll(mask, 1, axis) + 2 * mask + np.roll(mask, -1, axis)) / 4
    return mask.astype(np.float32)
