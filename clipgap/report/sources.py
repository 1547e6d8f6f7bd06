"""What a report is made of: opened, named, and checked to belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.clip.analyze.api import Analysis, open_analysis
from clipgap.clip.eval.api import PAIRED, SUMMARY
from clipgap.clip.eval.api import open_evaluation as open_result
from clipgap.clip.eval.work import SAMPLES
from clipgap.clip.images.reading import find_images, is_image_folder
from clipgap.errors import InputError, UsageError
from clipgap.files.addresses import public
from clipgap.files.documents import checksum
from clipgap.files.identity import digest_of_group
from clipgap.files.naming import Given, Named, named
from clipgap.files.parquet import FileSum, read_table
from clipgap.files.settings import read_settings
from clipgap.files.volumes import File, LocalFile
from clipgap.keep.certificates import read_certificate
from clipgap.keep.lists import KeepList, open_keep
from clipgap.report.paper import Paper, read_paper
from clipgap.scan.result import ScanResult, open_scan
from clipgap.shards.finding import TarShard, find_shards
from clipgap.store.options import Mixing
from clipgap.store.provenance import Meeting, Models, meet, models_in

GAP_COLUMN = "reference"
"""What the reference is called when only its thresholds are known, from the scan."""


_COLUMNS = {
    SUMMARY: "checkpoint set group metric samples correct accuracy low high".split(),
    PAIRED: "set group first second difference low high draws seed".split(),
    SAMPLES: "row key label prediction correct".split(),
}


@dataclass(frozen=True)
class Points:
    """Of the points of a test set: keys, similarity to the nearest row, threshold."""

    keys: Any  # pyarrow strings
    similarity: NDArray[np.float64]  # NaN where it has no score
    gap: NDArray[np.float64] | None  # NaN where it has none; None if the scan has none


@dataclass(frozen=True)
class TrainingSet:
    """A scan under the name that the report gives to what was scanned."""

    name: str
    scan: ScanResult
    is_reference: bool = False
    _read: dict[str, Points] = field(default_factory=dict, repr=False)

    def points(self, test: str) -> Points:
        """What the scan says of the points of a test set; read once."""
        if test not in self._read:
            table = self.scan.test(test)
            gap = table["gap"]
            self._read[test] = Points(
                keys=table["key"].combine_chunks(),
                similarity=_finite(self.scan.tau(test)),
                gap=None
                if gap.null_count == len(gap)
                else _finite(gap.to_numpy(zero_copy_only=False).astype(np.float64)),
            )
        return self._read[test]

    def similarity(self, test: str) -> NDArray[np.float64]:
        """s_test of each test point; NaN where it has no score."""
        return self.points(test).similarity


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation; its tables are checked when they are read."""

    path: Path
    manifest: Mapping[str, Any]

    @cached_property
    def summary(self) -> list[dict[str, Any]]:
        """One entry per checkpoint, set, group and metric."""
        rows: list[dict[str, Any]] = self._table(SUMMARY, SUMMARY).to_pylist()
        return rows

    @cached_property
    def paired(self) -> list[dict[str, Any]]:
        """Differences between checkpoints; empty if there is only one."""
        if PAIRED not in self.manifest["files"]:
            return []
        rows: list[dict[str, Any]] = self._table(PAIRED, PAIRED).to_pylist()
        return rows

    @property
    def pairs(self) -> Iterator[tuple[str, str]]:
        """Which checkpoint was evaluated on which test set."""
        return iter(dict.fromkeys((row["checkpoint"], row["set"]) for row in self.summary))

    @property
    def missing(self) -> dict[str, int]:
        """Of checkpoints that were trained without all of their keep-list, how many it lacked."""
        found = {one["name"]: one.get("missing", 0) for one in self.manifest["checkpoints"]}
        return {name: count for name, count in found.items() if count}

    def samples(self, checkpoint: str, test: str) -> Any:
        """One row a test point; None if they were not kept."""
        name = f"{SAMPLES}/{checkpoint}/{test}.parquet"
        return self._table(name, SAMPLES) if name in self.manifest["files"] else None

    def classes(self, test: str) -> list[str]:
        """The names of a set's classes, if the evaluation lists them."""
        for entry in self.manifest["sets"]:
            if entry["name"] == test and isinstance(entry.get("classes"), list):
                return [str(name) for name in entry["classes"]]
        return []

    def _table(self, name: str, kind: str) -> Any:
        path = self.path / name
        if name not in self.manifest["files"]:
            raise InputError(f"the evaluation {self.path} has no {name}. Make it again.")
        table = read_table(path, FileSum(**self.manifest["files"][name]))
        if missing := [name for name in _COLUMNS[kind] if name not in table.column_names]:
            raise InputError(f"{path} lacks the columns {', '.join(missing)}")
        return table


