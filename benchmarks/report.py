"""How long `clipgap report` takes at the paper's size, and how fast its pages are in a browser.

    python benchmarks/report.py

Scans 100,000 made-up rows against six test sets of the paper's sizes (166,963 points, 32
neighbours each), makes seven splits and an evaluation of two checkpoints, and measures the command
in a process of its own. Then Chromium opens the pages from disk: time to the first contentful
paint, and from a key to the frame that shows the next page of the gallery. Rows are appended to
`benchmarks/results`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import pyarrow as pa

import clipgap
from clipgap.bench.results import append, default_folder, origin
from clipgap.clip.eval.api import KIND, PAIRED, SUMMARY
from clipgap.clip.eval.tables import PAIRED_SCHEMA, SUMMARY_SCHEMA
from clipgap.files.documents import MANIFEST, write_document
from clipgap.files.parquet import FileSum, write_tables
from clipgap.intervals import wilson
from clipgap.select.rules import Prune
from clipgap.store.writer import StoreWriter
from clipgap.synthetic import rows as synthetic

TESTS = {
    "val": 50_000,
    "sketch": 50_889,
    "r": 30_000,
    "a": 7_500,
    "v2": 10_000,
    "objectnet": 18_574,
}
ROWS, REFERENCE, DIM, K = 100_000, 20_000, 64, 32
CHECKPOINTS = ("web", "all-pruned")
ARGUMENTS = "--no-sandbox --disable-gpu --disable-background-networking --no-first-run".split()
TURN = """
async (key) => {
  const before = document.body.dataset.turned, began = performance.now();
  document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  while (document.body.dataset.turned === before) await new Promise((done) => setTimeout(done));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - began;
}
"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def make(folder: Path) -> list[str]:
    """All inputs; gives the arguments of the command."""
    stores = {"web": (ROWS, 1, 0), "curated": (REFERENCE, 2, 0)}
    stores |= {name: (n, seed, 0) for seed, (name, n) in enumerate(TESTS.items(), start=3)}
    for name, (n, seed, world) in stores.items():
        with StoreWriter(folder / name, DIM) as writer:
            rows = synthetic.clip_like(n, DIM, seed, world=world)
            writer.add(rows, keys=[f"{name}-{row:08d}" for row in range(n)])
    tests = {name: folder / name for name in TESTS}
    gap = clipgap.gap(folder / "curated", tests, out=folder / "gap", k=K)
    scan = clipgap.scan(folder / "web", tests, gap=gap, out=folder / "scan", k=K)
    arguments = ["--scan", f"web={scan.path}", "--reference", f"curated={gap.path}"]
    for name, sets in {
        **{f"{test}-pruned": (test,) for test in TESTS},
        "all-pruned": tuple(TESTS),
    }.items():
        clipgap.split(scan, Prune(sets), out=folder / name)
        arguments += ["--split", str(folder / name)]
    write_eval(folder / "eval")
    return [*arguments, "--eval", str(folder / "eval")]


