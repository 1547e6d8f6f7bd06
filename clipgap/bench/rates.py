"""Rates for what is yet to be run: measured ones from rows that were kept, or assumptions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgap.bench.results import Row
from clipgap.bench.scans import HOST_FIGURES
from clipgap.errors import InputError, UsageError
from clipgap.files.documents import is_count, is_number, misfits
from clipgap.machine import machine


def _is_positive(value: object) -> bool:
    return is_number(value) and value > 0  # type: ignore[operator]


_ROW = {"suite": str, "run": str, "machine": {"cpu": str, "cores": is_count}}
_CASE = {"contender": str, "d": _is_positive, "tests": _is_positive}
_OF_SUITE = {
    "kernels": {**_CASE, "threads": _is_positive, "gflops": {"p50": _is_positive}},
    "embed": {
        "model": str,
        "threads": _is_positive,
        "images_per_second": {"forward": {"p50": _is_positive}, "decode": {"p50": _is_positive}},
    },
    "dedup": {
        **dict.fromkeys(("d", "rows", "clusters", "threads", "seconds"), _is_positive),
        "iterations": (None, _is_positive),
    },
    "gpu": {**_CASE, "device": str, "tflops": (None, {"p50": _is_positive})},
}
"""What must be true of a row, so that a rate can be taken of it."""

PEAKS = {"A100": 624e12, "H100": 1979e12, "H200": 1979e12}
"""Operations a second on int8 that the maker states (dense, SXM), by which scores are computed."""

HALVES = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""The same on float16 and bfloat16, by which models are."""

IMAGE_BYTES = 24_000.0
"""Of an image and its caption in LAION-400M as img2dataset makes it, at 256 pixels a side."""

_SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15}
_NUMBER = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s*([kMGBTP]?)(?:B/s|FLOP/s)?")


@dataclass(frozen=True)
class Rate:
    """So much a second (or for each of something), and how that is known."""

    value: float
    why: str


def number(name: str, text: str) -> float:
    """A quantity as people write it: 166,963, 2.3B, 25GB/s."""
    found = _NUMBER.fullmatch(text.strip())
    value = float(found[1].replace(",", "")) * _SCALE[found[2]] if found else 0.0
    if not value:
        raise UsageError(f"--{name} {text}: expected a number such as 166,963, 2.3B or 25GB/s")
    return value


