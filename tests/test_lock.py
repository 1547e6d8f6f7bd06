"""One writer at a time: the lock beside an output folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.errors import InputError
from clipgap.runs import claim
from clipgap.runs.how import How
from clipgap.runs.lock import only_writer
from clipgap.runs.output import open_output
from clipgap.synthetic.render import KIND
from tests.worlds import tree, unit_rows

HOLD = """
import sys, time
from pathlib import Path
from clipgap.runs.lock import only_writer

with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(out: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock by now."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    other = holder(tmp_path / "deep" / "out")
    try:
        with (
            pytest.raises(InputError, match=rf"another run .* process {other.pid} on"),
            only_writer(tmp_path / "deep" / "out"),
        ):
            pass
        with only_writer(tmp_path / "deep" / "other"):  # its own folder is nobody's business
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    with only_writer(tmp_path / "deep" / "out"):  # what a killed run leaves is no lock
        pass
    assert tree(tmp_path / "deep") == {}


def test_a_forked_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import os, sys, time\n"
            "from pathlib import Path\n"
            "from clipgap.runs.lock import only_writer\n"
            "with only_writer(Path(sys.argv[1])):\n"
            "    if os.fork() == 0:\n"  # the child says when it is there; until then it may hold
            "        print(os.getpid(), flush=True)\n"
            "    time.sleep(600)\n",
            str(tmp_path / "out"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    with pytest.raises(InputError, match="another run"), only_writer(tmp_path / "out"):
        pass
    process.kill()
    process.wait()
    try:
        with only_writer(tmp_path / "out"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(claim, "_SPEAKS_SECONDS", 0.2)
    monkeypatch.setattr(claim, "_GONE_SECONDS", 2.0)


def test_a_folder_that_cannot_be_locked_is_claimed(tmp_path: Path, no_locks: None) -> None:
    out = tmp_path / "out"
    with (
        only_writer(out),
        pytest.raises(InputError, match=rf"at work in {out}: process {os.getpid()} on"),
        only_writer(out),
    ):
        pass
    assert not list(tmp_path.glob("*claim*"))
    (tmp_path / "out.claim-7").write_text("what a killed run leaves")
    with only_writer(out):
        (name,) = (path.name for path in tmp_path.glob("*claim*"))
        assert int(name.removeprefix("out.claim-")) > 7


def test_a_claim_that_is_lost_finishes_nothing(tmp_path: Path, no_locks: None) -> None:
    out, place = tmp_path / "out", claim.Beside(tmp_path / "out")
    with open_output(out, KIND, How()) as output:
        output.begin({})
        while place.put_if(b"another run", place.standing()) is None:
            pass
        with pytest.raises(InputError, match="another run has taken this place over"):
            while output._check_ours() is None:  # until it has looked
                time.sleep(0.05)
        with pytest.raises(InputError, match="another run has taken this place over"):
            output.finish({}, {})
    assert not (out / "manifest.json").exists()


def test_an_error_inside_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), only_writer(tmp_path / "out"):
        raise ValueError("inside")
    with only_writer(tmp_path / "out"):
        pass


def test_several_names_of_one_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with (
        only_writer(tmp_path / "real"),
        pytest.raises(InputError, match="another run is at work in"),
        only_writer(tmp_path / "link"),
    ):
        pass


def test_commands_leave_a_folder_that_is_being_written_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("train.npy", unit_rows(50, 8, 0))
    np.save("test.npy", unit_rows(5, 8, 1))
    scan = ["scan", "train.npy", "--test", "t=test.npy", "-o", "scan"]
    split = ["split", "scan", "--rand", "10", "-o", "keep"]
    dedup = ["dedup", "train.npy", "--epsilon", "0.1", "--clusters", "2", "-o", "unique"]
    for call, held in ((scan, "scan"), (split, "keep"), (dedup, "unique.work")):
        out = call[-1]
        with only_writer(Path(held)):
            assert main(call) == InputError.exit_code
            assert "another run is at work in" in capsys.readouterr().err
            assert not Path(out).exists() or not any(Path(out).iterdir())
        assert main(call) == 0
        made = tree(Path(out))
        with only_writer(Path(held)):
            assert main([*call, "--overwrite"]) == InputError.exit_code
        assert tree(Path(out)) == made
    assert not list(tmp_path.glob(".*.lock"))
    assert clipgap.verify("scan").ok


def test_render_leaves_a_folder_that_is_being_written_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "drawn"
    call = ["render", "shapes", "--web", "4", "--reference", "2", "--points", "2"]
    call += ["--planted", "1", "-o", str(out)]
    with open_output(out, KIND, How()):
        assert main(call) == InputError.exit_code
        assert "another run is at work in" in capsys.readouterr().err
        assert not tree(out).keys() - {".progress/lock"}
    assert main(call) == 0
    made = tree(out)
    with open_output(out, KIND, How(resume=True)):
        assert main([*call, "--overwrite"]) == InputError.exit_code
    assert tree(out) == made
