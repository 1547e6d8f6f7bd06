"""A scan from files to tables, and the kernel alone on the same rows, under pytest-benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from clipgap.bench.scans import Workshop
from clipgap.machine import thread_count

ROWS, TESTS = 32_768, 16_384


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder: Path = tmp_path_factory.mktemp("stores")
    return Workshop(folder, thread_count(), on_note=print)


@pytest.mark.parametrize("what", ["scan", "kernel"])
def test_scan(
    benchmark: BenchmarkFixture, workshop: Workshop, what: Literal["scan", "kernel"]
) -> None:
    """The time of the whole child process; what it measured itself goes to `extra_info`."""
    run = benchmark.pedantic(workshop.run, args=(what, ROWS, TESTS), rounds=2, warmup_rounds=1)
    benchmark.extra_info["gflops"] = round(run.gflops, 1)
    benchmark.extra_info["peak_mib"] = round(run.peak_mib, 1)
