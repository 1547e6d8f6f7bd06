"""SIGKILL at every write, at random moments, and a file size limit: nothing half-done is visible.

Children are forked from one small process that has everything imported, so that a hundred kills
take seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kill_driver import run_driver
from tests.worlds import World, make_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "world", shards=(40, 0, 25), d=8)


def drive(world: World, mode: str) -> dict[str, Any]:
    """Kill and resume scans; what was seen."""
    inputs = {
        "train": str(world.train),
        "tests": {name: str(path) for name, path in world.test_paths.items()},
    }
    return run_driver("scan", inputs, world.folder / "runs", mode)


def test_killed_at_every_write(world: World) -> None:
    seen = drive(world, "every write")
    assert seen["killed"] == seen["writes"] > 50
    assert seen["wrong"] == []


def test_killed_at_random_times(world: World) -> None:
    seen = drive(world, "random times")
    assert seen["killed"] == 50
    assert seen["wrong"] == []


def test_files_that_cannot_grow(world: World) -> None:
    seen = drive(world, "full disk")
    assert seen["refused"] > 0
    assert seen["wrong"] == []
