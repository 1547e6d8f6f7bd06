"""How fast `clipgap dedup` is: its k-means, and its comparison within clusters.

    python benchmarks/dedup.py --rounds 5

Three races, each in one process, ours and the peer taking turns, each with the same threads:

step     an iteration of k-means (assign, sum up, move) against the bare scan of the same rows with
         the same centroids as test set; once without and once with labels of the iteration before
kmeans   so many iterations from given seeds against faiss.Kmeans (spherical, no subsampling)
within   clusters of one size, greedy, against the plain torch loop: float32 product of a cluster
         with itself, upper triangle, maximum of each column, comparison with 1 - epsilon

Data are `clipgap.synthetic.rows.clip_like`; in a second race within clusters a third of the rows
are copies with a little noise. Rows are appended to `benchmarks/results`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from clipgap.bench.race import Racer, paired_ratio, race
from clipgap.bench.results import Columns
from clipgap.bench.script import publish, read_options
from clipgap.dedup.kmeans import Assignment, Centroids, step
from clipgap.dedup.labels import NONE, Labels
from clipgap.dedup.options import DedupOptions
from clipgap.dedup.plan import DedupSettings
from clipgap.dedup.rows import RowSource, Watch
from clipgap.dedup.work import Clusters, CompareWork
from clipgap.kernels.choose import make_scanner
from clipgap.kernels.interface import TestSet
from clipgap.kernels.options import Compute
from clipgap.kernels.torch_kernel import torch_threads
from clipgap.machine import cores
from clipgap.runs.units import Made, Slot
from clipgap.store.opening import array_store
from clipgap.synthetic import rows as synthetic

D = 512
EPSILON = 0.05
LARGE = 8192  # rows of a cluster: what SemDeDup has on LAION-440M with its 50,000 clusters
Halves = NDArray[np.float16]


def two(rounds: int, ours: Callable[[], Any], peer: Callable[[], Any]) -> dict[str, Any]:
    """What both spend, taking turns, and the medians of the ratios within a round.

    Processor time counts beside the clock: it holds on a machine that others use as well.
    """
    mine, other = racers = [Racer("ours", "", ours), Racer("peer", "", peer)]
    race(racers, rounds)
    return {
        "rounds": rounds,
        "seconds": round(median(mine.seconds), 4),
        "peer_seconds": round(median(other.seconds), 4),
        "times_as_fast": paired_ratio(other.seconds, mine.seconds),
        "processor": round(median(mine.processor), 4),
        "peer_processor": round(median(other.processor), 4),
        "times_by_processor": paired_ratio(other.processor, mine.processor),
    }


def race_step(
    rows: Halves, clusters: int, labelled: bool, rounds: int, compute: Compute
) -> dict[str, Any]:
    source = held(rows)
    assignment = Assignment(source, compute, unlabelled(rows))
    centroids = step(Centroids(rows[:clusters].copy()), assignment)
    before = assignment.label.copy()
    ids, tests = np.arange(len(rows)), [TestSet("centroids", centroids.rows)]

    def scan() -> None:
        scanner = make_scanner(tests, 1, threads=compute.threads)
        for start in range(0, len(rows), scanner.block_rows):
            here = slice(start, start + scanner.block_rows)
            scanner.scan(rows[here], ids[here])

    def ours() -> None:
        assignment.label[:] = before if labelled else NONE
        step(centroids, assignment)

    scan()
    found = two(rounds, ours, scan)
    rate = 2.0 * len(rows) * clusters * D / found["seconds"]
    return {
        "race": "step",
        "peer": "scan",
        "labelled": labelled,
        **found,
        "gflops": round(rate / 1e9, 1),
    }


def race_kmeans(
    rows: Halves, clusters: int, iterations: int, rounds: int, compute: Compute
) -> dict[str, Any]:
    source = held(rows)  # as the peer has them
    seeds, wide = rows[:clusters].copy(), rows.astype(np.float32)

    def ours() -> None:
        centroids = Centroids(seeds)
        assignment = Assignment(source, compute, unlabelled(rows))
        for _ in range(iterations):
            centroids = step(centroids, assignment)

    def peer() -> None:
        kmeans = faiss.Kmeans(
            D,
            clusters,
            niter=iterations,
            spherical=True,
            seed=1,
            min_points_per_centroid=1,
            max_points_per_centroid=len(rows),
        )
        kmeans.train(wide, init_centroids=wide[:clusters])

    found = two(rounds, ours, peer)
    return {"race": "kmeans", "peer": "faiss.Kmeans", "iterations": iterations, **found}


def race_within(
    rows: Halves, size: int, copies: bool, rounds: int, compute: Compute
) -> dict[str, Any]:
    if copies:
        rows = with_copies(rows)
    source = held(rows)
    label = (np.arange(len(rows)) // size).astype(np.int32)
    labels = Labels(label, np.zeros(0), int(label[-1]) + 1)
    settings = DedupSettings((EPSILON,), DedupOptions(labels.clusters))
    work = CompareWork(settings, source, labels, compute, 1 << 40, None)
    everything, slot = Clusters(0, labels.clusters), Slot(cores=compute.threads or 1)
    wide = torch.from_numpy(rows.astype(np.float32))
    kept = {}

    def ours() -> None:
        *_, made = work.do([everything], slot)
        assert isinstance(made, Made)
        kept["ours"] = len(rows) - made.records[everything.name]["dropped"].shape[1]

    def peer() -> None:
        kept["peer"] = 0
        for start in range(0, len(wide), size):
            cluster = wide[start : start + size]
            most = (cluster @ cluster.T).triu_(1).max(0).values
            kept["peer"] += int((most <= settings.limits[0]).sum())

    found = two(rounds, ours, peer)
    return {
        "race": "within",
        "peer": "torch loop",
        "rows_compared": len(rows),
        "cluster_rows": size,
        "copies": copies,
        **found,
        "kept": kept["ours"],
        "kept_by_peer": kept["peer"],
    }


def held(rows: Halves) -> RowSource:
    """Rows that are in memory before the race begins."""
    source = RowSource(array_store(rows), "error", Watch(), memory=1 << 40)
    for _ in source.blocks("reading"):
        pass
    return source


def unlabelled(rows: Halves) -> NDArray[np.int32]:
    return np.full(len(rows), NONE, np.int32)


def with_copies(rows: Halves) -> Halves:
    random = np.random.default_rng(0)
    rows = rows.astype(np.float32)
    third = len(rows) // 3
    noise = random.standard_normal((third, D), np.float32) * 0.1 / np.sqrt(D)
    rows[2 * third : 3 * third] = rows[:third] + noise
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[random.permutation(len(rows))].astype(np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=131_072)
    parser.add_argument("--clusters", type=int, default=4_096)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    tiny = {"rows": 512, "clusters": 16, "iterations": 1, "rounds": 1, "cluster_rows": 128}
    options = read_options(parser, tiny, cluster_rows=LARGE)
    threads = cores()
    compute = Compute(threads=threads)
    rows = synthetic.clip_like(options.rows, D)
    large = options.cluster_rows
    # The long race is run only twice: its figures are far apart.
    with torch_threads(threads):
        faiss.omp_set_num_threads(threads)  # PyTorch's as well, where both have one OpenMP
        found = [
            *(
                race_step(rows, options.clusters, labelled, options.rounds, compute)
                for labelled in (False, True)
            ),
            *(
                race_within(rows[: 2 * large], size, copies, options.rounds, compute)
                for size, copies in ((large, False), (large, True), (large // 16, False))
            ),
            race_kmeans(rows, options.clusters, options.iterations, 2, compute),
        ]
    shared = {
        "suite": "dedup",
        "d": D,
        "rows": options.rows,
        "clusters": options.clusters,
        "epsilon": EPSILON,
        "threads": threads,
        "faiss": faiss.__version__,
    }
    columns: Columns = (
        ("race", lambda row: row["race"]),
        ("peer", lambda row: row["peer"]),
        ("labelled", lambda row: str(row.get("labelled", ""))),
        ("copies", lambda row: str(row.get("copies", ""))),
        ("rows of a cluster", lambda row: str(row.get("cluster_rows", ""))),
        ("s", lambda row: f"{row['seconds']:.4f}"),
        ("peer, s", lambda row: f"{row['peer_seconds']:.4f}"),
        ("times as fast", lambda row: f"{row['times_as_fast']:.3f}"),
        ("by processor time", lambda row: f"{row['times_by_processor']:.3f}"),
    )
    publish([{**shared, **row} for row in found], options, columns, left=3)


if __name__ == "__main__":
    main()
