"""Tar shards with every kind of trouble in them."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """An entry; `fields` are those of tarfile.TarInfo."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar_bytes(
    entries: Iterable[tuple[tarfile.TarInfo, bytes]],
    format: int = tarfile.PAX_FORMAT,
    pax_headers: dict[str, str] | None = None,
) -> bytes:
    """A whole archive, as Python's tarfile makes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, pax_headers=pax_headers) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content) if content else None)
    return out.getvalue()


def sample(
    key: str, seed: int = 0, sizes: Sequence[int] = (900, 40)
) -> list[tuple[tarfile.TarInfo, bytes]]:
    """An image and a caption of random bytes; the time's fraction makes a PAX header for each."""
    chance = random.Random(f"{key}-{seed}")
    return [
        member(f"{key}.{extension}", chance.randbytes(size), mtime=1_700_000_000.25)
        for extension, size in zip(("jpg", "txt", "json"), sizes, strict=False)
    ]


def write_shard(path: Path, keys: Sequence[str], format: int = tarfile.PAX_FORMAT) -> Path:
    """A shard of samples with these keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [entry for i, key in enumerate(keys) for entry in sample(key, i)]
    path.write_bytes(tar_bytes(entries, format))
    return path


def contents(path: Path) -> list[tuple[str, bytes]]:
    """Names and contents of the regular members, as Python's tarfile reads them."""
    with tarfile.open(path, "r:") as archive:
        return [
            (info.name, archive.extractfile(info).read())  # type: ignore[union-attr]
            for info in archive
            if info.isreg()
        ]
