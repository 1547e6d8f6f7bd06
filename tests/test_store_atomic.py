"""Files are whole or not there, whatever fails."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipgap.errors import InputError
from clipgap.files.atomic import TEMPORARY_SUFFIX, remove_leftovers, sha256_file, write_atomic
from clipgap.files.sums import FileSum, Hashed, write_file


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_file_appears_whole_and_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "table"
    with write_atomic(target) as temporary:
        temporary.write_bytes(b"whole")
        assert temporary.parent == tmp_path
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert names(tmp_path) == ["table"]


def test_an_error_in_the_body_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "table"
    target.write_bytes(b"old")
    with pytest.raises(KeyError), write_atomic(target) as temporary:
        temporary.write_bytes(b"half")
        raise KeyError
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["table"]


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_failing_step_names_the_file_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "table"
    target.write_bytes(b"old")
    monkeypatch.setattr(step, fail)
    with pytest.raises(InputError, match=r"table: No space left.*again"), write_atomic(target) as t:
        t.write_bytes(b"new")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["table"]


def test_file_and_folder_are_flushed_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(handle: int) -> None:
        steps.append("folder" if Path(f"/proc/self/fd/{handle}").resolve().is_dir() else "file")
        fsync(handle)

    def spy_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    with write_atomic(tmp_path / "table") as temporary:
        temporary.write_bytes(b"x")
    assert steps == ["file", "rename", "folder"]


def test_what_a_killed_process_leaves_is_found_and_removed(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from clipgap.files.atomic import write_atomic\n"
        "with write_atomic(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "keep").write_bytes(b"")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "table")], env=environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "table").exists()
    assert any(name.endswith(TEMPORARY_SUFFIX) for name in names(tmp_path))
    assert remove_leftovers(tmp_path) == 1
    assert names(tmp_path) == ["keep"]


def test_sha256_file(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 17)
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


class LyingFile(io.BytesIO):
    """Writes other bytes than it was given."""

    def write(self, content: Any) -> int:
        return super().write(bytes(byte ^ 1 for byte in bytes(content)))


def test_a_sum_is_of_what_was_given_whatever_the_disk_made_of_it() -> None:
    file = LyingFile()
    hashed = Hashed(file)
    np.lib.format.write_array(hashed, np.arange(1000), allow_pickle=False)
    held = io.BytesIO()
    np.save(held, np.arange(1000))
    assert hashed.sum == FileSum.of_bytes(held.getvalue()) != FileSum.of_bytes(file.getvalue())


def test_the_sum_of_a_whole_file_likewise(tmp_path: Path, monkeypatch: Any) -> None:
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: write(path, content[::-1]))
    assert write_file(tmp_path / "x", b"abc") == FileSum.of_bytes(b"abc")
    assert (tmp_path / "x").read_bytes() == b"cba"
