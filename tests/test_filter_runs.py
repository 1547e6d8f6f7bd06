"""`filter_shards` stopped, resumed, repaired and refused; and the command."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipgap.__main__ import main
from clipgap.errors import InputError, Interrupted, ResumeError, UsageError
from clipgap.files.atomic import TEMPORARY_SUFFIX
from clipgap.runs.executors import Here
from clipgap.shards.api import filter_shards, run_filter
from clipgap.shards.plan import plan_filter
from clipgap.shards.work import FilterWork
from tests.shards import sample, tar_bytes, write_keep, write_shard
from tests.toy_executor import toy
from tests.worlds import edited_document, flip_bit, tree

KEYS = {f"{i:05d}": [f"{i}{j}" for j in range(6)] for i in range(5)}
KEPT = {(name, row) for name in KEYS for row in range(0, 6, 2)}


def in_one(keys: dict[str, list[str]]) -> dict[str, list[str]]:
    """A store of one shard, called like none of the tar files: only keys match."""
    return {"all": [key for of_shard in keys.values() for key in of_shard]}


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
    make = FilterWork.make

    def make_if_left(self: FilterWork, unit: Any) -> Any:
        if budget["left"] == 0:
            raise InputError("out of budget")
        budget["left"] -= 1
        return make(self, unit)

    monkeypatch.setattr(FilterWork, "make", make_if_left)
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
    if made:  # or else there is nothing to ask about
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


def write_rows(path: Path, keys: list[str]) -> None:
    """A table beside a shard, whose size does not depend on the order of its rows."""
    pq.write_table(pa.table({"key": keys}), path, compression="none", use_dictionary=False)


def beside(name: str) -> None:
    """Change a file beside the shards without changing its size."""
    path = Path("in", name)
    if name.endswith(".json"):
        content = path.read_text()
        path.write_text(content.replace("6", "5") if "6" in content else content.replace("5", "6"))
    else:
        changed = pq.read_table(path)["key"].to_pylist()
        write_rows(path, changed[::-1])


@pytest.mark.parametrize("name", ["00001_stats.json", "00001.parquet"])
def test_what_lies_beside_the_shards_is_part_of_the_inputs(
    here: Path, fragile: dict[str, int], name: str
) -> None:
    Path("in/00001_stats.json").write_text('{"successes": 6}')
    write_rows(Path("in/00001.parquet"), KEYS["00001"])
    filter_shards("in", "keep", "before")
    fragile["left"] = 3
    with pytest.raises(InputError):
        filter_shards("in", "keep", "out", workers=1)
    size = Path("in", name).stat().st_size
    beside(name)
    assert Path("in", name).stat().st_size == size
    for out in ("before", "out"):
        with pytest.raises(ResumeError, match=f"file beside the shards {name} fingerprint: was"):
            filter_shards("in", "keep", out, resume=True)
    beside(name)  # as it was, but at another time
    with pytest.raises(ResumeError, match=f"last change of {name}: was"):
        filter_shards("in", "keep", "out", resume=True)
    assert filter_shards("in", "keep", "before", resume=True).already_complete
    Path("in", name).unlink()
    with pytest.raises(ResumeError, match="file beside the shards"):
        filter_shards("in", "keep", "before", resume=True)


@pytest.mark.parametrize("folder", [False, True])
def test_captions_are_part_of_the_inputs(here: Path, fragile: dict[str, int], folder: bool) -> None:
    Path("new").mkdir()
    captions = Path("new/00001.parquet")
    pq.write_table(pa.table({"key": ["10"], "caption": ["one"]}), captions)
    given = {"captions": captions.parent if folder else captions}
    filter_shards("in", "keep", "before", **given)
    fragile["left"] = 3
    with pytest.raises(InputError):
        filter_shards("in", "keep", "out", workers=1, **given)
    pq.write_table(pa.table({"key": ["10"], "caption": ["two"]}), captions)
    for out in ("before", "out"):
        with pytest.raises(ResumeError, match=r"captions files 00001.parquet sha256: was"):
            filter_shards("in", "keep", out, resume=True, **given)
    pq.write_table(pa.table({"key": ["10"], "caption": ["one"]}), captions)
    with pytest.raises(ResumeError, match=r"last change of captions 00001\.parquet"):
        filter_shards("in", "keep", "out", resume=True, **given)
    assert filter_shards("in", "keep", "before", resume=True, **given).already_complete


def test_a_large_shard_that_is_newer_than_the_output_is_told_of(tmp_path: Path) -> None:
    shards, keep, out = tmp_path / "in", tmp_path / "keep", tmp_path / "out"
    shards.mkdir()
    entries = sample("a", sizes=(3 << 20, 9))
    (shards / "0.tar").write_bytes(tar_bytes(entries))
    write_keep(keep, {"0": ["a"]}, {("0", 0)})
    filter_shards(shards, keep, out)
    notes: list[str] = []
    go_on = {"resume": True, "on_progress": lambda progress: notes.append(progress.note)}
    assert filter_shards(shards, keep, out, **go_on).already_complete
    assert not any(notes)
    later = (out / "manifest.json").stat().st_mtime_ns + 1_000_000_000
    os.utime(shards / "0.tar", ns=(later, later))
    assert filter_shards(shards, keep, out, **go_on).already_complete
    (note,) = filter(None, notes)
    assert note.startswith(f"only a sample was compared of {shards / '0.tar'}")


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
    with edited_document(Path("whole/.progress/plan.json")) as plan:
        plan["earlier"] = ["00004.tar"]
    Path("whole/00004.tar").write_bytes(b"old")
    fragile["left"] = 9
    filter_shards("in", "keep", "whole", resume=True, merge=100)
    Path("out/notes.txt").unlink()
    assert tree(Path("whole")) == tree(Path("out"))


def test_the_inputs_are_spared(here: Path) -> None:
    with pytest.raises(UsageError, match="lies in the output; name another output folder"):
        filter_shards("whole", "keep", "whole", overwrite=True)
    assert len(tree(Path("whole"))) == 12


def test_stopping(here: Path) -> None:
    stop = threading.Event()
    seen = []

    def watch(progress: Any) -> None:
        seen.append(progress)
        if progress.stage == "filtering" and progress.part == 2:
            stop.set()

    with pytest.raises(Interrupted, match=r"of 5 shards left; --resume goes on"):
        filter_shards("in", "keep", "out", executor=Here(), on_progress=watch, stop=stop)
    assert (seen[-1].done, seen[-1].total, seen[-1].parts) == (6, 15, 5)
    leftovers = [name for name in tree(Path("out")) if name.endswith(TEMPORARY_SUFFIX)]
    assert not leftovers and not Path("out/manifest.json").exists()
    filter_shards("in", "keep", "out", resume=True)
    assert tree(Path("out")) == tree(Path("whole"))


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_bytes(here: Path, workers: int) -> None:
    filter_shards("in", "keep", "out", workers=workers)
    assert tree(Path("out")) == tree(Path("whole"))


@pytest.mark.parametrize("settings", [{}, {"merge": 2}, {"by": "key", "merge": 9}])
def test_any_executor_gives_the_same_bytes(here: Path, settings: dict[str, Any]) -> None:
    """Units in any order, each twice, each in a process of its own."""
    keys = dict(list(KEYS.items())[:2])
    for name in KEYS.keys() - keys.keys():
        Path(f"in/{name}.tar").unlink()
    pq.write_table(pa.table({"key": keys["00000"]}), "in/00000.parquet")
    captions = pa.table({"key": ["00", "12"], "caption": ["nought", "a dozen"]})
    pq.write_table(captions, "captions.parquet")
    by = settings.pop("by", "shard")
    store = keys if by == "shard" else in_one(keys)
    places = [(name, row) for name, of_shard in store.items() for row in range(len(of_shard))]
    write_keep(Path("some"), store, set(places[::3]))
    plan = plan_filter("in", "some", captions="captions.parquet", **settings)
    assert plan.selector.by == by
    run_filter(plan, "threads")
    run_filter(plan, "toy", executor=toy)
    assert tree(Path("toy")) == tree(Path("threads"))


def test_counting_goes_on_where_it_stopped(here: Path) -> None:
    write_keep(Path("all"), in_one(KEYS), {("all", row) for row in range(0, 30, 2)})
    filter_shards("in", "all", "merged", merge=4)
    stop = threading.Event()
    parts: list[int] = []

    def watch(progress: Any) -> None:
        if progress.stage == "counting":
            parts.append(progress.part)
            if progress.part == 2:
                stop.set()

    with pytest.raises(Interrupted, match="stopped with 3 of 5 shards left; --resume goes on"):
        filter_shards("in", "all", "out", merge=4, executor=Here(), on_progress=watch, stop=stop)
    filter_shards("in", "all", "out", merge=4, executor=Here(), on_progress=watch, resume=True)
    assert parts == [0, 1, 2, 2, 3, 4, 5]
    assert tree(Path("out")) == tree(Path("merged"))


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
