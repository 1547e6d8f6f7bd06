"""What is there and cannot be read must not pass for what is not there."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from clipgap.cli.completion import _made
from clipgap.clip.train.api import noted_of
from clipgap.errors import InputError
from clipgap.files.atomic import sha256_file
from clipgap.files.documents import MANIFEST, format_of
from clipgap.files.settings import is_changed, read_settings, settings_file
from clipgap.report.pictures import find_samples
from clipgap.report.sources import Images
from clipgap.runs.lock import PLAN, PROGRESS
from clipgap.runs.shares import Part


def unreadable(path: Path) -> Path:
    """Not even root opens a socket."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFSOCK)
    return path


def caption_of(folder: Path) -> None:
    (folder / "1.jpg").write_bytes(b"x")
    unreadable(folder / "1.txt")
    list(find_samples(Images(str(folder)), {("", "1.jpg")}, [], set()))


READERS: dict[str, Callable[[Path], object]] = {
    "settings": lambda folder: read_settings(unreadable(folder / "out.toml").with_suffix("")),
    "their sum": lambda folder: is_changed(unreadable(settings_file(folder / "out"))),
    "kind of a folder": lambda folder: format_of(unreadable(folder / MANIFEST)),
    "training": lambda folder: noted_of(unreadable(folder / MANIFEST).parent / "checkpoints/a.pt"),
    "plan of a share": lambda folder: Part(unreadable(folder / PROGRESS / PLAN).parents[1]).plan,
    "caption": caption_of,
    "sum of a checkpoint": lambda folder: sha256_file(unreadable(folder / "weights.pt")),
}


@pytest.mark.parametrize("name", READERS)
def test_it_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"cannot read .*: No such device"):
        READERS[name](tmp_path)


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_settings(tmp_path / "out") is None
    assert not is_changed(tmp_path / "out.toml")
    assert format_of(tmp_path / MANIFEST) is None
    assert noted_of(tmp_path / "checkpoints" / "a.pt") == {}


def test_a_shell_completes_by_the_others(tmp_path: Path) -> None:
    unreadable(tmp_path / "a" / MANIFEST)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / MANIFEST).write_text('{"format": "clipgap-scan"}')
    assert list(_made("clipgap-scan")(f"{tmp_path}/")) == [f"{tmp_path}/b"]
