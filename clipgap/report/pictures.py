"""Thumbnails and captions of the samples that a gallery shows, from shards, tables and folders.

thumbs/0000.js         PACK thumbnails as data addresses, in the order in which the pages show them

A file a thumbnail would be thousands; in packs, a report is tens of files, and what stands on one
page of the gallery lies in few of them.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

from clipgap.clip.images.tables import ImageTable
from clipgap.errors import MissingDependency
from clipgap.files.folders import read_if_there
from clipgap.machine import cores
from clipgap.packages import installation
from clipgap.report.sources import Images
from clipgap.shards.finding import TarShard
from clipgap.shards.names import fields_that_find, names_in
from clipgap.shards.options import KEY
from clipgap.shards.problems import Problem
from clipgap.shards.samples import Sample, read_samples

PACK = 128  # thumbnails of a file
EDGE = 144  # pixels of the longer edge: twice of what is shown, for fine screens
MOST_PIXELS = 64_000_000
CAPTION = 240  # characters
_IMAGES = ("jpg", "jpeg", "png", "webp")
_STARTS = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}
_BATCH = 64

Wanted = tuple[str, str]
"""Shard and key; the shard is empty where only the key is known, as for test points."""


@dataclass(frozen=True)
class Picture:
    """What is known of a sample: its thumbnail's file, caption and address."""

    number: int | None  # of its thumbnail; None if there is none
    caption: str
    url: str


@dataclass
class Pictures:
    """The samples of one training or test set, by shard and key."""

    wanted: set[Wanted]
    found: dict[Wanted, Picture] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def get(self, shard: str, key: str | None) -> Picture | None:
        return None if key is None else self.found.get((shard, key))


class Thumbnails:
    """Takes thumbnails as they are found, and writes them as the pages show them.

    Numbers are given before anything is read; what waits to be written waits on disk.
    """

    def __init__(self, shown: Sequence[tuple[str, Wanted]], spool: IO[bytes]) -> None:
        self._number = {one: number for number, one in enumerate(shown)}
        self._spool = spool
        self._place: dict[int, tuple[int, int]] = {}  # where in the spool, and how long

    def put(self, name: str, one: Wanted, content: bytes) -> int:
        """Keep the thumbnail of a sample of a set; gives its number."""
        number = self._number[name, one]
        self._place[number] = self._spool.tell(), len(content)
        self._spool.write(content)
        return number

    def drop(self, number: int | None) -> None:
        """Forget one."""
        self._place.pop(number, None)  # type: ignore[arg-type]

    def write(self, write: Callable[[str, bytes], None]) -> None:
        """Write all packs; a thumbnail that is not there is an empty text."""
        for first in range(0, len(self._number) if self._place else 0, PACK):
            numbers = range(first, min(first + PACK, len(self._number)))
            name = f"thumbs/{first // PACK:04d}.js"
            write(name, script(name, [self._address(number) for number in numbers]))

    def _address(self, number: int) -> str:
        if number not in self._place:
            return ""
        start, length = self._place[number]
        self._spool.seek(start)
        return f"data:image/webp;base64,{base64.b64encode(self._spool.read(length)).decode()}"


def script(name: str, data: Any) -> bytes:
    """Data as the script of this name, that nothing in it can get out of."""
    before, after = around(name)
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f"{before}{text}{after}".encode()


def data_of(name: str, script: bytes) -> str:
    """The data of a script, as JSON."""
    before, after = around(name)
    return script.decode().removeprefix(before).removesuffix(after)


def around(name: str) -> tuple[str, str]:
    """What stands before and after the data of a script."""
    return f"clipgapData({json.dumps(name)},", ");\n"


def read_pictures(
    name: str, images: Images, wanted: set[Wanted], thumbnails: Thumbnails, edge: int = EDGE
) -> Pictures:
    """Go through some shards once; thumbnails of the set `name` are handed on."""
    pictures = Pictures(wanted)
    ambiguous: set[Wanted] = set()
    make = partial(_thumbnail, edge=edge)
    with ThreadPoolExecutor(cores()) as pool:
        pairs = find_samples(images, wanted, pictures.problems, ambiguous)
        while batch := list(islice(pairs, _BATCH)):
            for (one, sample), made in zip(batch, pool.map(make, batch), strict=True):
                if isinstance(made, str):
                    pictures.problems.append(made)
                number = thumbnails.put(name, one, made) if isinstance(made, bytes) else None
                pictures.found[one] = Picture(number, *_words(sample))
    for one in ambiguous:
        thumbnails.drop(pictures.found[one].number)
        pictures.found[one] = Picture(None, "", "")
    if ambiguous:
        shown = ", ".join(repr(key) for _, key in sorted(ambiguous)[:3])
        pictures.problems.append(
            f"{images.path}: {len(ambiguous):,} keys are of several samples, among them {shown}; "
            "they have no picture"
        )
    return pictures


