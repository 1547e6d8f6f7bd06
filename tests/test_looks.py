"""A first look at heads saves work and nothing else: folders of scans are the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import clipgap
from clipgap.errors import MissingDependency
from clipgap.kernels import cpu
from clipgap.kernels.interface import BlockResult
from clipgap.synthetic import rows as synthetic
from tests.worlds import tree, write_store

D = 150  # no multiple of anything that kernels like


def looking_first_at(directions: int, seen: list[int]) -> Callable[..., None]:
    """In place of a trial: so many directions from the second block on, worth it or not."""

    def choose_looks(scanner: cpu.CpuScanner, rows: Any, known: BlockResult) -> None:
        seen.append(scanner.counters.full_depth)
        found = cpu.main_directions(scanner._sample, directions)
        assert scanner.use_directions(found) == directions

    return choose_looks


@pytest.mark.parametrize("kind", synthetic.KINDS)
def test_folders_of_one_and_of_two_looks_are_the_same(
    kind: synthetic.Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        isas = [isa for isa, runs in cpu.instruction_sets().items() if runs]
    except MissingDependency as error:
        pytest.skip(str(error))
    rows = synthetic.rows(kind, 0, 640, D, seed=1)
    write_store(tmp_path / "train", np.split(rows, [200, 200, 433]), lambda i, row: f"{i}-{row}")
    tests = {}
    for name, points in (("few", 33), ("more", 190)):
        tests[name] = tmp_path / f"{name}.npy"
        np.save(tests[name], synthetic.rows(kind, 0, points, D, seed=len(name)))
    gap = tmp_path / "gap"
    clipgap.gap(tests["few"], tests, k=3, out=gap)

    def scan(name: str, **options: Any) -> dict[str, str]:
        clipgap.scan(
            tmp_path / "train", tests, gap=gap, k=3, out=tmp_path / name, block_rows=64, **options
        )
        return tree(tmp_path / name)

    whole = scan("whole", kernel="numpy")
    for isa in isas:
        monkeypatch.setenv("CLIPGAP_CPU_ISA", isa)
        assert scan(f"{isa} once", kernel="cpu", threads=1) == whole
        for directions in (32, 64, 128):
            seen: list[int] = []
            with monkeypatch.context() as patch:
                patch.setattr(cpu.CpuScanner, "_pairs", property(lambda scanner: 1 << 60))
                patch.setattr(cpu.CpuScanner, "choose_looks", looking_first_at(directions, seen))
                assert scan(f"{isa} {directions}", kernel="cpu", threads=2) == whole
            assert len(seen) > 5, "each block but the first had its first look"


def test_directions_are_found_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> set[int]:
        return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

    rows = synthetic.clip_like(64, 128)
    seen: list[set[int]] = []
    whole = np.linalg.qr

    def counted(given: Any) -> Any:
        seen.append(threads())
        return whole(given)

    monkeypatch.setattr(np.linalg, "qr", counted)
    with threadpool_limits(2, "blas"):
        cpu.main_directions(rows, 32)
        assert (seen, threads()) == ([{1}], {2}), "and as many as before when they are found"
