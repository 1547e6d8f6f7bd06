"""`composition`: the shares of natural images and renditions in stores and in keep-lists.

What heads say is counted, and is exact. How many rows truly are of a domain is estimated from it:
heads were tested, so it is known how often they say what of rows of each label, and they are taken
to err alike here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from clipgap.domains.labelling import KIND, add, count, zero
from clipgap.errors import InputError, UsageError
from clipgap.files.documents import MANIFEST, format_of, read_manifest
from clipgap.files.naming import Named, named
from clipgap.files.parquet import FileSum, read_row_groups
from clipgap.files.remote import path_of
from clipgap.heads.heads import DOMAIN_COLUMNS, LABELS
from clipgap.intervals import Interval
from clipgap.keep.lists import KeepList, open_keep
from clipgap.kernels.options import Compute
from clipgap.options import Only, takes_options
from clipgap.runs.how import How
from clipgap.scan.manifest import FORMAT, differences
from clipgap.scan.result import open_scan
from clipgap.scan.sinks import part_name
from clipgap.select.work import Workers

DRAWS = 4_000

PAPER: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "laion-200m": {"default": (0.6074, 0.2541, 0.1386), "strict": (0.2840, 0.6370, 0.0790)},
    "imagenet-train": {"default": (0.8920, 0.0962, 0.0118), "strict": (0.3600, 0.6360, 0.0040)},
    "combined-pruned": {"default": (0.6298, 0.2518, 0.1183), "strict": (0.2958, 0.6402, 0.0640)},
}
"""Shares of LABELS as "In Search of Forgotten Domain Generalization" (ICLR 2025) prints them."""


@dataclass(frozen=True)
class Composition:
    """What a store, or the rows of it that a keep-list keeps, is composed of."""

    name: str
    path: Path
    rows: int
    without: int
    """Rows that are zero, NaN or infinite, of which heads say nothing; not among `rows`."""
    said: Mapping[str, Mapping[str, int]]
    """Rows by point and by what heads say."""
    truly: Mapping[str, Interval] | None
    """Estimated shares of the labels, with 95 % intervals; None where some label was not tested."""
    paper: Mapping[str, Mapping[str, float]] | None
    """The shares of a paper for a set of this name."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


@takes_options
def composition(
    domains: Named,
    *,
    keep: Named = (),
    compute: Annotated[Compute, Only("threads")],
    how: How,
) -> list[Composition]:
    """How much of each store, and of what each keep-list keeps of it, is of which domain.

    `domains` are folders that `label_domains` made, or scans with heads; `keep` are keep-lists of
    their stores. Both may be mappings of names to paths. All must have been labelled by the same
    heads.
    """
    folders = {name: open_said(path_of(path)) for name, path in named(domains, "folder").items()}
    if not folders:
        raise UsageError("name at least one folder that `clipgap domains label` made, or a scan")
    _require_same_heads(folders)
    found = [_composed(name, each, each.counts) for name, each in folders.items()]
    for name, path in named(keep, "keep-list").items():
        if name in folders:
            raise UsageError(f"two parts are called {name!r}; write one as NAME=PATH")
        kept = open_keep(path)
        each = _labels_of(kept, list(folders.values()))
        counts = _count(each, kept, compute.threads, how)
        found.append(_composed(name, each, counts, kept.path))
    return found


@dataclass(frozen=True)
class Said:
    """A finished folder that says the domain of each row of a store."""

    path: Path
    manifest: Mapping[str, Any]
    store: Mapping[str, Any]

    @property
    def heads(self) -> Mapping[str, Any]:
        cited: Mapping[str, Any] = self.manifest["inputs"]["heads"]
        return cited

    @property
    def counts(self) -> Mapping[str, Any]:
        counts: Mapping[str, Any] = self.manifest["counts"]
        return counts


def open_said(path: Path) -> Said:
    """What `clipgap domains label` made, or a scan with heads."""
    if format_of(path / MANIFEST) != FORMAT:
        manifest = read_manifest(path, KIND.form, "Run the same command with --resume.")
        return Said(path, manifest, manifest["inputs"]["store"])
    scan = open_scan(path)
    if "heads" not in scan.manifest["inputs"]:
        raise InputError(f"{path} is a scan without heads; make it with --heads")
    return Said(path, scan.manifest, scan.manifest["inputs"]["train"])


def _require_same_heads(folders: Mapping[str, Said]) -> None:
    """Shares that different heads say cannot be compared."""
    first, *others = folders.values()
    for other in others:
        if other.heads["manifest_sha256"] != first.heads["manifest_sha256"]:
            raise InputError(
                f"{other.path} was labelled by {other.heads['path']}, {first.path} by other heads, "
                f"{first.heads['path']}; their shares cannot be compared. Label both by the same."
            )


