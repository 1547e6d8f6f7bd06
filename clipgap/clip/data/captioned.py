"""Tar shards of a folder of images by class, with captions made of the names of the classes.

    OUT/captioned-00000.tar         samples: the image as it is, a caption (.txt), a label (.cls)
    OUT/captioned-00000_stats.json  how many; sizes.json says it of all shards
    OUT/manifest.json

Shards of the web are called 00000.tar; `train --add-reference` wants names that differ.

Keys are paths in the folder, without the ending: FOLDER OF THE CLASS/NAME. All images are shuffled
by the seed, so that each shard has some of all classes.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from clipgap.clip.data.options import PLACE, CaptionOptions
from clipgap.clip.data.registry import find_set
from clipgap.clip.images.reading import CAPTION, CLASS, IMAGE_EXTENSIONS, class_folders, find_images
from clipgap.errors import InputError
from clipgap.files.atomic import write_atomic
from clipgap.files.documents import FILES, Each, Form, is_count, write_json
from clipgap.files.identity import digest_of_group, mark_of
from clipgap.files.remote import path_here
from clipgap.files.sums import AnySum, sums_from_json
from clipgap.files.volumes import LocalFile
from clipgap.machine import thread_count
from clipgap.options import takes_options
from clipgap.runs.executors import Threads
from clipgap.runs.how import How, Progress, Tally
from clipgap.runs.output import Complete, Damaged, Kind, open_output, spare
from clipgap.runs.run import run_units
from clipgap.runs.units import Made, Slot
from clipgap.select.order import at_random
from clipgap.shards.api import SIZES
from clipgap.shards.archive import ArchiveWriter, Piece
from clipgap.shards.groups import split_name, unsafe
from clipgap.shards.tar import BLOCK
from clipgap.shards.work import statistics
from clipgap.version import __version__

KIND = Kind(
    Form(
        "clipgap-captioned",
        "folder of captioned shards",
        {
            "settings": {
                "classes": (None, str),
                "caption": [str],
                "seed": is_count,
                "per_shard": is_count,
            },
            "images": {"path": str, "bytes": is_count, "fingerprint": str},
            "classes": [{"folder": str, "name": str}],
            "counts": Each(is_count),
            "files": FILES,
        },
    ),
    owns=("captioned-*.tar", "captioned-*_stats.json", SIZES),
    labels={"images": "images' entry", "classes": "class"},
    free=("path",),
)


@dataclass(frozen=True)
class Captioned:
    """What lies in the folder."""

    path: Path
    images: int
    shards: int
    classes: int
    already_complete: bool = False  # True: a resumed run found nothing to do


@dataclass(frozen=True)
class Image:
    """One image, and what its sample is called and says."""

    key: str
    file: LocalFile
    caption: str
    label: int

    @property
    def extension(self) -> str:
        return self.file.path.rpartition(".")[2].lower()

    def pieces(self) -> Iterator[Piece]:
        """The sample, with the bytes of the image as pieces of its file."""
        size = self.file.size
        yield from (_header(f"{self.key}.{self.extension}", size), (0, size), bytes(-size % BLOCK))
        for extension, text in words_of(self.caption, self.label).items():
            yield _header(f"{self.key}.{extension}", len(text)) + text + bytes(-len(text) % BLOCK)


@dataclass(frozen=True)
class Shard:
    """The unit: a tar file, and the images in it."""

    name: str
    images: Sequence[Image]

    @property
    def size(self) -> int:
        return sum(image.file.size for image in self.images)

    @property
    def tar(self) -> str:
        return f"{self.name}.tar"

    @property
    def stats(self) -> str:
        return f"{self.name}_stats.json"

    @property
    def files(self) -> tuple[str, str]:
        return self.tar, self.stats


@dataclass(frozen=True)
class CaptionPlan:
    """All images with their captions, as they will be dealt."""

    root: Path
    options: CaptionOptions
    names: Mapping[str, str]  # of the classes, by folder, in the order of their labels
    files: Mapping[str, LocalFile]  # by key, ascending

    @cached_property
    def shards(self) -> list[Shard]:
        keys, per = deal(list(self.files), self.options), self.options.per_shard
        labels = {folder: label for label, folder in enumerate(self.names)}
        images = []
        for key in keys:
            folder = key.partition("/")[0]
            caption = caption_of(key, self.names[folder], self.options)
            images.append(Image(key, self.files[key], caption, labels[folder]))
        starts = range(0, len(images), per)
        return [Shard(f"captioned-{n:05d}", images[at : at + per]) for n, at in enumerate(starts)]

    def describe(self) -> dict[str, Any]:
        """All that the shards follow from."""
        return {
            "kind": "captioned",
            "settings": {**asdict(self.options), "caption": list(self.options.caption)},
            "images": {
                "path": str(self.root.resolve()),
                "bytes": sum(file.size for file in self.files.values()),
                "fingerprint": digest_of_group(list(self.files.items())),
            },
            "classes": [{"folder": key, "name": name} for key, name in self.names.items()],
        }


def deal(keys: Sequence[str], options: CaptionOptions) -> list[str]:
    """Keys, given in ascending order, in the order of the shards."""
    ranks = at_random(np.arange(len(keys)), options.seed)
    return [keys[place] for place in np.argsort(ranks, kind="stable").tolist()]


def caption_of(key: str, name: str, options: CaptionOptions) -> str:
    """The caption of an image, which follows from the seed and its key."""
    drawn = blake2b(f"{options.seed}\0{key}".encode(), digest_size=8).digest()
    texts = options.caption
    return texts[int.from_bytes(drawn, "little") * len(texts) >> 64].replace(PLACE, name)


def words_of(caption: str, label: int) -> dict[str, bytes]:
    """The members beside a picture."""
    return {CAPTION: caption.encode(), CLASS: str(label).encode()}


@takes_options
def plan_captions(path: str | Path, *, options: CaptionOptions) -> CaptionPlan:
    """What `caption_folder` would write; lists the images, opens none."""
    root = path_here(path)
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; it should hold a folder for each class")
    names = _names(root, options.classes)
    found: dict[str, LocalFile] = {}
    wrong: list[str] = []
    for inside, status in find_images(root):
        folder, slash, _ = inside.partition("/")
        key, _, extension = inside.rpartition(".")
        if slash and options.classes is not None and folder not in names:
            continue  # as many as the set may have besides its classes
        member = f"{key}.{extension.lower()}"
        if not slash:
            wrong.append(f"{inside}: lies in no folder of a class")
        elif extension.lower() not in IMAGE_EXTENSIONS:
            wrong.append(f"{inside}: shards hold {', '.join(IMAGE_EXTENSIONS)}; convert it")
        elif split_name(member) != (key, extension.lower()) or unsafe(member):
            wrong.append(f"{inside}: cannot be the name of a sample, say for a dot; rename it")
        elif key in found:
            wrong.append(f"{inside}: another image has that name but for the ending; rename one")
        else:
            found[key] = LocalFile.found(str(root / inside), status)
    if wrong:
        raise InputError.listing(f"{root}: {len(wrong):,} images cannot become samples:", wrong)
    shown = {key.partition("/")[0] for key in found}
    if lacking := [folder for folder in names if folder not in shown]:
        raise InputError.listing(f"{root}: {len(lacking):,} classes have no image:", lacking)
    return CaptionPlan(root, options, names, dict(sorted(found.items())))


def _names(root: Path, of: str | None) -> dict[str, str]:
    """What the classes are called, by folder, in the order of their labels."""
    there = class_folders(root)
    if of is None:
        if not there:
            raise InputError(f"{root}: holds no folders; it should hold one for each class")
        return {folder: folder.replace("_", " ") for folder in there}
    entry = find_set(of)
    missing, strange = sorted({*entry.keys} - {*there}), sorted({*there} - {*entry.keys})
    if missing or len(strange) > entry.others:
        raise InputError(
            f"{root}: {len(missing):,} of the {len(entry.keys):,} class folders of {of} are "
            f"missing, {len(strange):,} others are none of its classes; "
            f"`clipgap data check {of} {root}` lists what is wrong"
        )
    classes = entry.classes
    return dict(zip(classes.keys, classes.names, strict=True))


@takes_options
def caption_folder(
    path: str | Path, out: str | Path, *, options: CaptionOptions, how: How
) -> Captioned:
    """Make tar shards of a folder of images by class, with captions of the classes' names.

    `path` holds a folder for each class. The bytes of the images are copied as they are.
    """
    return run_captions(plan_captions(path, options=options), out, how=how)


@takes_options
def run_captions(plan: CaptionPlan, out: str | Path, *, how: How) -> Captioned:
    """Carry out what `plan_captions` has planned; see `caption_folder`."""
    how.tell("reading headers")
    spare(Path(out), [plan.root], how)
    shards, described = plan.shards, plan.describe()
    made = Captioned(Path(out), len(plan.files), len(shards), len(plan.names))
    with open_output(out, KIND, how) as output:
        marks = {"images": mark_of(plan.files.values())}
        answer = output.begin(described, marks=marks)
        if isinstance(answer, Complete):
            return Captioned(**{**asdict(made), "already_complete": True})
        if isinstance(answer, Damaged):
            output.reopen(
                {
                    shard.name: {"files": {name: asdict(answer.sums[name]) for name in shard.files}}
                    for shard in shards
                    if not set(shard.files) & set(answer.files)
                }
            )
        done = output.ledger.records
        begin = Progress(
            stage="writing",
            done=sum(len(shard.images) for shard in shards if shard.name in done),
            total=len(plan.files),
            noun="images",
            part=len(done),
            parts=len(shards),
        )
        tally, sizes = Tally(how, begin), {shard.name: len(shard.images) for shard in shards}
        executor = how.executor or Threads(thread_count() + 1)
        for event in run_units(CaptionWork(output.path), shards, output.ledger, executor, how):
            if isinstance(event, Made):
                tally.add(sum(sizes[name] for name in event.records), parts=1)
        counted = {shard.tar: sizes[shard.name] for shard in shards}
        files: dict[str, AnySum] = {SIZES: write_json(output.path / SIZES, counted)}
        for record in output.ledger.records.values():
            files |= sums_from_json(record["files"])
        counts = {"images": made.images, "shards": made.shards, "classes": made.classes}
        entries = {"counts": counts, "versions": {"clipgap": __version__}}
        output.finish({**described, **entries}, files)
    return made


@dataclass(frozen=True)
class CaptionWork:
    """Writes shards into a folder."""

    folder: Path
    one_core: ClassVar = True

    def do(self, units: Iterable[Shard], slot: Slot) -> Iterator[Made]:
        """The shard at hand is always finished."""
        for unit in units:
            if slot.stop():
                return
            yield Made({unit.name: {"files": self._write(unit)}})

    def _write(self, shard: Shard) -> dict[str, Any]:
        with write_atomic(self.folder / shard.tar) as temporary, temporary.open("wb") as out:
            archive = ArchiveWriter(out)
            for image in shard.images:
                archive.copy(image.file, image.pieces())
            files: dict[str, AnySum] = {shard.tar: archive.finish()}
        said = statistics(len(shard.images))
        files[shard.stats] = write_json(self.folder / shard.stats, said)
        return {name: asdict(entry) for name, entry in files.items()}


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)
