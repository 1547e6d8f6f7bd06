"""Runs a plan into a folder: new, on from where a run stopped, or as a repair."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clipgap.clip.embed.folder import FORMAT, StoreFolder
from clipgap.clip.embed.plan import EmbedPlan
from clipgap.clip.embed.pool import run_units
from clipgap.clip.embed.worker import Done, Job, Step
from clipgap.errors import InputError, Interrupted
from clipgap.files.parquet import FileSum
from clipgap.runs.changes import changes, refuse_changes
from clipgap.runs.old_how import How
from clipgap.runs.old_lock import only_writer
from clipgap.runs.old_output import read_manifest
from clipgap.shards.quarantine import QUARANTINE, write_quarantine
from clipgap.store.own import STORE_FILE, Catalogue
from clipgap.store.writer import write_catalogue

_LABELS = {
    "model": "model's",
    "settings": "setting",
    "inputs shards": "shard",
    "inputs marks": "last change of shard",
}
_PACKAGES = ("clipgap", "torch", "torchvision", "open_clip_torch", "timm", "pillow")


@dataclass(frozen=True)
class Progress:
    """A moment of an embedding run."""

    stage: str  # "checking", "loading the model", "embedding"
    images: int = 0  # embedded or set aside, earlier runs included
    total_images: int = 0  # in shards an estimate by bytes, 0 as long as there is none
    earlier_images: int = 0
    shards: int = 0  # done
    total_shards: int = 0
    seconds: float = 0.0  # since this run had its first batch


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class EmbedResult:
    """A finished store."""

    path: Path
    manifest: Mapping[str, Any]
    already_complete: bool = False

    @property
    def images(self) -> int:
        """Rows of the store."""
        return int(self.manifest["counts"]["images"])

    @property
    def problems(self) -> int:
        """Images, members and shards in quarantine."""
        return int(self.manifest["counts"]["problems"])


def run(plan: EmbedPlan, out: Path, how: How[Progress]) -> EmbedResult:
    """Carry a plan out."""
    with only_writer(out):
        return _run(plan, StoreFolder(out), how)


def _run(plan: EmbedPlan, folder: StoreFolder, how: How[Progress]) -> EmbedResult:
    state = folder.state()
    if state != "empty" and not (how.resume or how.overwrite):
        raise folder.require_flag(state)
    how.report(Progress("checking", total_shards=len(plan.units)))
    described = plan.describe()
    inputs = {**described["inputs"], "marks": plan.marks()}
    marked = {**described, "inputs": inputs}
    if state == "empty" or how.overwrite:
        folder.start(marked)
    elif state == "unfinished":
        refuse_changes(folder.path, list(changes(folder.started_with(), marked, _LABELS)))
        folder.go_on(marked)
    else:
        manifest = _unchanged_manifest(folder, described)
        sums = {name: FileSum(**entry) for name, entry in manifest["files"].items()}
        if not (damaged := set(folder.damaged(sums))):
            folder.tidy()
            return EmbedResult(folder.path, manifest, already_complete=True)
        made = [Done.from_json(each) for each in manifest["shards"]]
        folder.reopen(marked, [each for each in made if damaged.isdisjoint(each.files)])
    done = _embed(plan, folder, how)
    return _finish(plan, folder, described, done)


def _embed(plan: EmbedPlan, folder: StoreFolder, how: How[Progress]) -> dict[str, Done]:
    """All units, those of earlier runs included."""
    done = folder.saved(plan.units)
    left = [unit for unit in plan.units if unit.name not in done]
    watch = _Watch(plan, how, done)
    job = Job(
        folder.path,
        plan.model,
        plan.pretrained,
        plan.options.precision,
        plan.options.batch_size,
        plan.options.captions,
    )
    if not left:
        return done
    try:
        for event in run_units(job, left, plan.devices, how.is_asked_to_stop):
            if isinstance(event, Done):
                folder.save(event)
                done[event.entry.name] = event
            watch.see(event)
    except Interrupted as error:
        if not how.is_asked_to_stop():
            raise
        missing = len(plan.units) - len(done)
        raise Interrupted(
            f"stopped with {missing:,} of {len(plan.units):,} shards left; --resume goes on"
        ) from error
    return done


def _finish(
    plan: EmbedPlan, folder: StoreFolder, described: Mapping[str, Any], done: Mapping[str, Done]
) -> EmbedResult:
    """What is about all shards together, and the manifest."""
    made = [done[unit.name] for unit in plan.units]
    problems = [problem for each in made for problem in each.problems]
    images = sum(each.entry.rows for each in made)
    if not images:
        raise InputError.listing(
            f"{plan.source}: not one image could be embedded, so there is no store:",
            [str(problem) for problem in problems] or ["there are no samples"],
        )
    _require_one_model(folder, made)
    files = {name: entry for each in made for name, entry in each.files.items()}
    folder.remove_strangers(files)
    if problems:
        files[QUARANTINE] = write_quarantine(folder.path, problems)
    catalogue = Catalogue(made[0].dim, True, tuple(each.entry for each in made))
    write_catalogue(folder.path, catalogue)
    files[STORE_FILE] = FileSum.of(folder.path / STORE_FILE)
    manifest = {
        "format": FORMAT,
        "version": 1,
        **described,
        "dim": made[0].dim,
        "preprocess": made[0].model["preprocess"],
        "counts": {
            "shards": len(made),
            "images": images,
            "problems": len(problems),
            "without_caption": sum(each.without_caption for each in made),
        },
        "shards": [each.to_json() for each in made],
        "versions": _versions(),
        "files": {name: asdict(entry) for name, entry in sorted(files.items())},
    }
    folder.finish(manifest)
    return EmbedResult(folder.path, manifest)


def _unchanged_manifest(folder: StoreFolder, described: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a finished store, if it is what would be made now."""
    manifest = read_manifest(folder.path, FORMAT, folder.noun, "Run the same command again.")
    old = {key: manifest[key] for key in described}
    refuse_changes(folder.path, list(changes(old, described, _LABELS)))
    return manifest


