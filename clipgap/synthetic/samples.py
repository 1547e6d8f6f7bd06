"""Rendered images with their captions, tar shards of them, and tables of what they show."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from clipgap.files.atomic import write_atomic
from clipgap.files.folders import make_folder
from clipgap.files.sums import AnySum, Hashed
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
    domain: str
    origin: str  # its style, or "near-duplicate of KEY"


def shard_names(name: str, samples: int) -> list[str]:
    """The tar files of a set of so many samples."""
    return [f"{name}/{number:05d}.tar" for number in range(-(-samples // PER_SHARD))]


def write_shards(folder: Path, name: str, samples: Sequence[Sample]) -> dict[str, AnySum]:
    """Tar files of .jpg, .txt, .cls and .json; equal samples, equal bytes."""
    make_folder(folder, name)
    written: dict[str, AnySum] = {}
    for number, shard in enumerate(shard_names(name, len(samples))):
        with write_atomic(folder / shard) as temporary, temporary.open("xb") as file:
            hashed = Hashed(file)
            # It only ever tells and writes.
            with tarfile.open(fileobj=hashed, mode="w") as archive:  # type: ignore[call-overload]
                for sample in samples[number * PER_SHARD : (number + 1) * PER_SHARD]:
                    _add(archive, sample)
        written[shard] = hashed.sum
    return written


LABELS = pa.schema([(name, pa.string()) for name in ("key", "domain", "class", "source")])
"""A table as mixes, heads and captions take it."""


def labels(name: str, samples: Sequence[Sample], classes: Sequence[str]) -> pa.Table:
    """Domain and class of each sample of a set, and the set as its source."""
    return pa.table(
        [
            [sample.key for sample in samples],
            [sample.domain for sample in samples],
            [classes[sample.label] for sample in samples],
            [name] * len(samples),
        ],
        schema=LABELS,
    )


def described(sample: Sample) -> dict[str, bytes]:
    """The members beside the picture."""
    known = {"key": sample.key, "origin": sample.origin}
    return {
        "txt": sample.caption.encode(),
        "cls": str(sample.label).encode(),
        "json": json.dumps(known, sort_keys=True).encode(),
    }


def _add(archive: tarfile.TarFile, sample: Sample) -> None:
    for suffix, content in {"jpg": _jpeg(sample.picture), **described(sample)}.items():
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
