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
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from clipgap.bench.race import Racer, median_ratio, race
from clipgap.bench.results import Columns
from clipgap.bench.script import publish, read_options
from clipgap.keep.writing import KeepWriter

SAMPLES = 10_000  # of a shard
SHARD_GB = 0.266
SEED = 0
KEEPS = {"all": 1.0, "half": 0.5}


def make_shard(path: Path, shard: int, samples: int) -> list[str]:
    """Random bytes in files of the usual sizes; the keys."""
    chance = random.Random(f"{SEED}-{shard}")
    pool = chance.randbytes(8 << 20)
    keys = [f"{shard:05d}{sample:04d}" for sample in range(samples)]
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


def fresh_start(shards: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    for shard in sorted(shards.iterdir()):  # into the page cache
        with shard.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def measure(folder: Path, shards: int, samples: int, rounds: int) -> list[dict[str, Any]]:
    data = folder / "shards"
    data.mkdir()
    keys = {f"{i:05d}": make_shard(data / f"{i:05d}.tar", i, samples) for i in range(shards)}
    for name, share in KEEPS.items():
        make_keep(folder / name, keys, share)
    out = folder / "out"
    commands = {"cp and sync": copy(data, out)} | {
        f"filter, keeping {name}": filter_by(data, folder / name, out) for name in KEEPS
    }
    racers = [
        Racer(
            name,
            "",
            partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL),
            ready=lambda: fresh_start(data, out),
        )
        for name, command in commands.items()
    ]
    race(racers, rounds)
    size = sum(path.stat().st_size for path in data.iterdir())
    return [
        {
            "suite": "filter",
            "case": racer.name,
            "bytes": size,
            "shards": shards,
            "rounds": rounds,
            "seconds": [round(seconds, 2) for seconds in racer.seconds],
            "processor_seconds": round(median(racer.processor), 2),
            "gb_read_per_second": round(size / median(racer.seconds) / 1e9, 3),
            "of_cp": median_ratio(racers[0].seconds, racer.seconds),
        }
        for racer in racers
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where shards and copies go for the time being")
    tiny = {"gigabytes": 0.5, "samples": 20, "rounds": 1}
    options = read_options(parser, tiny, samples=SAMPLES)
    shards = max(1, round(options.gigabytes / SHARD_GB))
    with tempfile.TemporaryDirectory(prefix="clipgap-filter-", dir=options.folder) as folder:
        rows = measure(Path(folder), shards, options.samples, options.rounds)
    columns: Columns = (
        ("", lambda row: row["case"]),
        ("GB/s", lambda row: f"{row['gb_read_per_second']:.2f}"),
        ("× cp", lambda row: f"{row['of_cp']:.2f}"),
        ("s of processor", lambda row: f"{row['processor_seconds']:.1f}"),
        ("s", lambda row: str(row["seconds"])),
    )
    publish(rows, options, columns)


if __name__ == "__main__":
    main()
