"""Embeddings made on the fly: like CLIP's, without structure, or hard on purpose.

All rows are float16 of norm 1 and depend on (kind, d, seed, world, row number) alone: the same rows
come out whatever the block size or the thread count. `seed` tells a training set from a test set,
`world` is what they have in common: the cone, the directions and the clusters.

Rows of `clip_like` resemble CLIP image embeddings in what decides the speed of a scan: they lie in
a narrow cone, their spectrum decays, they form clusters of uneven size, and two coordinates are
large in every row. At d = 640, for 2,048 rows against 16,384 of another seed, the cosines have mean
0.37 and standard deviation 0.14, and the largest cosine of a row averages 0.79;
`tests/test_synthetic.py` holds the generator to these figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from clipgap.machine import thread_count

Kind = Literal[
    "clip-like",
    "isotropic",
    "equal",
    "duplicates",
    "near-ties",
    "window",
    "spectrum-0.55",
    "spectrum-0.35",
]
Hard = Literal["equal", "duplicates", "near-ties", "window"]
KINDS: tuple[Kind, ...] = get_args(Kind)

CHUNK = 512
"""Rows made at a time, from a random stream of their own."""

CONE = 0.362  # share of the energy along the common direction
TAIL = 0.15  # share of the rest that is noise without structure
DIRECTIONS = 64  # leading directions that carry what is left
DECAY = 0.98  # their energies fall as 1 / i^DECAY
CLUSTERS = 4096
POPULARITY = 0.7  # the i-th cluster is drawn in proportion to 1 / i^POPULARITY
CLUSTERED = 0.70  # share of the leading energy that comes from the row's cluster; the rest
TRAITS = 4  # from four traits, each one of
TRAIT_VALUES = 256
OUTLIERS = (0.30, -0.22)  # two coordinates of every row, about
DISTINCT = 16  # vectors that "duplicates" repeats
SPREAD = 0.05  # length of the noise in "window": scores differ by far less than the filter resolves


def clip_like(n: int, d: int = 640, seed: int = 0, *, world: int = 0) -> NDArray[np.float16]:
    """Rows like CLIP image embeddings."""
    return rows("clip-like", 0, n, d, seed=seed, world=world)


def isotropic(n: int, d: int = 640, seed: int = 0) -> NDArray[np.float16]:
    """Directions drawn evenly from the sphere: every score is near 0, no row stands out."""
    return rows("isotropic", 0, n, d, seed=seed)


def adversarial(
    kind: Hard, n: int, d: int = 640, seed: int = 0, *, world: int = 0
) -> NDArray[np.float16]:
    """Rows that defeat a filter.

    equal       one vector, n times
    duplicates  16 vectors, each many times
    near-ties   one vector, with at most one coordinate moved to the next float16
    window      all scores so close together that int8 cannot tell them apart
    """
    return rows(kind, 0, n, d, seed=seed, world=world)


def rows(
    kind: Kind, start: int, stop: int, d: int, *, seed: int = 0, world: int = 0
) -> NDArray[np.float16]:
    """Rows [start, stop) of the endless set that kind, d, seed and world name."""
    if not 0 <= start <= stop or d < 1:
        raise ValueError(f"rows [{start}, {stop}) of dimension {d} do not exist")
    make = _MAKERS[kind]
    shared = _world(d, world)
    out = np.empty((stop - start, d), np.float16)

    def fill(chunk: int) -> None:
        random = np.random.Generator(np.random.SFC64([KINDS.index(kind), seed, chunk]))
        first = chunk * CHUNK
        low, high = max(start, first), min(stop, first + CHUNK)
        out[low - start : high - start] = make(shared, random)[low - first : high - first]

    chunks = range(start // CHUNK, -(-stop // CHUNK))
    if len(chunks) <= 1:
        for chunk in chunks:
            fill(chunk)
    else:
        with ThreadPoolExecutor(thread_count()) as pool:
            list(pool.map(fill, chunks))
    return out


def blocks(
    kind: Kind, n: int, d: int, *, seed: int = 0, world: int = 0, block_rows: int = 65_536
) -> Iterator[NDArray[np.float16]]:
    """The first n rows, block by block, for sets larger than memory."""
    for start in range(0, n, block_rows):
        yield rows(kind, start, min(n, start + block_rows), d, seed=seed, world=world)


@dataclass(frozen=True)
class _World:
    """What all rows of one world share."""

    d: int
    cone: NDArray[np.float32]  # (d,)
    clusters: NDArray[np.float32]  # (CLUSTERS, d), the cone included
    popularity: NDArray[np.float64]  # (CLUSTERS,), cumulative
    traits: NDArray[np.float32]  # (TRAITS, TRAIT_VALUES, d)


@lru_cache(maxsize=8)
def _world(d: int, world: int) -> _World:
    random = np.random.default_rng([world, d])
    cone = random.standard_normal(d)
    cone /= np.linalg.norm(cone)
    for place, value in enumerate(OUTLIERS[: d - 1]):
        cone[(2 * place + 1) * d // 5] = value / np.sqrt(CONE)
    cone *= np.sqrt(CONE) / np.linalg.norm(cone)

    r = min(DIRECTIONS, d)
    energy = np.arange(1, r + 1) ** -DECAY
    energy *= (1 - CONE) * (1 - TAIL) / energy.sum()
    directions = np.linalg.qr(random.standard_normal((d, r)))[0].T * np.sqrt(energy)[:, None]

    clusters = np.sqrt(CLUSTERED) * random.standard_normal((CLUSTERS, r)) @ directions
    traits = np.sqrt((1 - CLUSTERED) / TRAITS) * random.standard_normal((TRAITS, TRAIT_VALUES, r))
    popularity = np.arange(1, CLUSTERS + 1) ** -POPULARITY
    return _World(
        d,
        cone.astype(np.float32),
        (cone + clusters).astype(np.float32),
        np.cumsum(popularity) / popularity.sum(),
        (traits @ directions).astype(np.float32),
    )


@lru_cache(maxsize=1)
def _quantiles() -> NDArray[np.float32]:
    """The normal distribution in 65,536 steps of equal probability.

    Looking up 16 random bits is several times as fast as NumPy's `standard_normal`.
    """
    inverse = NormalDist().inv_cdf
    values = np.array([inverse((i + 0.5) / 65_536) for i in range(65_536)], np.float32)
    values /= values.std()
    return values


def _noise(random: np.random.Generator, d: int) -> NDArray[np.float32]:
    bits: NDArray[np.uint64] = random.bit_generator.random_raw(-(-CHUNK * d // 4))
    return _quantiles().take(bits.view(np.uint16)[: CHUNK * d]).reshape(CHUNK, d)


def _unit(x: NDArray[np.float32]) -> NDArray[np.float16]:
    # Lengths in float64: in float32 the order of the sum, which depends on the processor, shows.
    length = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
    x /= length[:, None].astype(np.float32)
    return x.astype(np.float16)


def _clip_like(world: _World, random: np.random.Generator) -> NDArray[np.float16]:
    # Look-ups and sums, no matrix product: fast, and the same on every machine.
    x = _noise(random, world.d)
    x *= np.float32(np.sqrt((1 - CONE) * TAIL / world.d))
    x += world.clusters[np.searchsorted(world.popularity, random.random(CHUNK))]
    for trait in world.traits:
        x += trait[random.integers(0, TRAIT_VALUES, CHUNK)]
    return _unit(x)


def _isotropic(world: _World, random: np.random.Generator) -> NDArray[np.float16]:
    return _unit(_noise(random, world.d))


def _spectrum(
    exponent: float,
) -> Callable[[_World, np.random.Generator], NDArray[np.float16]]:
    """Normal rows in the cone, the i-th coordinate of a size that falls as 1 / i^exponent."""

    def make(world: _World, random: np.random.Generator) -> NDArray[np.float16]:
        size = np.arange(1, world.d + 1) ** -exponent
        size *= np.sqrt((1 - CONE) / (size**2).sum())
        return _unit(_noise(random, world.d) * size.astype(np.float32) + world.cone)

    return make


def _some(world: _World) -> NDArray[np.float16]:
    """A few clip-like vectors that every seed has in common."""
    return _clip_like(world, np.random.Generator(np.random.SFC64(0)))[:DISTINCT]


def _equal(world: _World, random: np.random.Generator) -> NDArray[np.float16]:
    return np.repeat(_some(world)[:1], CHUNK, axis=0)


def _duplicates(world: _World, random: np.random.Generator) -> NDArray[np.float16]:
    return _some(world)[random.integers(0, DISTINCT, CHUNK)]


def _near_ties(world: _World, random: np.random.Generator) -> NDArray[np.float16]:
    x = _equal(world, random)
    every = np.arange(CHUNK)
    place = random.integers(0, world.d, CHUNK)
    towards = np.array([-2, 0, 2], np.float16)[random.integers(0, 3, CHUNK)]
    old = x[every, place]
    x[every, place] = np.where(towards == 0, old, np.nextafter(old, towards))
    return x


def _window(world: _World, random: np.random.Generator) -> NDArray[np.float16]:
    step = np.float32(SPREAD / np.sqrt(world.d))
    return _unit(_some(world)[0].astype(np.float32) + step * _noise(random, world.d))


_MAKERS: dict[Kind, Callable[[_World, np.random.Generator], NDArray[np.float16]]] = {
    "clip-like": _clip_like,
    "isotropic": _isotropic,
    "equal": _equal,
    "duplicates": _duplicates,
    "near-ties": _near_ties,
    "window": _window,
    "spectrum-0.55": _spectrum(0.55),
    "spectrum-0.35": _spectrum(0.35),
}
