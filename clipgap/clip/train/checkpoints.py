"""Checkpoints of a run: written whole or not at all, and the latest whole one found again.

epoch_3.pt          after three epochs, as open_clip names it
epoch_3_batch_40.pt after three epochs and 40 batches of each rank: where a run was stopped

Until the run ends its notes have the sum of each, of what was given to the disk.
"""

from __future__ import annotations

import logging
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

import torch

from clipgap.clip.checkpoints import read_content
from clipgap.clip.train.order import Position
from clipgap.files.atomic import write_atomic
from clipgap.files.sums import FileSum, Hashed
from clipgap.runs.lock import PROGRESS
from clipgap.runs.units import Ledger, Made

LOG = logging.getLogger(__name__)

FOLDER, SUMS = "checkpoints", f"{PROGRESS}/checkpoints.jsonl"
_NAME = re.compile(r"epoch_(\d+)(?:_batch_(\d+))?\.pt")


def name_of(position: Position) -> str:
    batch = f"_batch_{position.batch}" if position.batch else ""
    return f"epoch_{position.epoch}{batch}.pt"


def position_of(path: Path) -> Position | None:
    """What the name of a checkpoint says; None if it is none of ours."""
    match = _NAME.fullmatch(path.name)
    return Position(int(match[1]), int(match[2] or 0)) if match else None


def latest(folder: Path) -> Path | None:
    """The checkpoint of the run in `folder` that is furthest on and whole."""
    found = [(p.epoch, p.batch, path) for path, p in _all(folder)]
    sums = noted_sums(folder)
    for _, _, path in sorted(found, reverse=True):
        if FileSum.of(path) == sums[path.name] if path.name in sums else is_whole(path):
            return path
        LOG.warning("%s is damaged or half-written; the one before it is taken", path)
    return None


def noted_sums(folder: Path) -> dict[str, FileSum]:
    """What the unfinished run in `folder` noted of its checkpoints, by their names."""
    sums = Ledger(folder / SUMS)
    sums.load()
    return {name: FileSum(**record["files"][name]) for name, record in sums.records.items()}


def is_whole(path: Path) -> bool:
    """Whether all of a checkpoint is there, by the checksums that torch puts into it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError):
        return False


def load(path: str | Path) -> dict[str, Any]:
    """All of a checkpoint; nothing but tensors and plain values is unpickled."""
    content: dict[str, Any] = read_content(Path(path))
    return content


def save(folder: Path, position: Position, content: Mapping[str, Any]) -> None:
    """Write the checkpoint of a stopped run."""
    with saved_whole():
        torch.save(
            {**content, "epoch": position.epoch, "batch": position.batch},
            folder / FOLDER / name_of(position),
        )


def drop_stopped(folder: Path) -> None:
    """Remove checkpoints of earlier stops, once a later epoch is saved."""
    whole = [(p.epoch, 0) for path, p in _all(folder) if not p.batch]
    for path, p in _all(folder):
        if p.batch and (p.epoch, p.batch) < max(whole, default=(0, 0)):
            path.unlink()


@contextmanager
def saved_whole() -> Iterator[None]:
    """Whatever torch.save writes to a path appears there when it is complete."""
    original = torch.save

    def save_whole(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(f, str | Path):
            with write_atomic(f) as temporary:
                with temporary.open("wb") as file:
                    hashed = Hashed(file)
                    try:
                        original(obj, cast("IO[bytes]", hashed), *args, **kwargs)
                    except RuntimeError as error:
                        # Torch closes its archive, and complains that this is cut short.
                        if isinstance(error.__context__, OSError):
                            raise error.__context__ from None
                        raise
                _note(Path(f), hashed.sum)
        else:
            original(obj, f, *args, **kwargs)

    torch.save = save_whole
    try:
        yield
    finally:
        torch.save = original


def _note(checkpoint: Path, written: FileSum) -> None:
    """Before the file gets its name, so that none of a run stands without its sum."""
    sums = checkpoint.parent.parent / SUMS
    if sums.parent.is_dir():
        name = checkpoint.name
        Ledger(sums).add(Made({name: {"files": {name: asdict(written)}}}))


def _all(folder: Path) -> list[tuple[Path, Position]]:
    paths = sorted((folder / FOLDER).glob("epoch_*.pt"))
    return [(path, p) for path in paths if (p := position_of(path)) is not None]