def find_samples(
    images: Images, wanted: set[Wanted], problems: list[str], ambiguous: set[Wanted]
) -> Iterator[tuple[Wanted, Sample]]:
    """The samples that are wanted, each once.

    A tar file or table that is called like a shard of the store is that shard. Elsewhere the key
    alone decides, and a key that several samples have, which is found `ambiguous`, decides nothing.
    Where not one key is found, the store may call samples by a field of theirs, as `embed --match`
    does: the one that finds most is taken.
    """
    by_key: dict[str, list[Wanted]] = {}
    for one in sorted(wanted):
        by_key.setdefault(one[1], []).append(one)
    if images.folder is not None:
        for path in sorted(by_key.keys() & {name for name, _ in images.files}):
            for one in by_key[path]:
                yield one, _in_folder(images.folder, path)
        return
    known = {shard for shard, _ in wanted if shard}
    by_name = any(shard.name in known for shard in images.shards)
    seen: set[Wanted] = set()
    for called_by in _fields(images.shards, by_key):
        problems.clear()  # those of an earlier pass are met again
        for shard in images.shards:
            for key, sample in _samples(shard, called_by, problems):
                for one in by_key.get(key, ()):
                    if by_name and one[0] and one[0] != shard.name:
                        continue
                    if one in seen:
                        ambiguous.add(one)
                    else:
                        seen.add(one)
                        yield one, sample
        if seen or not wanted:
            return


def _fields(shards: Sequence[TarShard | ImageTable], keys: Collection[str]) -> Iterator[str]:
    """What the keys may be, the likelier first."""
    yield KEY

    def count(names: Sequence[str]) -> int:
        return sum(name in keys for name in names)

    found: Counter[str] = Counter()
    for shard in shards:
        found += (
            shard.fields_that_find(count)
            if isinstance(shard, ImageTable)
            else fields_that_find(shard, count)
        )
    yield from (called_by for called_by, _ in found.most_common(1) if called_by != KEY)


def image_in(sample: Sample) -> tuple[bytes, str] | None:
    """The bytes of the image of a sample, and its ending."""
    return next(((sample.contents[e], e) for e in _IMAGES if e in sample.contents), None)


def _samples(
    shard: TarShard | ImageTable, called_by: str, problems: list[str]
) -> Iterator[tuple[str, Sample]]:
    """What a shard or table holds, by what a field calls it."""

    def note(problem: Problem) -> None:
        problems.append(str(problem))

    if isinstance(shard, ImageTable):
        for image in shard.images(note, called_by):
            content = image.read()
            known = (e for start, e in _STARTS.items() if content.startswith(start))
            contents = {**image.beside, next(known, _IMAGES[0]): content}
            yield image.key, Sample(image.key, shard.path, contents)
        return
    names = None if called_by == KEY else names_in(shard, called_by)
    for sample in read_samples(shard, extensions=(*_IMAGES, "txt", "json"), on_problem=note):
        yield sample.key if names is None else names.get(sample.key, ""), sample


def _in_folder(folder: Path, path: str) -> Sample:
    """An image of a folder as the sample that it would be in a shard, with a caption beside it."""
    image = folder / path
    contents: dict[str, bytes] = {}
    for file in (image, image.with_suffix(".txt")):
        if (content := read_if_there(file)) is not None:
            contents[file.suffix[1:].lower()] = content
    return Sample(path, str(folder), contents)


def _thumbnail(pair: tuple[Wanted, Sample], edge: int) -> bytes | str | None:
    """A small WebP; None if there is no image, or why it cannot be read."""
    sample = pair[1]
    found = image_in(sample)
    if found is None:
        return None
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependency(
            f"thumbnails need Pillow: {installation('report')}, or leave out --images"
        ) from error
    where = f"{sample.shard}, sample {sample.key!r}"
    try:
        # Only what can be decoded without running anything, and its size before its pixels.
        with Image.open(io.BytesIO(found[0]), formats=("JPEG", "PNG", "WEBP")) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                return f"{where}: an image of {width:,} × {height:,} pixels is not decoded"
            image.draft("RGB", (2 * edge, 2 * edge))
            small = image.convert("RGB")
        small.thumbnail((edge, edge))
        out = io.BytesIO()
        small.save(out, "WEBP", quality=78, method=4)
        return out.getvalue()
    except Exception as error:  # whatever a decoder throws at damaged bytes
        return f"{where}: cannot be decoded: {error}"


def _words(sample: Sample) -> tuple[str, str]:
    """Caption and address, if they are text."""
    caption = sample.contents.get("txt", b"").decode("utf-8", "replace").strip()
    url: Any = ""
    try:
        described = json.loads(sample.contents.get("json", b"{}"))
        if isinstance(described, dict):
            url = described.get("url", "")
    except (ValueError, RecursionError):
        pass
    return caption[:CAPTION], url if isinstance(url, str) else ""
