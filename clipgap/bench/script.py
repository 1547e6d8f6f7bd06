"""The frame of the scripts in `benchmarks/`: their common options, where their rows go."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from clipgap.bench import results
from clipgap.bench.results import Columns, Row
from clipgap.kernels.choose import fallback_note


def read_options(
    parser: argparse.ArgumentParser, tiny: dict[str, Any], **fixed: Any
) -> argparse.Namespace:
    """What is asked for; `tiny` are the defaults of a dry run, `fixed` sizes without an option."""
    parser.add_argument("--results", type=Path, default=results.default_folder())
    parser.add_argument(
        "--dry-run", action="store_true", help="the whole script in small; no row is kept"
    )
    parser.set_defaults(**fixed)
    if parser.parse_known_args()[0].dry_run:
        parser.set_defaults(**tiny)
    if note := fallback_note("auto", "auto"):
        print(note, file=sys.stderr)  # or rates are taken for those of another kernel
    return parser.parse_args()


def publish(
    rows: list[Row], options: argparse.Namespace, columns: Columns, *, left: int = 1
) -> None:
    """Show the rows as a table, and keep them unless the run was a dry one."""
    results.print_table(rows[0]["suite"], rows, columns, left=left)
    if not options.dry_run:
        origin = results.origin()
        print(results.append(options.results, [{**origin, **row} for row in rows]))
