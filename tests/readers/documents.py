"""What clipgap writes for itself: documents with checksums that hold, tables, notes of runs."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np

import clipgap
from clipgap.bench.rates import Kept
from clipgap.cli import config
from clipgap.errors import ShareDone
from clipgap.files.documents import MANIFEST, SUM, checksum, encode
from clipgap.files.parquet import read_table
from clipgap.files.settings import read_settings
from clipgap.files.sums import FileSum
from clipgap.heads.heads import read_tensors, write_tensors
from clipgap.keep.certificates import certificate_file, read_certificate
from clipgap.keep.lists import bitmap_name, keep_name, open_keep
from clipgap.runs.lock import PROGRESS
from clipgap.runs.run import BOARD
from clipgap.runs.shares import SHARE, Part, Share
from clipgap.runs.status import status_of
from clipgap.runs.units import UNITS, Ledger
from clipgap.scan import api as scans
from clipgap.select.rules import Rand
from tests.readers.reader import Reader, written
from tests.stores import unit_rows, write_clip_retrieval


def sealed(content: bytes) -> bytes:
    """With the checksum of what it says, if it is a document."""
    try:
        document = json.loads(content)
        return encode({**document, SUM: checksum(document)})
    except (ValueError, TypeError, RecursionError, UnicodeEncodeError):
        return content


def sealed_lines(content: bytes) -> bytes:
    return b"".join(_line(line) for line in content.splitlines(keepends=True))


def _line(line: bytes) -> bytes:
    try:
        document = json.loads(line)
        return json.dumps({**document, SUM: checksum(document)}).encode() + b"\n"
    except (ValueError, TypeError, RecursionError, UnicodeEncodeError):
        return line


def make_folders(root: Path) -> None:
    """A gap, a scan and a keep-list."""
    write_clip_retrieval(root / "store", [9, 4])
    np.save(root / "val.npy", unit_rows(3, 50))
    np.save(root / "reference.npy", unit_rows(5, 51))
    clipgap.gap(root / "reference.npy", {"val": root / "val.npy"}, k=2, out=root / "gap")
    clipgap.scan(
        root / "store", {"val": root / "val.npy"}, gap=root / "gap", k=2, out=root / "scan"
    )
    clipgap.split(root / "scan", Rand(6), out=root / "keep")
    clipgap.verify(root / "keep", certify=certificate_file(root / "keep"))


def read_scan(folder: Path) -> None:
    clipgap.open_scan(folder / "scan")


def read_keep(folder: Path) -> None:
    keep = open_keep(folder / "keep")
    read_certificate(keep)
    keep.table(0)
    keep.bits(0)


def read_signed(folder: Path) -> None:
    """The same, if its manifest has the sums of what is there."""
    manifest = folder / "keep" / MANIFEST
    document = json.loads(manifest.read_bytes())
    for name in (keep_name(0), bitmap_name(0)):
        document["files"][name] = vars(FileSum.of(folder / "keep" / name))
    manifest.write_bytes(sealed(json.dumps(document).encode()))
    read_keep(folder)


def make_notes(folder: Path) -> None:
    """What a run of one share leaves."""
    make_folders(folder)
    tests, reference = {"val": folder / "val.npy"}, folder / "reference.npy"
    with suppress(ShareDone):
        clipgap.gap(reference, tests, k=2, out=folder / "out", share=Share([0], 1))


PART = "train/part-00000.parquet"
NOTES = f"out.parts/0-of-1/{PROGRESS}"


def make_lists(folder: Path) -> None:
    np.savez(folder / "lists.npz", sim_0=unit_rows(3), id_0=np.arange(36).reshape(3, 12))


def load_ledger(folder: Path) -> None:
    Ledger(folder / NOTES / UNITS).load()


def make_heads(folder: Path) -> None:
    tensors = {"natural.weight": np.ones(4), "natural.bias": np.zeros(1)}
    (folder / "heads").write_bytes(write_tensors(tensors, {"model": "m"}))


def make_settings(folder: Path) -> None:
    config.save(folder / "out.toml", "clipgap scan", {"out": "out", "k": 3}, folder / "out")


def read_saved(folder: Path) -> None:
    read_settings(folder / "out")
    config._read(folder / "out.toml")


ROW = {
    "suite": "kernels",
    "run": "2026-01-01",
    "machine": {"cpu": "a", "cores": 1},
    "contender": "clipgap cpu/a",
    "data": "clip-like",
    "d": 512,
    "tests": 100,
    "threads": 1,
    "gflops": {"p50": 1.5},
}


READERS = [
    Reader("manifest of a scan", f"scan/{MANIFEST}", make_folders, read_scan, sealed),
    Reader("manifest of a keep-list", f"keep/{MANIFEST}", make_folders, read_keep, sealed),
    Reader("certificate", "keep.certificate.json", make_folders, read_keep, sealed),
    Reader(
        "table of a scan", f"scan/{PART}", make_folders, lambda f: read_table(f / "scan" / PART)
    ),
    Reader("table of a keep-list", f"keep/{keep_name(0)}", make_folders, read_signed),
    Reader("bitmap of a keep-list", f"keep/{bitmap_name(0)}", make_folders, read_signed),
    Reader(
        "share.json",
        f"{NOTES}/{SHARE}",
        make_notes,
        lambda f: Part(f / "out.parts/0-of-1").said,
        sealed,
    ),
    Reader("ledger of units", f"{NOTES}/{UNITS}", make_notes, load_ledger, sealed_lines),
    Reader("board", f"{NOTES}/{BOARD}", make_notes, lambda folder: status_of(folder / "out")),
    Reader(
        "lists of a run", "lists.npz", make_lists, lambda f: scans._load_lists(f / "lists.npz", 1)
    ),
    Reader(
        "heads", "heads", make_heads, lambda f: read_tensors((f / "heads").read_bytes(), "heads")
    ),
    Reader("settings", "out.toml", make_settings, read_saved),
    Reader(
        "rows of benchmarks",
        "b.jsonl",
        written("b.jsonl", json.dumps(ROW) + "\n"),
        lambda f: Kept(f / "b.jsonl").core(512, 100),
    ),
]