@dataclass(frozen=True)
class Images:
    """Tar shards or a folder with the images of a training or test set."""

    given: str

    @property
    def path(self) -> str:
        """As it may be shown."""
        return public(self.given)

    @cached_property
    def folder(self) -> Path | None:
        """None: tar shards."""
        return Path(self.given) if is_image_folder(self.given) else None

    @cached_property
    def shards(self) -> list[TarShard]:
        return [] if self.folder else find_shards(self.given)

    @cached_property
    def files(self) -> list[tuple[str, File]]:
        """Every shard, or every image of the folder, by its name."""
        if self.folder is None:
            return [(shard.name, shard.file) for shard in self.shards]
        found = find_images(self.folder)
        if not found:
            raise InputError(f"{self.path}: holds no .tar files, nor images in it or below it")
        return [(path, LocalFile.found(str(self.folder / path), status)) for path, status in found]

    def identity(self) -> dict[str, str]:
        return {"path": self.path, "sha256": digest_of_group(self.files)}


@dataclass(frozen=True)
class Sources:
    """All that goes into a report. The first scan is the large set that figures are about."""

    scans: tuple[TrainingSet, ...]
    reference: TrainingSet | None
    splits: Mapping[str, KeepList]
    evaluations: tuple[Evaluation, ...]
    images: Mapping[str, Images]  # by name of a training or test set
    paper: Paper | None
    embeddings: tuple[TrainingSet, ...] = ()  # the first scan again, by other embeddings
    analyses: tuple[Analysis, ...] = ()
    met: Meeting = field(default_factory=Meeting)  # of all stores but those of `embeddings`

    @property
    def training_sets(self) -> tuple[TrainingSet, ...]:
        return self.scans if self.reference is None else (*self.scans, self.reference)

    @cached_property
    def tests(self) -> tuple[str, ...]:
        """All test sets, in the order in which the scans name them."""
        names = [name for training in self.training_sets for name in training.scan.test_names]
        return tuple(dict.fromkeys(names))

    def having(self, test: str) -> Iterator[TrainingSet]:
        """The training sets that were scanned against a test set."""
        return (one for one in self.training_sets if test in one.scan.test_names)

    def large(self, test: str) -> TrainingSet | None:
        """The set whose neighbours count: the first scan that has the test set."""
        return next((one for one in self.scans if test in one.scan.test_names), None)

    def thresholds(self, test: str) -> tuple[str, NDArray[np.float64]] | None:
        """What the reference scores at each test point, and the reference's name."""
        if self.reference is not None and test in self.reference.scan.test_names:
            return self.reference.name, self.reference.similarity(test)
        large = self.large(test)
        gap = None if large is None else large.points(test).gap
        return None if gap is None else (GAP_COLUMN, gap)

    def splits_of(self, training: TrainingSet) -> dict[str, KeepList]:
        """The splits of the store that a scan is about."""
        store = _fingerprint(training.scan.manifest["inputs"]["train"])
        return {
            name: keep
            for name, keep in self.splits.items()
            if _fingerprint(keep.manifest["store"]) == store
        }

    def folders(self) -> Iterator[Path | None]:
        """Where all of it lies; None of a scan that is in memory."""
        yield from (one.scan.path for one in (*self.training_sets, *self.embeddings))
        yield from (keep.path for keep in self.splits.values())
        yield from (one.path for one in self.evaluations)
        yield from (one.path for one in self.analyses)

    def identity(self) -> dict[str, Any]:
        """For the manifest: equal sources are equal here, wherever they lie."""
        analyses = [checksum(one.manifest) for one in self.analyses]
        return {
            "scans": {one.name: checksum(one.scan.manifest) for one in self.scans},
            "reference": None
            if self.reference is None
            else {self.reference.name: checksum(self.reference.scan.manifest)},
            "splits": {name: checksum(keep.manifest) for name, keep in self.splits.items()},
            "evaluations": [checksum(one.manifest) for one in self.evaluations],
            "images": {name: one.identity() for name, one in self.images.items()},
            "paper": None if self.paper is None else self.paper.sha256,
            "embeddings": {one.name: checksum(one.scan.manifest) for one in self.embeddings},
            **({"analyses": analyses} if analyses else {}),
            "calls": [FileSum.of_bytes(call["settings"].encode()).sha256 for call in self.calls],
            "certificates": {name: checksum(found) for name, found in self.certificates.items()},
            **({"mixed_models": True} if self.met.is_mixed else {}),
        }

    @property
    def calls(self) -> list[Mapping[str, str]]:
        """The settings that lie beside the folders, where there are some."""
        found = (read_settings(folder) for folder in self.folders() if folder is not None)
        return [call for call in found if call is not None]

    @cached_property
    def certificates(self) -> dict[str, dict[str, Any]]:
        """What was proved of splits, by name."""
        found = ((name, read_certificate(keep)) for name, keep in self.splits.items())
        return {name: proof for name, proof in found if proof is not None}


