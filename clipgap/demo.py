"""The whole of it in miniature: data made here, reference scan, training scan, proof.

Three kinds of rows make up the training set, so that part of the answer is known beforehand: rows
like the web's, near-duplicates of test points, and the whole reference set. What was planted must
be found; and of the reference set, whose rows tie at best with the thresholds that they set
themselves, not one row may be pruned.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipgap import synthetic
from clipgap.errors import InputError
from clipgap.scan import Progress, ScanResult, VerifyReport, gap, scan, verify
from clipgap.scan.progress import OnProgress
from clipgap.store import StoreWriter

DIM = 640
SHARDS = 4
QUANTILES = (0.05, 0.5, 0.95)
HOME, ABROAD, WEB = 0, 1, 2  # worlds of `clipgap.synthetic`
WEB_LIKENESS = 0.8
MOST_NOISE = 0.8  # near-duplicates get noise of up to this length: cosines from 1.0 down to 0.78
MARKER = "made-by-clipgap-demo"
PARTS = ("train", "reference", "test", "gap", "scan")

Rows = NDArray[np.float16]


@dataclass(frozen=True)
class TestKind:
    """A test set to make, and how many near-duplicates of its points to plant."""

    __test__ = False  # no test case, whatever pytest makes of the name

    name: str
    points: int
    planted: int
    likeness: float  # to the reference set: the share of the energy that comes from its world


@dataclass(frozen=True)
class Sizes:
    """How much data to make."""

    web: int = 51_000
    reference: int = 8_000
    tests: tuple[TestKind, ...] = (
        TestKind("val", points=2_000, planted=600, likeness=1.0),
        TestKind("sketch", points=1_500, planted=400, likeness=0.7),
    )


@dataclass(frozen=True)
class Made:
    """What is known of the training rows before any scan."""

    rows: Rows
    origin: NDArray[np.str_]  # "web", "reference", or "near-NAME" for near-duplicates
    number: NDArray[np.int64]  # of the row in its origin; for near-duplicates, of the test point
    tests: dict[str, Rows]


@dataclass(frozen=True)
class SetOutcome:
    """What the scan found for one test set."""

    name: str
    points: int
    tau: tuple[float, ...]  # at QUANTILES
    pruned: int
    planted: int
    nearer: int  # planted rows nearer to their test point than the reference set is
    found: int  # pruned ones among those; all, if the scan is right


@dataclass(frozen=True)
class Outcome:
    """What the demo shows at its end."""

    folder: Path
    rows: int
    pruned: int  # by any test set
    reference_rows: int
    reference_ties: int  # rows of the reference set in TRAIN with a margin of exactly 0
    reference_pruned: int
    sets: tuple[SetOutcome, ...]
    passed: Progress  # the pass over the training set at its end
    verification: VerifyReport

    @property
    def as_expected(self) -> bool:
        found = all(outcome.found == outcome.nearer for outcome in self.sets)
        return found and self.reference_pruned == 0 and self.verification.ok


def run_demo(folder: Path, on_progress: OnProgress, sizes: Sizes | None = None) -> Outcome:
    """Make the data, scan it and prove the scan right, all in `folder`."""
    prepare(folder)
    on_progress(Progress("making data"))
    made = make_data(folder, sizes or Sizes())
    passed: list[Progress] = []

    def watch(progress: Progress) -> None:
        if progress.stage == "scanning":
            passed.append(progress)
        on_progress(progress)

    tests = {name: folder / "test" / name for name in made.tests}
    reference = gap(folder / "reference", tests, out=folder / "gap", on_progress=on_progress)
    result = scan(folder / "train", tests, gap=reference, out=folder / "scan", on_progress=watch)
    report = verify(folder / "scan", on_progress=on_progress)
    return _outcome(folder, made, reference, result, passed[-1], report)


def prepare(folder: Path) -> None:
    """Make the folder, or empty one that an earlier demo made; touch nothing else."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the demo with --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise InputError(
            f"{folder} was not made by the demo, so it is left alone; name another with --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
        for part in PARTS:
            shutil.rmtree(folder / part, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from error


def make_data(folder: Path, sizes: Sizes) -> Made:
    """Write all stores, the training set as clip-retrieval lays it out, the others as we do."""
    random = np.random.default_rng(0)
    reference = synthetic.clip_like(sizes.reference, DIM, seed=1, world=HOME)
    groups = {
        "reference": (np.arange(sizes.reference), reference),
        "web": (np.arange(sizes.web), _rows(sizes.web, 2, WEB, WEB_LIKENESS)),
    }
    tests = {}
    for seed, kind in enumerate(sizes.tests, start=3):
        tests[kind.name] = _rows(kind.points, seed, ABROAD, kind.likeness)
        points = random.choice(kind.points, kind.planted, replace=False)
        groups[f"near-{kind.name}"] = (points, _near(tests[kind.name][points], random))

    order = random.permutation(sum(len(rows) for _, rows in groups.values()))
    made = Made(
        rows=np.concatenate([rows for _, rows in groups.values()])[order],
        origin=np.repeat(list(groups), [len(rows) for _, rows in groups.values()])[order],
        number=np.concatenate([numbers for numbers, _ in groups.values()])[order],
        tests=tests,
    )
    _write_store(folder / "reference", "reference", reference)
    for name, rows in tests.items():
        _write_store(folder / "test" / name, name, rows)
    _write_clip_retrieval(folder / "train", made)
    return made


def _rows(count: int, seed: int, other_world: int, likeness: float) -> Rows:
    """Rows that share `likeness` of their energy with the reference set's world."""
    home = synthetic.clip_like(count, DIM, seed, world=HOME).astype(np.float32)
    other = synthetic.clip_like(count, DIM, seed, world=other_world).astype(np.float32)
    return _unit(np.sqrt(likeness) * home + np.sqrt(1 - likeness) * other)


def _near(rows: Rows, random: np.random.Generator) -> Rows:
    """The rows with noise, from hardly any to a lot."""
    noise = random.standard_normal(rows.shape, dtype=np.float32)
    length = np.linspace(0, MOST_NOISE, len(rows), dtype=np.float32) / np.sqrt(DIM)
    return _unit(rows.astype(np.float32) + noise * length[:, None])


def _unit(rows: NDArray[np.float32]) -> Rows:
    unit: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    return unit


def _write_store(folder: Path, name: str, rows: Rows) -> None:
    with StoreWriter(folder, DIM) as writer:
        writer.add(rows, keys=[f"{name}-{number:06d}" for number in range(len(rows))])


def _write_clip_retrieval(folder: Path, made: Made) -> None:
    """`img_emb/img_emb_0.npy` with `metadata/metadata_0.parquet`, and so on."""
    for inner in ("img_emb", "metadata"):
        (folder / inner).mkdir(parents=True)
    for shard, of_shard in enumerate(np.array_split(np.arange(len(made.rows)), SHARDS)):
        np.save(folder / "img_emb" / f"img_emb_{shard}.npy", made.rows[of_shard])
        origin, number = made.origin[of_shard].tolist(), made.number[of_shard].tolist()
        keys = [f"{group}-{n:06d}" for group, n in zip(origin, number, strict=True)]
        table = pa.table({"image_path": keys, "caption": [f"a photo of {key}" for key in keys]})
        pq.write_table(table, folder / "metadata" / f"metadata_{shard}.parquet")


def _outcome(
    folder: Path,
    made: Made,
    reference: ScanResult,
    result: ScanResult,
    passed: Progress,
    report: VerifyReport,
) -> Outcome:
    table = result.train_table()
    margin = {name: table[f"margin_{name}"].to_numpy() for name in made.tests}
    pruned = {name: table[f"pruned_{name}"].to_numpy() for name in made.tests}
    own = made.origin == "reference"
    return Outcome(
        folder=folder,
        rows=result.rows,
        pruned=result.manifest["counts"]["pruned_by_any"],
        reference_rows=int(own.sum()),
        reference_ties=int(sum((margin[name][own] == 0) for name in made.tests).astype(bool).sum()),
        reference_pruned=int(sum(pruned[name][own].sum() for name in made.tests)),
        sets=tuple(
            _set_outcome(made, name, reference.tau(name), pruned[name]) for name in made.tests
        ),
        passed=passed,
        verification=report,
    )


def _set_outcome(
    made: Made, name: str, tau: NDArray[np.float64], pruned: NDArray[np.bool_]
) -> SetOutcome:
    planted = np.flatnonzero(made.origin == f"near-{name}")
    points = made.number[planted]
    pairs: list[Any] = [made.rows[planted], made.tests[name][points]]
    sim = np.einsum("ij,ij->i", *(rows.astype(np.float64) for rows in pairs))
    nearer = sim > tau[points]
    return SetOutcome(
        name=name,
        points=len(tau),
        tau=tuple(np.quantile(tau, QUANTILES).tolist()),
        pruned=int(pruned.sum()),
        planted=len(planted),
        nearer=int(nearer.sum()),
        found=int((nearer & pruned[planted]).sum()),
    )
