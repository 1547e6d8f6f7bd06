"""How fast `clipgap filter` is beside `cp` of the same shards on the same disk.

    python benchmarks/filter.py --gigabytes 8 --rounds 5 --folder /a/folder/on/that/disk

Makes shards as img2dataset writes them (a PAX header at each member, 27 kB a sample) and takes
turns: `cp -r` followed by `sync` of each file, and `clipgap filter` with keep-lists of all and of
half of the samples. Both sides are timed as whole processes, start-up included, with what they read
in the page cache and with all that they wrote on the disk. Rows are appended to
`benchmarks/results`.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from clipgap.bench.results import append, default_folder, origin
from clipgap.keep.writing import KeepWriter

SAMPLES = 10_000  # of a shard
SHARD_GB = 0.266
SEED = 0
KEEPS = {"all": 1.0, "half": 0.5}


def make_shard(path: Path, shard: int) -> list[str]:
    """Random bytes in files of the usual sizes; the keys."""
    chance = random.Random(f"{SEED}-{shard}")
    pool = chance.randbytes(8 << 20)
    keys = [f"{shard:05d}{sample:04d}" for sample in range(SAMPLES)]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for key in keys:
            sizes = {
                "jpg": int(chance.gammavariate(4, 5_000)) + 200,
                "txt": chance.randint(20, 150),
                "json": chance.randint(500, 900),
            }
            for extension, size in sizes.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.mtime = size, 1_700_000_000.25  # type: ignore[assignment]
                at = chance.randrange(len(pool) - size)
                archive.addfile(info, io.BytesIO(pool[at : at + size]))
    return keys


def make_keep(path: Path, keys: dict[str, list[str]], share: float) -> None:
    random = np.random.default_rng(SEED)
    rows = [{"name": name, "rows": len(of_shard)} for name, of_shard in keys.items()]
    with KeepWriter(path, {"path": "made", "shards": rows}, {"kind": "benchmark"}) as writer:
        for index, of_shard in enumerate(keys.values()):
            mask = random.random(len(of_shard)) < share
            writer.add(index, mask, pa.array(of_shard, pa.string()).filter(pa.array(mask)))


def copy(shards: Path, out: Path) -> list[str]:
    return ["sh", "-c", f"cp -r '{shards}' '{out}' && sync '{out}'/* '{out}'"]


def filter_by(shards: Path, keep: Path, out: Path) -> list[str]:
    call = "import sys; from clipgap.__main__ import run; run()"
    command = [sys.executable, "-c", call, "filter", str(shards), "--keep", str(keep)]
    return [*command, "--out", str(out), "--quiet", "--json"]


def timed(command: list[str], shards: Path, out: Path) -> dict[str, float]:
    """Seconds of a process and of its processors, from a clean start."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    for shard in sorted(shards.iterdir()):  # into the page cache
        with shard.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    before, began = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - began, os.times()
    spent = after.children_user + after.children_system
    return {
        "seconds": seconds,
        "processor_seconds": spent - before.children_user - before.children_system,
    }


def measure(folder: Path, shards: int, rounds: int) -> list[dict[str, Any]]:
    data = folder / "shards"
    data.mkdir()
    keys = {f"{i:05d}": make_shard(data / f"{i:05d}.tar", i) for i in range(shards)}
    for name, share in KEEPS.items():
        make_keep(folder / name, keys, share)
    out = folder / "out"
    commands = {"cp and sync": copy(data, out)} | {
        f"filter, keeping {name}": filter_by(data, folder / name, out) for name in KEEPS
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            runs[name].append(timed(command, data, out))
    size = sum(path.stat().st_size for path in data.iterdir())
    base = median(run["seconds"] for run in runs["cp and sync"])
    return [
        {
            "suite": "filter",
            "case": name,
            "bytes": size,
            "shards": shards,
            "rounds": rounds,
            "seconds": [round(run["seconds"], 2) for run in each],
            "processor_seconds": round(median(run["processor_seconds"] for run in each), 2),
            "gb_read_per_second": round(size / median(run["seconds"] for run in each) / 1e9, 3),
            "of_cp": round(base / median(run["seconds"] for run in each), 3),
        }
        for name, each in runs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where shards and copies go for the time being")
    options = parser.parse_args()
    shards = max(1, round(options.gigabytes / SHARD_GB))
    with tempfile.TemporaryDirectory(prefix="clipgap-filter-", dir=options.folder) as folder:
        rows = measure(Path(folder), shards, options.rounds)
    for row in rows:
        print(
            f"{row['case']:22} {row['gb_read_per_second']:7.2f} GB/s  {row['of_cp']:5.2f} × cp  "
            f"{row['processor_seconds']:6.1f} s of processor  {row['seconds']}"
        )
    made = origin()
    print(append(default_folder(), [{**made, **row} for row in rows]))


if __name__ == "__main__":
    main()