def _labels_of(keep: KeepList, folders: Sequence[Said]) -> Said:
    """The domains of the store that a keep-list is of."""
    found = [
        folder for folder in folders if not any(differences(folder.store, keep.manifest["store"]))
    ]
    if len(found) != 1:
        names = ", ".join(str(folder.path) for folder in found or folders)
        raise InputError(
            f"the keep-list {keep.path} is of the store of "
            + (f"several: {names}" if found else f"none of {names}")
            + "; give it together with the domains of its store alone"
        )
    return found[0]


def _count(domains: Said, keep: KeepList, threads: int | None, how: How) -> dict[str, Any]:
    """The counts of the rows that are kept."""

    def of_shard(shard: int) -> dict[str, Any]:
        counts, name, start = zero(), part_name(shard), 0
        files = domains.manifest["files"]
        if name not in files:
            raise InputError(
                f"{domains.path} was made without a training table, so what is said "
                "of the rows of a keep-list is not known"
            )
        file = FileSum(**files[name])
        groups = read_row_groups(domains.path / name, file, list(DOMAIN_COLUMNS))
        for group in groups:
            add(counts, count(group, keep.bits(shard, start, start + group.num_rows)))
            start += group.num_rows
        return counts

    counts = zero()
    workers = Workers([shard.rows for shard in keep.shards], threads, how)
    for each in workers.each("counting", of_shard):
        add(counts, each)
    return counts


def _composed(
    name: str, domains: Said, counts: Mapping[str, Any], path: Path | None = None
) -> Composition:
    return Composition(
        name,
        path or domains.path,
        rows=counts["rows"] - counts["quarantined"],
        without=counts["quarantined"],
        said={point: counts[column] for column, point in DOMAIN_COLUMNS.items()},
        truly=estimate(
            counts["both"],
            domains.counts["both"],
            domains.heads["confusion"],
        ),
        paper=_printed(name),
    )


def _printed(name: str) -> dict[str, dict[str, float]] | None:
    shares = PAPER.get(name.lower().replace("_", "-"))
    if shares is None:
        return None
    return {point: dict(zip(LABELS, row, strict=True)) for point, row in shares.items()}


def estimate(
    said: Mapping[str, Mapping[str, int]],
    of_store: Mapping[str, Mapping[str, int]],
    confusion: Mapping[str, Mapping[str, Mapping[str, int]]],
) -> dict[str, Interval] | None:
    """The shares of the labels among rows of a store of which heads said this, with intervals.

    First those of the whole store: mixed at the rates at which heads say what of each label, they
    come nearest to what was said of it. By Bayes' rule these tell of which label rows are of which
    heads say this or that, kept ones like others. So it holds for a keep-list that was drawn by
    what heads say, where it matters most.

    Intervals hold 95 % of draws: of the rates, given the test rows, and of what heads would say of
    as many rows.
    """
    tested = np.array([_cells(confusion[label]) for label in LABELS])
    store, kept = _cells(of_store), _cells(said)
    if not kept.sum() or not tested.sum(axis=1).all():
        return None
    there = (tested.sum(axis=0) > 0) | (store > 0)  # what heads never say has no rate
    tested, store, kept = tested[:, there], store[there], kept[there]
    random = np.random.default_rng(0)  # the same answer whenever asked
    # One row beside the tested ones, in equal parts: the prior that sways rates least.
    rates = np.stack([random.dirichlet(row + 1 / len(row), DRAWS) for row in tested], axis=1)
    labels = _unmixed(_drawn(random, store), rates)
    joint = labels[:, :, None] * rates
    of_cell = joint / joint.sum(axis=1, keepdims=True)
    found = np.einsum("dlc,dc->dl", of_cell, _drawn(random, kept))
    low, middle, high = np.quantile(found, (0.025, 0.5, 0.975), axis=0)
    low = np.where(low * kept.sum() < 1, 0, low)  # less than a row is none
    return {
        label: Interval(*map(float, bounds))
        for label, *bounds in zip(LABELS, middle, low, high, strict=True)
    }


def _cells(said: Mapping[str, Mapping[str, int]]) -> NDArray[np.int64]:
    return np.array([said[one][other] for one in LABELS for other in LABELS], np.int64)


def _drawn(random: np.random.Generator, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shares, had as many rows been drawn again."""
    n = counts.sum()
    drawn: NDArray[np.float64] = random.multinomial(n, counts / n, DRAWS) / n
    return drawn


def _unmixed(shares: NDArray[np.float64], rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shares of labels that, mixed at these rates, come nearest to shares of what is said.

    Least squares, each weighted by how common it is; what comes out below 0 is 0.
    """
    weights = 1 / np.maximum(shares, 1 / len(shares[0]) ** 2)
    weighted = rates * weights[:, None, :]
    labels = np.linalg.solve(weighted @ rates.transpose(0, 2, 1), weighted @ shares[:, :, None])
    labels = np.maximum(labels[:, :, 0], 1e-12)
    unmixed: NDArray[np.float64] = labels / labels.sum(axis=1, keepdims=True)
    return unmixed
