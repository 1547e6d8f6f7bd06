"""Scan, kill, resume, verify, over and over: nothing may be lost, left behind, or grow.

    python -m scripts.soak --minutes 60            # rows to the terminal
    python -m scripts.soak --minutes 60 --plot docs/images/soak.svg

Each round runs `clipgap scan` in processes that are killed at random moments until one ends by
itself, proves the folder, and compares it with that of an undisturbed run. A process that stays
scans and proves the same in every round: what its memory does is the plot.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import clipgap
from clipgap.bench.processes import peak_mib
from clipgap.report.svg import Drawing, linear
from clipgap.synthetic.rows import clip_like
from tests.worlds import tree, write_store

SHARDS, ROWS, POINTS, DIM = 12, 5_000, 1_000, 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--plot", type=Path, help="write the memory of all rounds as a drawing")
    asked = parser.parse_args()
    plot = None if asked.plot is None else asked.plot.resolve()
    with tempfile.TemporaryDirectory(prefix="clipgap-soak-") as folder:
        os.chdir(folder)
        return _soak(60 * asked.minutes, plot)


def _soak(seconds: float, plot: Path | None) -> int:
    rng, kept, run = random.Random(0), [], 0
    shards = [clip_like(ROWS, DIM, seed=seed) for seed in range(SHARDS)]
    write_store(Path("store"), shards, lambda shard, row: f"{shard}-{row}")
    write_store(Path("val"), [clip_like(POINTS, DIM, seed=99)], lambda _, row: f"v{row}")
    command = [sys.executable, "-m", "clipgap", *"scan store --test val=val -k 8".split()]
    begun = time.monotonic()
    subprocess.run([*command, "-o", "whole"], check=True, stderr=subprocess.DEVNULL)
    usual = time.monotonic() - begun
    whole, beside = tree(Path("whole")), _here() | {"out", "out.toml", "whole.toml"}
    begun, last, kills = time.monotonic(), 0.0, 0
    while last < seconds:
        run += 1
        longest = usual
        while True:
            longest *= 1.5  # or none would ever end, should the machine be busier than it was
            process = subprocess.Popen(
                [*command, "-o", "out", "--resume"], stderr=subprocess.DEVNULL
            )
            try:
                code = process.wait(rng.uniform(0, longest))
            except subprocess.TimeoutExpired:
                process.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
                code = process.wait()
                kills += 1
            if code == 0:
                break
            assert code in (-signal.SIGKILL, -signal.SIGTERM, 75), f"a run ended with {code}"
        assert tree(Path("out")) == whole, f"round {run}: the folder is another"
        assert _here() <= beside, f"round {run}: left behind {_here() - beside}"
        assert clipgap.verify("out").ok, f"round {run}: the proof fails"
        clipgap.scan("store", {"val": "val"}, k=8)
        shutil.rmtree("out")
        last = time.monotonic() - begun
        kept.append((last / 60, _resident_mib()))
        print(
            f"{run} rounds, {kills} kills, {last / 60:.1f} min, {kept[-1][1]:.0f} MiB", flush=True
        )
    print(f"{run} rounds, {kills} kills, {peak_mib():.0f} MiB at most: nothing lost, nothing left")
    if plot is not None:
        plot.write_text(_drawing(kept))
    return 0


def _here() -> set[str]:
    return {path.name for path in Path().iterdir()}


def _resident_mib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _drawing(kept: list[tuple[float, float]]) -> str:
    highest = max(mib for _, mib in kept)
    drawing = Drawing(
        "Memory of a process after each scan and proof",
        linear(0, kept[-1][0], "minutes"),
        linear(0, 1.2 * highest, "resident memory, MiB"),
        [],
    )
    drawing.path(kept, "curve s1")
    return drawing.render(files("clipgap.report").joinpath("assets/chart.css").read_text())


if __name__ == "__main__":
    sys.exit(main())