def open_sources(
    scans: Named,
    reference: Named | None = None,
    splits: Named = (),
    evaluations: Sequence[Given] | Given = (),
    images: Mapping[str, Given] | None = None,
    paper: Given | None = None,
    embeddings: Named = (),
    analyses: Sequence[Given] | Given = (),
    mixing: Mixing | None = None,
) -> Sources:
    """Open everything; what does not belong together is refused, all of it in one message."""
    large = [TrainingSet(name, open_scan(path)) for name, path in named(scans, "scan").items()]
    references = [] if reference is None else list(named(reference, "reference").items())
    if not large:
        raise UsageError("a report needs at least one scan")
    if len(references) > 1:
        raise UsageError("a report has one reference; give the others as scans")
    opened = [TrainingSet(name, open_scan(path), True) for name, path in references]
    sources = Sources(
        scans=tuple(large),
        reference=opened[0] if opened else None,
        splits={name: open_keep(path) for name, path in named(splits, "split").items()},
        evaluations=tuple(open_evaluation(Path(path)) for path in _listed(evaluations)),
        images={name: Images(str(path)) for name, path in (images or {}).items()},
        paper=None if paper is None else read_paper(Path(paper)),
        embeddings=tuple(
            TrainingSet(name, open_scan(path))
            for name, path in named(embeddings, "embedding").items()
        ),
        analyses=tuple(open_analysis(path) for path in _listed(analyses)),
    )
    _check_names(sources)
    if problems := list(_disagreements(sources)):
        raise InputError.listing("these inputs cannot go into one report:", problems)
    return replace(sources, met=_meet(sources.training_sets, mixing or Mixing()))


def _listed(given: Sequence[Given] | Given) -> Sequence[Given]:
    return [given] if isinstance(given, str | Path) else given


def _meet(training_sets: Sequence[TrainingSet], mixing: Mixing) -> Meeting:
    stores: dict[str, Models] = {}
    for one in training_sets:
        inputs = one.scan.manifest["inputs"]
        stores[f"{one.name} ({inputs['train']['path']})"] = models_in(inputs["train"])
        for test in inputs["tests"]:
            stores[f"test set {test['name']!r} ({test['path']})"] = models_in(test)
    return meet(stores, mixing)


def open_evaluation(folder: Path) -> Evaluation:
    """Open a finished evaluation folder."""
    manifest = open_result(folder).manifest
    if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("sets"), list):
        raise InputError(f"{folder}/manifest.json is damaged: it lists no files or no sets")
    return Evaluation(folder, manifest)


def _check_names(sources: Sources) -> None:
    known = [*sources.tests, *(one.name for one in sources.training_sets)]
    for name, count in Counter([*known, *(one.name for one in sources.embeddings)]).items():
        if count > 1:
            raise UsageError(f"{name!r} names two of the inputs; name one of them otherwise")
    for name in sources.images:
        if name not in known:
            raise UsageError(
                f"--images {name}: there is no such training or test set; known are "
                f"{', '.join(known)}"
            )


def _disagreements(sources: Sources) -> Iterator[str]:
    for test in sources.tests:
        first, *others = sources.having(test)
        for other in others:
            ours, theirs = (one.scan.test_input(test) for one in (first, other))
            if ours["sha256"] != theirs["sha256"]:
                yield (
                    f"test set {test!r} is another one in {first.scan.label} than in "
                    f"{other.scan.label}"
                )
    large = sources.scans[0].scan
    for embedding in sources.embeddings:
        for test in set(large.test_names).intersection(embedding.scan.test_names):
            rows = [one.test_input(test)["rows"] for one in (large, embedding.scan)]
            if rows[0] != rows[1]:
                yield (
                    f"test set {test!r} has {rows[0]:,} points in {large.label} and {rows[1]:,} in "
                    f"{embedding.scan.label}; another embedding must be of the same images"
                )
    stores = [_fingerprint(one.scan.manifest["inputs"]["train"]) for one in sources.scans]
    for name, keep in sources.splits.items():
        if _fingerprint(keep.manifest["store"]) not in stores:
            yield f"split {name!r} ({keep.path}) is of a store that none of the scans is about"
    for (checkpoint, test), count in Counter(
        pair for one in sources.evaluations for pair in one.pairs
    ).items():
        if count > 1:
            yield f"checkpoint {checkpoint!r} was evaluated on {test!r} in {count} evaluations"


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


def _fingerprint(store: Mapping[str, Any]) -> tuple[tuple[int, str | None], ...]:
    return tuple((shard["rows"], shard.get("fingerprint")) for shard in store["shards"])
