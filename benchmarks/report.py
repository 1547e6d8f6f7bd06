"""How long `clipgap report` takes at the paper's size, and how fast its pages are in a browser.

    python benchmarks/report.py

Scans 100,000 made-up rows against six test sets of the paper's sizes (166,963 points, 32
neighbours each), makes seven splits and an evaluation of two checkpoints, and measures the command
in a process of its own. Then Chromium opens the pages from disk: time to the first contentful
paint, from a key to the frame that shows the next page of the gallery, and from a move of the
threshold's slider to the frame that shows its rows. Rows are appended to `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import pyarrow as pa

import clipgap
from clipgap.bench.processes import clipgap_process
from clipgap.bench.race import Racer, Spent, race
from clipgap.bench.results import Columns
from clipgap.bench.script import publish, read_options
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
SLIDE = """
async (part) => {
  const slider = document.getElementById("at"), lowest = Number(slider.min);
  const began = performance.now(), before = document.body.dataset.shown;
  slider.value = lowest + Math.round(part * (Number(slider.max) - lowest));
  slider.dispatchEvent(new Event("input"));
  while (document.body.dataset.shown === before) await new Promise((done) => setTimeout(done));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - began;
}
"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def make(folder: Path, sizes: dict[str, int], rows: int, reference: int) -> list[str]:
    """All inputs; gives the arguments of the command."""
    stores = {"web": (rows, 1, 0), "curated": (reference, 2, 0)}
    stores |= {name: (n, seed, 0) for seed, (name, n) in enumerate(sizes.items(), start=3)}
    for name, (n, seed, world) in stores.items():
        with StoreWriter(folder / name, DIM) as writer:
            drawn = synthetic.clip_like(n, DIM, seed, world=world)
            writer.add(drawn, keys=[f"{name}-{row:08d}" for row in range(n)])
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
    write_eval(folder / "eval", sizes)
    return [*arguments, "--eval", str(folder / "eval")]


def write_eval(folder: Path, sizes: dict[str, int]) -> None:
    """An evaluation of random answers."""
    random = np.random.default_rng(0)
    files, summary = {}, []
    for name, n in sizes.items():
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
            "sets": [{"name": name, "samples": n, **common} for name, n in sizes.items()],
            "settings": {"precision": "fp32", "draws": 1, "seed": 0},
            "units": {},
            "versions": {},
            "files": listed,
        },
    )


def run(arguments: list[str], out: Path, told: dict[str, float]) -> Spent:
    """The command once, from start to exit."""
    shutil.rmtree(out, ignore_errors=True)
    spent, printed = clipgap_process("report", *arguments, "-o", str(out), "-q", "--json")
    written = json.loads(printed)
    told |= {"files": written["files"], "megabytes": round(written["bytes"] / 1e6, 1)}
    return spent


def browse(report: Path, opens: int, turns: int) -> dict[str, dict[str, float]]:
    """Milliseconds in Chromium, each page opened in a fresh context."""
    from playwright.sync_api import sync_playwright

    pages = ("index", "gallery", "thresholds")
    found: dict[str, list[float]] = {name: [] for name in (*pages, "turn", "jump", "slide")}
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, headless=True)
        for name in pages:
            for _ in range(opens):
                context = browser.new_context(viewport={"width": 1280, "height": 900})
                page = context.new_page()
                page.goto((report / f"{name}.html").as_uri())
                found[name].append(_once(page, PAINT))
                context.close()
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto((report / "gallery.html").as_uri())
        page.wait_for_selector(".point")
        found["turn"] = [page.evaluate(TURN, "ArrowRight") for _ in range(turns)]
        page.select_option("#order", "gap")  # points of a page now lie all over the data files
        page.wait_for_timeout(500)
        found["jump"] = [page.evaluate(TURN, "ArrowRight") for _ in range(turns)]
        page.goto((report / "thresholds.html").as_uri())
        _once(page, "document.body.dataset.shown")
        steps = [0.9 * ((7 * turn) % turns) / turns for turn in range(1, turns + 1)]
        found["slide"] = [page.evaluate(SLIDE, step) for step in steps]
        browser.close()
    return {
        name: {"p50": round(median(each), 1), "p95": round(quantiles(each, n=20)[-1], 1)}
        for name, each in found.items()
    }


def _once(page: Any, what: str) -> Any:
    """What a page says as soon as it says it; to wait in the page its policy forbids."""
    while not (said := page.evaluate(what)):
        page.wait_for_timeout(10)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="where the data go for the time being")
    tiny = {"rounds": 1, "shrink": 1000}
    options = read_options(parser, tiny, shrink=1)
    sizes = {name: n // options.shrink for name, n in TESTS.items()}
    rows, reference = ROWS // options.shrink, REFERENCE // options.shrink
    told: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="clipgap-report-", dir=options.folder) as name:
        folder = Path(name)
        arguments = make(folder, sizes, rows, reference)
        racer = Racer("report", "", lambda: run(arguments, folder / "report", told))
        race([racer], options.rounds)
        # A dry run goes without a browser, which may not be there.
        pages = {} if options.dry_run else browse(folder / "report", 10, options.turns)
    middle = sorted(racer.spent, key=lambda each: each.seconds)[options.rounds // 2]
    row = {
        "suite": "report",
        "points": sum(sizes.values()),
        "rows": rows,
        "splits": len(TESTS) + 1,
        "k": K,
        "rounds": options.rounds,
        "seconds": round(middle.seconds, 2),
        "processor_seconds": round(middle.processor, 2),
        "peak_mib": round(middle.peak_mib, 1),
        **told,
        "first_paint_ms": {name: pages.get(name) for name in ("index", "gallery", "thresholds")},
        "page_turn_ms": pages.get("turn"),
        "page_turn_scattered_ms": pages.get("jump"),
        "slide_ms": pages.get("slide"),
    }
    columns: Columns = [(name, lambda row, name=name: str(row[name])) for name in row]
    publish([row], options, columns)


if __name__ == "__main__":
    main()
