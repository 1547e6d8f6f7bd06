"""What embedding and deduplicating hold in the memory of the host, counted by what is there at a
time. The figures below were measured; `tests/test_plan.py` holds all of it against runs of two
sizes.
"""

from __future__ import annotations

from clipgap.bench.rates import Rate
from clipgap.bench.towers import Towers
from clipgap.machine import memory_bytes

_MODELS = 870 * 2**20
"""A process with PyTorch and open_clip, which varies with how they were built."""

_ROWS = 128 * 2**20
"""A process without them."""

_BUFFERS = 4  # batches of images, as `clip.embed.batches` has them
_ACTIVATIONS = 15
"""Numbers at a time for each that goes from layer to layer."""

_CLUSTERING = 22
"""Bytes for each number of all centroids: old, new, their sums, and as columns."""


def of_embedding(towers: Towers, batch: int, workers: int, on_cores: bool) -> Rate:
    """`workers` have a model each; while it is loaded, its weights are there twice."""
    weights, pixels = 4.0 * towers.weights, 4.0 * batch * towers.pixels
    work = _BUFFERS * pixels + on_cores * 4.0 * batch * towers.stream * _ACTIVATIONS
    each = _MODELS + weights + max(weights, work)
    what = "a model" if workers == 1 else f"{workers:,} models"
    return Rate(workers * each, f"of {what}, and batches of {batch:,} images")


def of_deduplicating(
    rows: int, dim: int, clusters: int | None, threads: int, gib: float | None
) -> Rate:
    """`gib` are for rows, as the command has it: half to hold them all, half for those compared."""
    budget = memory_bytes() / 4 if gib is None else gib * 2**30
    room = min(rows, budget / 2 // (8 * dim + 64))
    held = rows * (2.0 * dim + 8) if 2 * rows * dim <= budget / 2 else 0.0
    blocks = 2 * min(rows, max(16_384, min(2048 * threads, 131_072))) * 2.0 * dim
    if clusters is None:
        work = max(blocks, room * (8.0 * dim + 64))
    else:  # those of a unit are held, and a cluster for each thread is prepared to be compared
        alone = min(room, threads * rows / clusters) * (6.0 * dim + 40)
        clustering = blocks + _CLUSTERING * float(clusters) * dim
        work = max(clustering, room * (2.0 * dim + 24) + alone)
    why = "a quarter of what is here" if gib is None else "as typed"
    return Rate(_ROWS + held + work, f"of it for rows {budget / 2**30:,.1f} GiB at most, {why}")