def _require_one_model(folder: StoreFolder, made: Sequence[Done]) -> None:
    """Weights on a hub may be replaced, and preprocessing changes with versions."""
    for each in made[1:]:
        if (each.dim, each.model) != (made[0].dim, made[0].model):
            raise InputError(
                f"{folder.path}: shard {each.entry.name} was embedded with other dimensions or "
                f"preprocessing than {made[0].entry.name}; embed all again with --overwrite"
            )


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class _Watch:
    """Counts images and reports progress."""

    def __init__(self, plan: EmbedPlan, how: How[Progress], done: Mapping[str, Done]) -> None:
        self._plan, self._how = plan, how
        self._shards = len(done)
        self._earlier = self._images = sum(_images_of(each) for each in done.values())
        self._bytes = sum(unit.size for unit in plan.units if unit.name in done)
        self._began: float | None = None
        self._first = 0
        self._report("loading the model")

    def see(self, event: Step | Done) -> None:
        if isinstance(event, Done):
            self._shards += 1
        else:
            if self._began is None:
                # The first batch waits for the model and for the first images.
                self._began, self._first = time.monotonic(), event.images
            self._images += event.images
            self._bytes += event.bytes
        self._report("embedding")

    def _report(self, stage: str) -> None:
        seconds = 0.0 if self._began is None else time.monotonic() - self._began
        progress = Progress(
            stage,
            images=self._images,
            total_images=self._total(),
            earlier_images=self._earlier + self._first,
            shards=self._shards,
            total_shards=len(self._plan.units),
            seconds=seconds,
        )
        self._how.report(progress)

    def _total(self) -> int:
        if self._plan.images is not None:
            return self._plan.images
        if not self._bytes or not self._images:
            return 0
        share = min(1.0, self._bytes / self._plan.bytes)
        return max(self._images, round(self._images / share))


def _images_of(done: Done) -> int:
    return done.entry.rows + sum(problem.what == "sample" for problem in done.problems)
