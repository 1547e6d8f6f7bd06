"""benchmarks/gpu.py and gpu_lease.py: what a card runs as one command, it may have for minutes, and
it must not wait for them to show a typing error."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clipgap.errors import MissingDependency

pytest.importorskip("torch")
pytest.importorskip("triton")


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[None]:
    """Its scripts, which are no package's, can be imported."""
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def lease(benchmarks: None) -> ModuleType:
    return importlib.import_module("gpu_lease")


def test_the_benchmark_runs_in_small(
    benchmarks: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dry-run", "--no-check", f"--out={tmp_path}"])
    importlib.import_module("gpu").main()
    said = capsys.readouterr().out
    assert "clipgap triton int8, resident" in said
    assert (tmp_path / "dry-run.svg").exists() or "no plot" in said


def test_variants_of_the_filter_still_apply_to_its_sources(lease: ModuleType) -> None:
    made = {(name, chip) for name, chip, _ in lease.variants()}
    assert made >= {(name, 90) for name in lease.CHANGES}
    assert ("no epilogue", 80) in made


def test_every_step_is_reached_and_finds_what_it_is_for(
    lease: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interpreted on a few rows: what they say is right, and the end makes goals of it."""
    few = lease.Scale(8, (8,), 16, (16,), 16, (6, 4), ("near-ties",), 8, 1)
    rows = [{"step": name, **row} for name in lease.STEPS for row in lease.STEPS[name].find(few)]
    assert not [row for row in rows if row.get("right") is False or row.get("failed")]
    assert {row["step"] for row in rows if "right" in row} == {"sums", "oracle"}
    parts = {row["part"] for row in rows if row["step"] == "parts"}
    assert parts >= {"cuBLAS float16", "quantise", "filter, real bounds", "score", "all of it"}
    ends = {(row["kernel"], row["where"]) for row in rows if row["step"] == "whole"}
    assert ends >= {
        ("triton", "resident"),
        ("triton", "streamed"),
        ("triton-float16", "from files"),
    }
    assert json.loads(json.dumps(rows)) == rows

    lease.show_goals([*rows, {"step": "machine", "capability": [9, 0]}])
    said = capsys.readouterr().out
    assert "wrong or failed: 0" in said
    assert "not measured" not in said
    assert "triton int8, all outputs, × cuBLAS float16: " in said
    assert "order.py:\n    (9, 0): {'triton':" in said


def test_a_step_that_fails_is_a_row_and_the_rest_goes_on(
    lease: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    does = {
        "sums": "print('{\"found\": 1}', flush=True); raise SystemExit('why')",
        "parts": "print('{\"found\": 3}')",
        "whole": "never reached",
    }
    monkeypatch.setattr(lease, "STEPS", dict.fromkeys(does, lease.Step(None, 20.0)))
    monkeypatch.setattr(
        lease, "command_of", lambda step, dry_run: [sys.executable, "-S", "-c", does[step]]
    )
    clock = iter([0.0, 1.0, 2.0, 99.0])
    monkeypatch.setattr(lease, "seconds_now", lambda: next(clock))
    lease.lead(Namespace(out=tmp_path, budget=100.0, only=list(does), dry_run=False))

    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    found: dict[str, list[Any]] = {name: [] for name in does}
    for row in rows:
        found[row["step"]].append(row.get("found") or row.get("failed") or row["done"])
    assert found == {
        "sums": [1, "why"],
        "parts": [3, True],
        "whole": ["no time was left"],
    }
    assert "wrong or failed: 2\n  sums: why" in capsys.readouterr().out


def test_a_step_leaves_time_for_what_is_wanted_of_later_ones(
    lease: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long each takes; and what all may take at most does not fit in four minutes."""
    clock, limits = [0.0], {}

    def takes_all(name: str, command: list[str], limit: float, take: Any) -> None:
        limits[name] = limit
        clock[0] += limit

    monkeypatch.setattr(lease, "run_step", takes_all)
    monkeypatch.setattr(lease, "seconds_now", lambda: clock[0])
    lease.lead(Namespace(out=tmp_path, budget=230.0, only=list(lease.STEPS), dry_run=False))
    assert sum(limits.values()) <= 230
    wanted = [name for name, step in lease.STEPS.items() if step.least]
    assert wanted == ["cuda-sums", "cuda-oracle", "oracle", "parts", "whole"]
    assert all(limits[name] >= lease.STEPS[name].least for name in wanted)


def test_a_filter_that_fails_costs_its_own_rows(
    lease: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def find(name: str, kind: str) -> Iterator[dict[str, Any]]:
        yield {"kind": kind}
        if name.endswith("int8"):
            raise RuntimeError("first\nan illegal address")

    rows = [{"step": "parts", **row} for row in lease.by_filter(lease.device_of(), find)]
    assert [(row["filter"], "failed" in row) for row in rows[:3]] == [
        ("triton int8", False),
        ("triton int8", True),
        ("triton float16", False),
    ]
    lease.show_goals(rows)
    assert "wrong or failed: 1\n  parts triton int8: an illegal" in capsys.readouterr().out


def test_a_step_that_hangs_is_ended_with_all_that_it_started(lease: ModuleType) -> None:
    rows: list[dict[str, Any]] = []
    hangs = "import subprocess; subprocess.run(['sleep', '60'])"
    lease.run_step("profile", [sys.executable, "-S", "-c", hangs], 0.3, rows.append)
    assert [(row["step"], row["failed"]) for row in rows] == [("profile", "stopped after 0 s")]


def test_without_a_card_a_step_says_so_in_a_line(
    lease: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_there() -> None:
        raise MissingDependency("there is no NVIDIA GPU")

    monkeypatch.setattr(lease, "device_of", none_there)
    with pytest.raises(SystemExit, match=r"^there is no NVIDIA GPU$"):
        lease.do("parts", lease.DRY)