def write_eval(folder: Path) -> None:
    """An evaluation of random answers."""
    random = np.random.default_rng(0)
    files, summary = {}, []
    for name, n in TESTS.items():
        for checkpoint in CHECKPOINTS:
            correct = random.random(n) < 0.6
            table = pa.table(
                {
                    "row": np.arange(n),
                    "key": [f"{name}-{row:08d}" for row in range(n)],
                    "label": random.integers(0, 1000, n, np.int32),
                    "prediction": random.integers(0, 1000, n, np.int32),
                    "correct": correct,
                }
            )
            path = f"samples/{checkpoint}/{name}.parquet"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            files[path] = write_tables(folder / path, table.schema, [table])
            found = wilson(int(correct.sum()), n)
            counts = {"samples": n, "correct": int(correct.sum()), "accuracy": found.value}
            names = {"checkpoint": checkpoint, "set": name, "group": None, "metric": "top1"}
            summary.append({**names, **counts, "low": found.low, "high": found.high})
    tables = {SUMMARY: pa.Table.from_pylist(summary, SUMMARY_SCHEMA)}
    tables[PAIRED] = PAIRED_SCHEMA.empty_table()
    for name, table in tables.items():
        files[name] = write_tables(folder / name, table.schema, [table])
    sums: dict[str, FileSum] = files
    listed = {name: asdict(entry) for name, entry in sums.items()}
    model = dict.fromkeys(("model", "pretrained", "sha256", "config_sha256"))
    lists = {key: list[str]() for key in ("classes", "keys", "templates", "groups")}
    common = {"path": "", "identity": "", "border": 0, "quarantined": 0, **lists}
    write_document(
        folder / MANIFEST,
        KIND.form,
        {
            "kind": "eval",
            "checkpoints": [{"name": name, **model} for name in CHECKPOINTS],
            "sets": [{"name": name, "samples": n, **common} for name, n in TESTS.items()],
            "settings": {"precision": "fp32", "draws": 1, "seed": 0},
            "units": {},
            "versions": {},
            "files": listed,
        },
    )


def run(arguments: list[str], out: Path) -> dict[str, float]:
    """The command once, from start to exit."""
    shutil.rmtree(out, ignore_errors=True)
    code = (
        "import resource, sys; from clipgap.__main__ import main; code = main(sys.argv[1:]);"
        "used = resource.getrusage(resource.RUSAGE_SELF);"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, file=sys.stderr);"
        "sys.exit(code)"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, "report", *arguments, "-o", str(out), "-q", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - began
    told = json.loads(done.stdout)
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(float(done.stderr.split()[-2]), 2),
        "peak_mib": round(float(done.stderr.split()[-1]), 1),
        "files": told["files"],
        "megabytes": round(told["bytes"] / 1e6, 1),
    }


def browse(report: Path, opens: int, turns: int) -> dict[str, dict[str, float]]:
    """Milliseconds in Chromium, each page opened in a fresh context."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {"index": [], "gallery": [], "turn": [], "jump": []}
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, headless=True)
        for name in ("index", "gallery"):
            for _ in range(opens):
                context = browser.new_context(viewport={"width": 1280, "height": 900})
                page = context.new_page()
                page.goto((report / f"{name}.html").as_uri())
                page.wait_for_function(PAINT)
                found[name].append(page.evaluate(PAINT))
                context.close()
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto((report / "gallery.html").as_uri())
        page.wait_for_selector(".point")
        found["turn"] = [page.evaluate(TURN, "ArrowRight") for _ in range(turns)]
        page.select_option("#order", "gap")  # points of a page now lie all over the data files
        page.wait_for_timeout(500)
        found["jump"] = [page.evaluate(TURN, "ArrowRight") for _ in range(turns)]
        browser.close()
    return {
        name: {"p50": round(median(each), 1), "p95": round(quantiles(each, n=20)[-1], 1)}
        for name, each in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="where the data go for the time being")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clipgap-report-", dir=options.folder) as name:
        folder = Path(name)
        arguments = make(folder)
        runs = [run(arguments, folder / "report") for _ in range(options.rounds)]
        pages = browse(folder / "report", 10, options.turns)
    middle = sorted(runs, key=lambda each: each["seconds"])[len(runs) // 2]
    row = {
        "suite": "report",
        "points": sum(TESTS.values()),
        "rows": ROWS,
        "splits": len(TESTS) + 1,
        "k": K,
        "rounds": options.rounds,
        **middle,
        "first_paint_ms": {name: pages[name] for name in ("index", "gallery")},
        "page_turn_ms": pages["turn"],
        "page_turn_scattered_ms": pages["jump"],
    }
    for key, value in row.items():
        print(f"{key:24} {value}")
    print(append(default_folder(), [{**origin(), **row}]))


if __name__ == "__main__":
    main()
