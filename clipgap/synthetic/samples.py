"""Rendered images with their captions, and tar shards of them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from clipgap.files.atomic import write_atomic
from clipgap.files.parquet import FileSum
from clipgap.synthetic.styles import Picture

PER_SHARD = 1_000
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Sample:
    """One image, what it says, and what it is known to be."""

    key: str
    picture: Picture
    caption: str
    label: int
    origin: str  # its style, or "near-duplicate of KEY"


def write_shards(folder: Path, samples: Iterable[Sample]) -> dict[str, FileSum]:
    """Tar files 00000.tar, … of .jpg, .txt, .cls and .json; equal samples, equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rest = iter(samples)
    written: dict[str, FileSum] = {}
    while batch := list(islice(rest, PER_SHARD)):
        path = folder / f"{len(written):05d}.tar"
        with write_atomic(path) as temporary, tarfile.open(temporary, "w") as archive:
            for sample in batch:
                _add(archive, sample)
        written[f"{folder.name}/{path.name}"] = FileSum.of(path)
    return written


def _add(archive: tarfile.TarFile, sample: Sample) -> None:
    known = {"key": sample.key, "origin": sample.origin}
    members = {
        "jpg": _jpeg(sample.picture),
        "txt": sample.caption.encode(),
        "cls": str(sample.label).encode(),
        "json": json.dumps(known, sort_keys=True).encode(),
    }
    for suffix, content in members.items():
        header = tarfile.TarInfo(f"{sample.key}.{suffix}")
        header.size = len(content)
        archive.addfile(header, io.BytesIO(content))


def _jpeg(picture: Picture) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray((picture * 255).round().astype("uint8")).save(
        file, "JPEG", quality=JPEG_QUALITY
    )
    return file.getvalue()
