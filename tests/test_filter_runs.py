"""`filter_shards` stopped, resumed, repaired and refused; and the command."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clipgap.__main__ import main
from clipgap.errors import InputError, Interrupted, ResumeError, UsageError
from clipgap.files.atomic import TEMPORARY_SUFFIX
from clipgap.shards.api import filter_shards
from clipgap.shards.unit import Worker
from tests.shards import write_keep, write_shard
from tests.worlds import flip_bit, tree

KEYS = {f"{i:05d}": [f"{i}{j}" for j in range(6)] for i in range(5)}
KEPT = {(name, row) for name in KEYS for row in range(0, 6, 2)}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards in `in`, a keep-list in `keep`, and the whole result in `whole`."""
    monkeypatch.chdir(tmp_path)
    for name, keys in KEYS.items():
        write_shard(Path("in") / f"{name}.tar", keys)
    write_keep(Path("keep"), KEYS, KEPT)
    filter_shards("in", "keep", "whole")
    return tmp_path


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Shards can be made until `left` is used up; then making one fails."""
    budget = {"left": 100}
    make = Worker.make

    def make_if_left(self: Worker, unit: Any) -> Any:
        if budget["left"] == 0:
            raise InputError("out of budget")
        budget["left"] -= 1
        return make(self, unit)

    monkeypatch.setattr(Worker, "make", make_if_left)
    return budget


@pytest.mark.parametrize("merge", [None, 4])
@pytest.mark.parametrize("made", [0, 1, 3])
def test_going_on_gives_the_same_bytes(
    here: Path, fragile: dict[str, int], made: int, merge: int | None
) -> None:
    filter_shards("in", "keep", "merged", merge=4)
    fragile["left"] = made
    with pytest.raises(InputError, match="out of budget"):
        filter_shards("in", "keep", "out", merge=merge, workers=1)
    assert not Path("out/manifest.json").exists()
    with pytest.raises(InputError, match="holds an unfinished folder"):
        filter_shards("in", "keep", "out", merge=merge)
    fragile["left"] = units = (5 if merge is None else 4) - made
    filter_shards("in", "keep", "out", merge=merge, resume=True)
    assert fragile["left"] == 0, f"{units} shards were left to do"
    assert tree(Path("out")) == tree(Path("whole" if merge is None else "merged"))


@pytest.mark.parametrize("spoil", [lambda path: flip_bit(path, 700), lambda path: path.unlink()])
def test_a_shard_damaged_while_the_rest_was_not_done(
    here: Path, fragile: dict[str, int], spoil: Any
) -> None:
    fragile["left"] = 3
    with pytest.raises(InputError):
        filter_shards("in", "keep", "out", workers=1)
    spoil(Path("out/00001.tar"))
    fragile["left"] = 3
    filter_shards("in", "keep", "out", resume=True)
    assert fragile["left"] == 0 and tree(Path("out")) == tree(Path("whole"))


def test_a_finished_folder_is_checked_and_mended(here: Path, fragile: dict[str, int]) -> None:
    before = tree(Path("whole"))
    with pytest.raises(InputError, match="already holds a finished folder"):
        filter_shards("in", "keep", "whole")
    fragile["left"] = 2
    assert filter_shards("in", "keep", "whole", resume=True).already_complete
    assert fragile["left"] == 2
    flip_bit(Path("whole/00002.tar"), 5)
    Path("whole/00004_stats.json").unlink()
    result = filter_shards("in", "keep", "whole", resume=True)
    assert result.repaired == ["00002.tar", "00004_stats.json"]
    assert fragile["left"] == 0 and tree(Path("whole")) == before
    fragile["left"] = 5
    Path("whole/sizes.json").write_text("{}")
    filter_shards("in", "keep", "whole", resume=True)
    assert fragile["left"] == 0 and tree(Path("whole")) == before


def test_resuming_something_else_is_refused(here: Path, fragile: dict[str, int]) -> None:
    fragile["left"] = 2
    with pytest.raises(InputError):
        filter_shards("in", "keep", "out", workers=1)
    left = tree(Path("out"))
    other = write_keep(here / "other", KEYS, {("00000", 0)})
    with pytest.raises(ResumeError, match="keep-list: was"):
        filter_shards("in", other, "out", resume=True)
    with pytest.raises(ResumeError, match="setting merge: was absent, is 2"):
        filter_shards("in", "keep", "out", resume=True, merge=2)
    with pytest.raises(ResumeError, match="shards: were 5, are 1"):
        filter_shards("in/00000.tar", "keep", "out", resume=True)
    with pytest.raises(ResumeError, match="setting merge"):
        filter_shards("in", "keep", "whole", resume=True, merge=2)
    write_shard(Path("in/00003.tar"), KEYS["00003"])  # the same again, at another time
    with pytest.raises(ResumeError, match="last change of shard 00003"):
        filter_shards("in", "keep", "out", resume=True)
    assert tree(Path("out")) == left
    assert filter_shards("in", "keep", "whole", resume=True).already_complete


def test_overwriting_leaves_nothing_of_before(here: Path, fragile: dict[str, int]) -> None:
    shutil.copytree("whole", "out")
    with pytest.raises(UsageError, match="exclude each other"):
        filter_shards("in", "keep", "out", overwrite=True, resume=True)
    assert tree(Path("out")) == tree(Path("whole"))
    Path("out/notes.txt").write_text("mine")
    filter_shards("in", "keep", "out", overwrite=True, merge=100)
    assert sorted(tree(Path("out"))) == [
        "00000.tar",
        "00000_stats.json",
        "manifest.json",
        "notes.txt",
        "sizes.json",
    ]
    # Killed before it could remove what was there, it does so when it goes on.
    fragile["left"] = 0
    with pytest.raises(InputError):
        filter_shards("in", "keep", "whole", overwrite=True, merge=100)
    plan = json.loads(Path("whole/.progress/plan.json").read_text())
    plan["earlier"] = ["00004.tar"]
    Path("whole/.progress/plan.json").write_text(json.dumps(plan))
    Path("whole/00004.tar").write_bytes(b"old")
    fragile["left"] = 9
    filter_shards("in", "keep", "whole", resume=True, merge=100)
    Path("out/notes.txt").unlink()
    assert tree(Path("whole")) == tree(Path("out"))


def test_the_inputs_are_spared(here: Path) -> None:
    with pytest.raises(UsageError, match="lies in the output folder"):
        filter_shards("whole", "keep", "whole", overwrite=True)
    assert len(tree(Path("whole"))) == 12


def test_stopping(here: Path) -> None:
    stop = threading.Event()
    seen = []

    def watch(progress: Any) -> None:
        seen.append(progress)
        if progress.stage == "filtering" and progress.shards == 2:
            stop.set()

    with pytest.raises(Interrupted, match=r"of 5 shards left; --resume goes on"):
        filter_shards("in", "keep", "out", workers=1, on_progress=watch, stop=stop)
    assert (seen[-1].kept, seen[-1].total_kept, seen[-1].total_shards) == (6, 15, 5)
    leftovers = [name for name in tree(Path("out")) if name.endswith(TEMPORARY_SUFFIX)]
    assert not leftovers and not Path("out/manifest.json").exists()
    filter_shards("in", "keep", "out", resume=True)
    assert tree(Path("out")) == tree(Path("whole"))


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_bytes(here: Path, workers: int) -> None:
    filter_shards("in", "keep", "out", workers=workers)
    assert tree(Path("out")) == tree(Path("whole"))


def call(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    found = main(["filter", *arguments, "--json"])
    captured = capsys.readouterr()
    assert found == code, captured.err
    return json.loads(captured.out) if captured.out else captured.err


def test_the_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = call(capsys, "in", "--keep", "keep", "--dry-run", "--merge", "4")
    assert (plan["shards"], plan["rows"], plan["kept"], plan["shards_out"]) == (5, 30, 15, 4)
    assert "--out is missing" in call(capsys, "in", "--keep", "keep", code=2)
    done = call(capsys, "in", "--keep", "keep", "-o", "out", "--workers", "2")
    assert done["counts"]["kept"] == 15
    assert tree(Path("out")) == tree(Path("whole"))
    again = call(capsys, "--config", "out.toml", "--resume")
    assert again["already_complete"]
    assert main(["filter", "in", "--keep", "keep", "-o", "out", "--resume"]) == 0
    assert "out is already complete" in capsys.readouterr().out


def test_exit_codes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = Path("in/00001.tar").read_bytes()
    Path("in/00001.tar").write_bytes(content[: len(content) // 2])
    done = call(capsys, "in", "--keep", "keep", "-o", "out", code=4)
    listed = pq.read_table("out/quarantine.parquet").to_pylist()
    assert done["counts"]["problems"] == len(listed) > 0
    assert "truncated" in listed[0]["reason"]
    many = str(len(listed))
    call(capsys, "in", "--keep", "keep", "-o", "out2", "--allow-bad", many)
    assert main(["filter", "in", "--keep", "keep", "-o", "out3"]) == 4
    assert "quarantined" in capsys.readouterr().out
    Path("in/00001.tar").write_bytes(content)
    lost = write_keep(here / "lost", {**KEYS, "00000": ["gone"]}, {("00000", 0)})
    error = call(capsys, "in", "--keep", str(lost), "-o", "out4", code=3)
    assert "00000.tar is whole, but lacks 1 samples" in error and "'gone'" in error
    call(capsys, "in", "--keep", str(lost), "-o", "out4", "--missing", "ignore", "--overwrite")
    call(capsys, "in", "--keep", "nothing", "-o", "out5", code=3)
