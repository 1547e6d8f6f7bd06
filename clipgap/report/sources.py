"""What a report is made of: opened, named, and checked to belong together."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.clip.analyze.api import Analysis, open_analysis
from clipgap.clip.images.reading import find_images, is_image_folder
from clipgap.clip.images.tables import ImageTable, find_tables
from clipgap.domains.composition import Said, open_said
from clipgap.errors import InputError, UsageError
from clipgap.files.addresses import public
from clipgap.files.documents import checksum
from clipgap.files.identity import digest_of_group
from clipgap.files.naming import Given, Named, named
from clipgap.files.parquet import FileSum
from clipgap.files.remote import path_of
from clipgap.files.settings import is_changed, read_settings, settings_file
from clipgap.files.volumes import File, LocalFile
from clipgap.heads.heads import Heads, open_heads
from clipgap.keep.certificates import read_certificate
from clipgap.keep.lists import KeepList, open_keep
from clipgap.report.evaluations import Evaluation, open_evaluation
from clipgap.report.paper import Paper, read_paper
from clipgap.scan.result import ScanResult, open_scan
from clipgap.shards.finding import TarShard, find_shards
from clipgap.store.options import Mixing
from clipgap.store.provenance import Meeting, Models, meet, models_in

LOG = logging.getLogger(__name__)

GAP_COLUMN = "reference"
"""What the reference is called when only its thresholds are known, from the scan."""


MIX = "mix"
"""The rule of a keep-list that `clipgap mix` drew."""


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
class Images:
    """Tar shards, tables or a folder with the images of a training or test set."""

    given: str

    @property
    def path(self) -> str:
        """As it may be shown."""
        return public(self.given)

    @cached_property
    def folder(self) -> Path | None:
        """None: tar shards or tables."""
        return Path(self.given) if not self._tables and is_image_folder(self.given) else None

    @cached_property
    def shards(self) -> Sequence[TarShard | ImageTable]:
        return [] if self.folder else self._tables or find_shards(self.given)

    @cached_property
    def _tables(self) -> list[ImageTable]:
        return find_tables(self.given)

    @cached_property
    def files(self) -> list[tuple[str, File]]:
        """Every shard or table, or every image of the folder, by its name."""
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
    domains: Mapping[str, Said] = field(default_factory=dict)
    heads: Mapping[str, Heads] = field(default_factory=dict)
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

    @cached_property
    def labelled(self) -> dict[str, Said]:
        """Folders that say domains: those that were named, and scans with heads of other stores."""
        found = dict(self.domains)
        for one in self.scans:
            inputs = one.scan.manifest["inputs"]
            stores = [_fingerprint(each.store) for each in found.values()]
            if "heads" in inputs and _fingerprint(inputs["train"]) not in stores:
                if one.name in found:
                    raise UsageError(
                        f"{one.name!r} names a scan, and domains of another store; name one of "
                        "them otherwise"
                    )
                assert one.scan.path is not None
                found[one.name] = open_said(one.scan.path)
        return found

    def keeps_of(self, folders: Mapping[str, Said]) -> dict[str, KeepList]:
        """The splits of which one of these folders says the domains."""
        stores = [_fingerprint(each.store) for each in folders.values()]
        return {
            name: keep
            for name, keep in self.splits.items()
            if _fingerprint(keep.manifest["store"]) in stores
        }

    def folders(self) -> Iterator[Path | None]:
        """Where all of it lies; None of a scan that is in memory."""
        yield from (one.scan.path for one in (*self.training_sets, *self.embeddings))
        yield from (keep.path for keep in self.splits.values())
        yield from (one.path for one in self.evaluations)
        yield from (one.path for one in self.analyses)
        yield from (one.path for one in self.domains.values())
        yield from (one.path for one in self.heads.values())

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
            **{
                kind: {name: checksum(one.manifest) for name, one in given.items()}
                for kind, given in (("domains", self.domains), ("heads", self.heads))
                if given
            },
            "calls": [FileSum.of_bytes(call["settings"].encode()).sha256 for call in self.calls],
            "certificates": {name: checksum(found) for name, found in self.certificates.items()},
            **({"mixed_models": True} if self.met.is_mixed else {}),
        }

    @cached_property
    def calls(self) -> list[Mapping[str, str]]:
        """The settings that lie beside the folders, where there are some."""
        folders = [folder for folder in self.folders() if folder is not None]
        for path in map(settings_file, folders):
            if is_changed(path):
                LOG.warning("%s was edited, or damaged: its folder may be of another call", path)
        return [call for call in map(read_settings, folders) if call is not None]

    @cached_property
    def certificates(self) -> dict[str, dict[str, Any]]:
        """What was proved of splits, by name."""
        found = ((name, read_certificate(keep)) for name, keep in self.splits.items())
        return {name: proof for name, proof in found if proof is not None}


def open_sources(
    scans: Named = (),
    reference: Named | None = None,
    splits: Named = (),
    evaluations: Sequence[Given] | Given = (),
    images: Mapping[str, Given] | None = None,
    paper: Given | None = None,
    embeddings: Named = (),
    analyses: Sequence[Given] | Given = (),
    domains: Named = (),
    heads: Named = (),
    mixing: Mixing | None = None,
) -> Sources:
    """Open everything; what does not belong together is refused, all of it in one message."""
    large = [TrainingSet(name, open_scan(path)) for name, path in named(scans, "scan").items()]
    references = [] if reference is None else list(named(reference, "reference").items())
    if not large and (reference is not None or embeddings):
        raise UsageError("a reference, and other embeddings, go beside a scan; give that as well")
    if len(references) > 1:
        raise UsageError("a report has one reference; give the others as scans")
    opened = [TrainingSet(name, open_scan(path), True) for name, path in references]
    sources = Sources(
        scans=tuple(large),
        reference=opened[0] if opened else None,
        splits={name: open_keep(path) for name, path in named(splits, "split").items()},
        evaluations=tuple(open_evaluation(path) for path in _listed(evaluations)),
        images={name: Images(str(path)) for name, path in (images or {}).items()},
        paper=None if paper is None else read_paper(path_of(paper)),
        embeddings=tuple(
            TrainingSet(name, open_scan(path))
            for name, path in named(embeddings, "embedding").items()
        ),
        analyses=tuple(open_analysis(path) for path in _listed(analyses)),
        domains={
            name: open_said(path_of(path))
            for name, path in named(domains, "folder of domains").items()
        },
        heads={name: open_heads(path) for name, path in named(heads, "folder of heads").items()},
    )
    if not any((large, sources.evaluations, sources.analyses, sources.domains, sources.heads)):
        raise UsageError(
            "a report needs something to show: a scan, domains, heads, an evaluation or an analysis"
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
    for embedding in sources.embeddings:
        large = sources.scans[0].scan
        for test in set(large.test_names).intersection(embedding.scan.test_names):
            rows = [one.test_input(test)["rows"] for one in (large, embedding.scan)]
            if rows[0] != rows[1]:
                yield (
                    f"test set {test!r} has {rows[0]:,} points in {large.label} and {rows[1]:,} in "
                    f"{embedding.scan.label}; another embedding must be of the same images"
                )
    stores = [_fingerprint(one.scan.manifest["inputs"]["train"]) for one in sources.scans]
    for name, keep in sources.splits.items():
        # A mix says itself what it was drawn from, and which domains it has.
        if (
            keep.manifest["rule"]["name"] != MIX
            and _fingerprint(keep.manifest["store"]) not in stores
        ):
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
