"""Where figures go: one JSON line each, appended to a file per machine, and a table to read."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

from clipgap.bench.case import Case
from clipgap.bench.kernels import FMA, SGEMM, Measured
from clipgap.bench.race import percentiles
from clipgap.bench.scans import D, Figure
from clipgap.machine import machine, versions
from clipgap.sheets import Sheet

PACKAGES = ("clipgap", "numpy", "pyarrow", "torch", "triton", "faiss-cpu", "usearch")

Row = dict[str, Any]


def checkout() -> Path | None:
    """The root of the source tree this package runs from, if it does."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "benchmarks").is_dir() and (root / "setup.py").is_file() else None


def default_folder() -> Path:
    root = checkout()
    return root / "benchmarks" / "results" if root else Path.cwd() / "clipgap-bench"


def origin() -> Row:
    """When, where and with what a run is made: the same in all its rows."""
    return {
        "run": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(),
        "versions": versions(*PACKAGES),
        "revision": _revision(),
    }


def kernel_rows(case: Case, measured: list[Measured], threads: int, origin: Row) -> list[Row]:
    medians = {each.name: each.percentile(50) for each in measured}
    return [
        {
            **origin,
            "suite": "kernels",
            "data": case.kind,
            "d": case.d,
            "tests": case.m,
            "sets": len(case.set_sizes),
            "threads": threads,
            "contender": each.name,
            "does": each.does,
            "side": each.side,
            "rows": each.rows,
            "rows_before": each.before,
            "rounds": len(each.rates),
            "gflops": percentiles(each.rates, 2, 1e9),
            "of_sgemm": _ratio(medians[each.name], medians.get(SGEMM)),
            "of_fma_peak": _ratio(medians[each.name], medians.get(FMA)),
            "note": each.note,
            **each.extra,
        }
        for each in measured
    ]


def scan_rows(figures: list[Figure], threads: int, origin: Row) -> list[Row]:
    return [
        {
            **origin,
            "suite": "files to tables",
            "d": D,
            "threads": threads,
            "figure": figure.name,
            "value": round(figure.value, 3),
            "unit": figure.unit,
            "runs": [
                {
                    "rows": run.rows,
                    "tests": run.tests,
                    "seconds": round(run.seconds, 3),
                    "peak_mib": round(run.peak_mib, 1),
                }
                for run in figure.runs
            ],
        }
        for figure in figures
    ]


def append(folder: Path, rows: Iterable[Row]) -> Path | None:
    """Add rows to the file of their GPU, or of their machine; gives the file."""
    path = None
    for row in rows:
        where = row.get("device") or _name(row["machine"])
        path = folder / f"{re.sub(r'[^a-z0-9]+', '-', where.lower()).strip('-')}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def _name(machine: Mapping[str, Any]) -> str:
    """Processors of one name have rows apart where their instruction sets differ."""
    cpu = re.sub(r"\(\w*\)| Processor| @.*", "", machine["cpu"])
    vnni = " avx512vnni" if "avx512_vnni" in machine["isa"] else ""
    return f"{cpu} {machine['cores']} cores{vnni}"


Columns = Sequence[tuple[str, Callable[[Row], str]]]
"""The headings of a table, and what stands there of a row."""


def print_table(
    title: str,
    rows: Iterable[Row],
    columns: Columns,
    console: Any = None,
    *,
    left: int = 1,
    style: Callable[[Row], str | None] = lambda row: None,
) -> None:
    """Rows as a table; the first `left` columns are words, the others figures."""
    from rich.console import Console

    table = Sheet([heading for heading, _ in columns], words=left, title=title)
    for row in rows:
        table.add(*(shown(row) for _, shown in columns), style=style(row))
    (console or Console()).print(table)


def print_kernels(rows: Iterable[Row], console: Any) -> None:
    """One table a case, fastest first."""

    def times(row: Row) -> str:
        return f"{row['rows']:,} × {row['rounds']}" if row["rows"] else f"{row['rounds']}"

    def full_depth(row: Row) -> str:
        return f"{row['full_depth_share']:.1%}" if "full_depth_share" in row else ""

    def nearest_found(row: Row) -> str:
        return f"{row['nearest_found']:.2%}" if "nearest_found" in row else ""

    columns: Columns = (
        ("", lambda row: row["contender"]),
        ("computes", lambda row: row["does"]),
        ("GFLOP/s", lambda row: f"{row['gflops']['p50']:,.1f}"),
        ("p20–p80", lambda row: "{p20:,.1f}–{p80:,.1f}".format(**row["gflops"])),
        ("× sgemm", lambda row: _shown(row["of_sgemm"])),
        ("× FMA peak", lambda row: _shown(row["of_fma_peak"])),
        ("nearest found", nearest_found),
        ("full depth", full_depth),
        ("rows × rounds", times),
    )
    for case, group in groupby(rows, key=lambda row: (row["data"], row["d"], row["tests"])):
        print_table(
            "{}, d = {}, M = {:,}".format(*case),
            sorted(group, key=lambda row: -row["gflops"]["p50"]),
            columns,
            console,
            left=2,
            style=lambda row: {"ours": "bold", "peak": "dim"}.get(row["side"]),
        )


def print_scans(rows: Iterable[Row], console: Any) -> None:
    columns: Columns = (
        ("", lambda row: row["figure"]),
        ("", lambda row: f"{row['value']:,.2f} {row['unit']}"),
        (
            "rows × test points",
            lambda row: "{rows:,} × {tests:,}".format(**row["runs"][0]) if row["runs"] else "",
        ),
    )
    print_table(f"From files to tables, d = {D}", rows, columns, console)


def _ratio(value: float, base: float | None) -> float | None:
    return round(value / base, 3) if base else None


def _shown(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _revision() -> str:
    root = checkout()
    if root is None:
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
