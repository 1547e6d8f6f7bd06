"""Reports that are killed, or cannot be written: pages are whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import clipgap
from clipgap.errors import InputError
from clipgap.files.staging import Staging
from tests.kill_driver import run_driver, visible
from tests.report_worlds import Study, shared_study
from tests.worlds import tree


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return shared_study(tmp_path_factory)


def inputs(study: Study) -> dict[str, Any]:
    """Something of everything, and no more."""
    return {
        "scans": {"web": str(study.folder / "scan")},
        "splits": {"near-90": str(study.folder / "near-90")},
        "images": {"val": str(study.folder / "images/val")},
    }


@pytest.mark.parametrize("mode", ["some writes", "full disk"])
def test_no_page_is_ever_cut(study: Study, tmp_path: Path, mode: str) -> None:
    seen = run_driver("report", inputs(study), tmp_path / "runs", mode)
    assert seen["wrong"] == []
    if mode == "some writes":
        assert seen["killed"] == seen["tried"] > 20 and seen["writes"] > 40
    else:
        assert seen["refused"] > 5


def failing(place: Any, name: str, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nth call fails, as on a disk that is full or gone."""
    original, calls = getattr(place, name), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(*arguments, **options)

    monkeypatch.setattr(place, name, counted)


@pytest.mark.parametrize(
    ("place", "name", "nth"),
    [
        (Path, "write_bytes", 1),
        (Path, "write_bytes", 9),
        (Path, "mkdir", 6),
        (Path, "replace", 1),
        (Path, "replace", 2),
        (Path, "replace", 5),
        (Path, "replace", 9),
        (Staging, "_flush", 1),
        (os, "fsync", 1),
        (os, "fsync", 4),
        (os, "fsync", 6),
    ],
)
def test_a_write_that_fails(study: Study, tmp_path: Path, place: Any, name: str, nth: int) -> None:
    whole = clipgap.report(**inputs(study), out=tmp_path / "whole", gallery=1).path
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patched:
        failing(place, name, nth, patched)
        with pytest.raises(InputError, match=r"(write|make the folder) .*/out"):
            clipgap.report(**inputs(study), out=out, gallery=1)
    left = {name: digest for name, digest in tree(out).items() if visible(name)}
    assert left.items() <= tree(whole).items()
    assert "manifest.json" not in left
    clipgap.report(**inputs(study), out=out, gallery=1, resume=True)
    assert tree(out) == tree(whole)


def test_what_is_not_flushed_is_not_shown(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte is on its way to the disk before the first name appears."""
    steps: list[str] = []
    for place, name in ((Path, "write_bytes"), (Staging, "_flush"), (Path, "replace")):
        original = getattr(place, name)

        def noted(*arguments: Any, name: str = name, original: Any = original) -> Any:
            if not str(arguments[0]).endswith(".clipgap-tmp"):
                steps.append(name)
            return original(*arguments)

        monkeypatch.setattr(place, name, noted)
    clipgap.report(**inputs(study), out=tmp_path / "out", gallery=1)
    assert list(dict.fromkeys(steps)) == ["write_bytes", "_flush", "replace"]
    assert steps.index("replace") > max(n for n, s in enumerate(steps) if s == "write_bytes")


def test_files_of_others_stay(study: Study, tmp_path: Path) -> None:
    """A folder in which somebody put files is filled file by file; a link is not followed."""
    out = clipgap.report(**inputs(study), out=tmp_path / "out", gallery=1).path
    before = tree(out)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/precious").write_text("stays")
    with Staging(out, ".progress/pages") as pages:
        (out / "tables/mine.csv").write_text("1,2")
        pages.write("tables/test-sets.csv", b"new")
        pages.write("index.html", b"new")
        pages.publish("index.html")
    changed = {name for name, digest in tree(out).items() if before.get(name) != digest}
    assert changed == {"tables/mine.csv", "tables/test-sets.csv", "index.html"}
    (out / "link").symlink_to(tmp_path / "elsewhere")
    with Staging(out, ".progress/pages") as pages:
        pages.write("link/precious", b"overwritten")
        with pytest.raises(InputError, match="cannot write"):
            pages.publish("index.html")
    assert (tmp_path / "elsewhere/precious").read_text() == "stays"