class Kept:
    """Rows of benchmarks, those of this machine before others, the newest before older ones."""

    def __init__(self, place: Path) -> None:
        self.place = place
        files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
        self._rows = [row for file in files if file.exists() for row in _read(file)]
        here = machine()["cpu"]
        self._rows.sort(key=lambda row: (row["machine"]["cpu"] == here, row["run"]), reverse=True)

    def core(self, dim: int, tests: int) -> Rate | None:
        """Operations a second of one core, by the fastest kernel on rows like CLIP's."""
        ours = self._with(
            suite="kernels",
            data="clip-like",
            where=lambda row: re.fullmatch(r"clipgap cpu/\w+", row["contender"]),
        )

        def rate(row: Row) -> float:
            return float(row["gflops"]["p50"] * 1e9 / row["threads"])

        return self._nearest(ours, dim, tests, rate)

    def gpu(self, name: str, dim: int, tests: int) -> Rate | None:
        """The same of one GPU, with rows that come from the host's memory, as in a scan."""
        ours = self._with(
            suite="gpu",
            where=lambda row: (
                name.lower() in row["device"].lower()
                and re.fullmatch(r"clipgap .*, streamed", row["contender"])
            ),
        )
        return self._nearest(ours, dim, tests, lambda row: row["tflops"]["p50"] * 1e12)

    def writer(self, sets: int) -> Rate | None:
        """Rows a second that one core reads, checks and writes, by what one and six sets take."""
        suite = "files to tables"
        one, six = (self._first(suite=suite, figure=figure) for figure in HOST_FIGURES.values())
        if one is None or six is None:
            return None
        each = max(0.0, six["value"] - one["value"]) / 5
        micros = one["value"] + each * (sets - 1)
        return Rate(1e6 / micros, f"against one point of each set, by {_of(one)}")

    def splitting(self, sets: int) -> Rate | None:
        """Rows a second that one core decides on and puts into a keep-list."""
        case = f"prune by {'one' if sets == 1 else 'six'}"
        row = self._first(suite="split", case=case, does="write", keys="numbers", threads=1)
        if row is None:
            return None
        return Rate(row["mrows_per_second_and_core"] * 1e6, f"`{case}` by {_of(row)}")

    def disk(self) -> Rate | None:
        """Bytes a second."""
        row = self._first(suite="filter", case="cp and sync")
        if row is None:
            return None
        return Rate(row["gb_read_per_second"] * 1e9, f"cp and sync by {_of(row)}")

    def forward(self, operations_of: Callable[[str], float]) -> Rate | None:
        """Operations a second of one core in the forward pass of a model."""
        row = self._first(suite="embed")
        if row is None:
            return None
        images = row["images_per_second"]["forward"]["p50"] / row["threads"]
        return Rate(images * operations_of(row["model"]), f"{row['model']} by {_of(row)}")

    def decoding(self) -> Rate | None:
        """Images a second that one core reads and decodes."""
        row = self._first(suite="embed")
        if row is None:
            return None
        rate = row["images_per_second"]["decode"]["p50"] / row["threads"]
        sides = " × ".join(map(str, row.get("image_pixels", ()))) or "some"
        return Rate(rate, f"of {sides} pixels, by {_of(row)}")

    def clustering(self) -> Rate | None:
        """Operations a second of one core that assigns rows to centroids."""
        rows = self._with(lambda row: row.get("iterations"), suite="dedup", race="kmeans")
        if not rows:
            return None
        row = rows[0]
        operations = 2.0 * row["rows"] * row["clusters"] * row["d"] * row["iterations"]
        rate = operations / row["seconds"] / row["threads"]
        return Rate(rate, f"k-means of {row['clusters']:,} clusters by {_of(row)}")

    def memory(self, dim: int, tests: int) -> Rate | None:
        """Peak bytes of a scan: those of a long one, and for each point more what points took."""
        figures = ("peak memory at 8N", "time at N, M", "time at 4M / at M")
        found = [self._first(suite="files to tables", figure=figure) for figure in figures]
        rows = [row for row in found if row is not None]
        if len(rows) < len(figures):
            return None
        long, few, many = (row["runs"][0] for row in rows)
        point = (many["peak_mib"] - few["peak_mib"]) / (many["tests"] - few["tests"])
        more = max(0.0, point * (tests * dim / rows[0]["d"] - long["tests"]))
        span = f"{few['tests']:,} to {many['tests']:,} test points"
        return Rate((long["peak_mib"] + more) * 2**20, f"by a line through {span}, {_of(rows[0])}")

    def _with(self, where: Callable[[Row], Any] = bool, **wanted: Any) -> list[Row]:
        same = [row for row in self._rows if all(row.get(k) == v for k, v in wanted.items())]
        return [row for row in same if where(row)]

    def _first(self, **wanted: Any) -> Row | None:
        return next(iter(self._with(**wanted)), None)

    def _nearest(
        self, rows: Sequence[Row], dim: int, tests: int, rate: Callable[[Row], float]
    ) -> Rate | None:
        """Of the first machine among rows the case that is most like this, as last measured."""
        if not rows:
            return None

        def far(row: Row) -> float:
            return abs(math.log(row["d"] / dim)) + abs(math.log(row["tests"] / tests))

        rows = [row for row in rows if row["machine"] == rows[0]["machine"]]
        least = min(map(far, rows))
        case = [row for row in rows if far(row) == least]
        best = max((row for row in case if row["run"] == case[0]["run"]), key=rate)
        what = f"{best['contender']} at d = {best['d']:,}, {best['tests']:,} test points"
        return Rate(rate(best), f"{what}, by {_of(best)}")


def assumed(name: str, efficiency: float, models: bool = False) -> Rate:
    """Of a GPU that no row has: of scores, or of models."""
    peaks, unit = (HALVES, "TFLOPS") if models else (PEAKS, "TOPS")
    if name.upper() not in peaks:
        raise UsageError(
            f"no row has the rate of {name}, and its peak is not known here. Type --rate, measure "
            f"it with `python benchmarks/gpu.py`, or take one of {', '.join(peaks)}"
        )
    peak = peaks[name.upper()]
    kind = "float16" if models else "int8"
    return Rate(
        efficiency * peak,
        f"ASSUMED, {efficiency:.0%} of the {peak / 1e12:,.0f} {unit} that its maker states for "
        f"{kind}; no row has a rate of {name}",
    )


def _read(path: Path) -> Iterator[Row]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    for count, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            shape = {**_ROW, **_OF_SUITE.get(row["suite"], {})}
            for problem in misfits(row, shape):
                raise ValueError(problem)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path}, line {count}: not a row of clipgap bench") from error
        yield row


def _of(row: Row) -> str:
    where = row.get("device") or f"{row['machine']['cpu']}, {row['machine']['cores']} cores"
    return f"the run of {row['run'][:10]} on {where}"
