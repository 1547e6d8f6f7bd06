"""Runs dealt to shares, and parts put together: exactly one whole, or refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipgap.__main__ import main
from clipgap.errors import InputError, Interrupted, ResumeError, ShareDone, UsageError
from clipgap.files.documents import read_document
from clipgap.files.sums import FileSum
from clipgap.kernels.interface import NO_ID, TopK
from clipgap.kernels.oracle import merge_topk
from clipgap.runs import output, run
from clipgap.runs.executors import Here, Processes
from clipgap.runs.lock import PROGRESS
from clipgap.runs.shares import SHARE, Share, parts_folder
from clipgap.runs.status import Status, status_of
from clipgap.runs.units import Event, Ledger, Made
from tests.squares import Number, fill, tree
from tests.worlds import edited_document


def part(out: Path, index: int | list[int], of: int = 3, upto: int = 4, **how: Any) -> Path:
    """Do a share, or several; its folder."""
    with pytest.raises(ShareDone) as done:
        fill(out, upto, share=Share([index] if isinstance(index, int) else index, of), **how)
    return done.value.folder


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    return [part(tmp_path / "out", index) for index in range(3)]


def whole(tmp_path: Path) -> dict[str, bytes]:
    fill(tmp_path / "whole")
    return tree(tmp_path / "whole")


@pytest.mark.parametrize("sizes", [[1] * 7, [5, 1, 1, 1, 1, 1], [0, 0, 3], [1], []])
@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_every_unit_has_one_share_and_neighbours_stay_together(
    tmp_path: Path, sizes: list[int], of: int
) -> None:
    units = [Number(value, size) for value, size in enumerate(sizes)]
    dealt = []
    for index in range(of):
        (tmp_path / f"{index}").mkdir()
        dealt.append(Share([index], of).take(units, tmp_path / f"{index}"))
    assert [unit for units in dealt for unit in units] == units
    most = max(sum(max(1, unit.size) for unit in units) for units in dealt)
    assert most <= sum(max(1, size) for size in sizes) / of + max(sizes, default=1)


def test_parts_in_any_order_are_the_whole(parts: list[Path], tmp_path: Path) -> None:
    wanted = whole(tmp_path)
    for number, order in enumerate(permutations(parts)):
        fill(tmp_path / f"{number}", parts=order)
        assert tree(tmp_path / f"{number}") == wanted
    fill(tmp_path / "out", parts=[parts_folder(tmp_path / "out")])
    assert tree(tmp_path / "out") == wanted


def test_once_more_changes_nothing(parts: list[Path], tmp_path: Path) -> None:
    """Parts named twice, copies of parts, and merging into what is merged."""
    wanted = whole(tmp_path)
    copy = shutil.copytree(parts[1], tmp_path / "copy")
    fill(tmp_path / "out", parts=[*parts, copy, *parts])
    assert tree(tmp_path / "out") == wanted
    fill(tmp_path / "out", parts=parts, resume=True)
    fill(tmp_path / "out", parts=parts, overwrite=True)
    assert tree(tmp_path / "out") == wanted
    (tmp_path / "out/parts/1.txt").unlink()
    fill(tmp_path / "out", parts=parts, resume=True)
    assert tree(tmp_path / "out") == wanted


def test_parts_of_parts_are_parts(parts: list[Path], tmp_path: Path) -> None:
    """Merging is associative: whichever are merged first, the whole is the same."""
    wanted = whole(tmp_path)
    for first in ([0, 1], [1, 2], [0, 2]):
        left = [parts[index] for index in range(3) if index not in first]
        joined = part(tmp_path / "out", first, parts=[parts[index] for index in first])
        for number, together in enumerate([[joined, *left], [*left, joined], [*parts, joined]]):
            out = tmp_path / f"{first}-{number}"
            fill(out, parts=together)
            assert tree(out) == wanted
    fill(tmp_path / "out", parts=[parts_folder(tmp_path / "out")])
    assert tree(tmp_path / "out") == wanted
    refused(tmp_path / "small", [joined], "share 1 of 3 is missing")
    done = part(tmp_path / "other", [2, 0, 2])
    assert done.name == "0+2-of-3"
    assert tree(done / "parts") == tree(joined / "parts"), "as if they had been done together"


def test_a_share_of_very_many(tmp_path: Path) -> None:
    folder = Share(range(0, 1000, 2), 1000).folder(tmp_path / "out")
    assert len(folder.name) < 50 and folder.name.endswith("-of-1000")


def test_on_a_disk_without_links(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    fill(tmp_path / "out", parts=parts)
    assert tree(tmp_path / "out") == whole(tmp_path)


def test_a_share_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="1 of 2 shards left"):
        fill(tmp_path / "out", share=Share([1], 2), stop_after=1)
    with pytest.raises(InputError, match="unfinished"):
        fill(tmp_path / "out", share=Share([1], 2))
    both = [part(tmp_path / "out", index, 2, resume=True) for index in range(2)]
    assert part(tmp_path / "out", 1, 2, resume=True) == both[1], "and once more is no harm"
    fill(tmp_path / "out", parts=both)
    assert tree(tmp_path / "out") == whole(tmp_path)


def test_a_share_by_processes(tmp_path: Path) -> None:
    both = [part(tmp_path / "out", index, 2, executor=Processes(["cpu"] * 2)) for index in range(2)]
    fill(tmp_path / "out", parts=both)
    assert tree(tmp_path / "out") == whole(tmp_path)


def test_more_shares_than_units(tmp_path: Path) -> None:
    all_of_them = [part(tmp_path / "out", index, 6, upto=2) for index in range(6)]
    fill(tmp_path / "out", 2, parts=all_of_them)
    fill(tmp_path / "whole", 2)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


# --- what is not one whole


def refused(out: Path, parts: list[Path], *said: str, **how: Any) -> None:
    with pytest.raises(InputError) as error:
        fill(out, parts=parts, **how)
    for words in said:
        assert words in str(error.value)
    assert not out.exists(), "and nothing is begun"


def test_gaps_are_named(parts: list[Path], tmp_path: Path) -> None:
    refused(tmp_path / "out", [parts[1]], "share 0 of 3 is missing", "share 2 of 3 is missing")
    with pytest.raises(Interrupted):
        fill(tmp_path / "other", share=Share([0], 2), stop_after=1)
    begun = Share([0], 2).folder(tmp_path / "other")
    done = part(tmp_path / "other", 1, 2)
    lacks = f"{begun} (share 0 of 2) lacks 1 of its 2 units, the first is number-1"
    refused(tmp_path / "out", [begun, done], lacks, "run that share again with --resume")


def test_overlaps_are_named(parts: list[Path], tmp_path: Path) -> None:
    half = part(tmp_path / "out", 0, 2)
    refused(tmp_path / "out", [*parts, half], f"{half} (share 0 of 2) does not go together with")
    copy = shutil.copytree(parts[1], tmp_path / "copy")
    (copy / "parts/1.txt").write_text("2")
    edited = copy / PROGRESS / "units.jsonl"
    edited.unlink()
    files = {"parts/1.txt": vars(FileSum.of(copy / "parts/1.txt"))}
    Ledger(edited).add(Made({"number-1": {"files": files}}))
    refused(tmp_path / "out", [*parts, copy], "overlap, and differ in number-1")


def test_other_settings_are_named(parts: list[Path], tmp_path: Path) -> None:
    refused(tmp_path / "out", parts, str(parts[0]), "setting upto: was 4, is 5", upto=5)
    other = part(tmp_path / "other", 1, upto=5)
    refused(tmp_path / "out", [parts[0], other, parts[2]], str(other), "was 5, is 4")


def test_other_versions_are_named(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edited_document(parts[2] / PROGRESS / SHARE) as document:
        document["versions"]["pyarrow"] = "1.0"
    refused(tmp_path / "out", parts, str(parts[2]), "version of pyarrow: was 1.0")
    with pytest.raises(ResumeError, match=r"version of pyarrow: was 1\.0"):
        fill(tmp_path / "out", share=Share([2], 3), resume=True)
    with edited_document(parts[2] / PROGRESS / SHARE) as document:
        del document["versions"]["pyarrow"]  # where it is not installed it was not used
    fill(tmp_path / "out", parts=parts)


def test_damage_is_named(parts: list[Path], tmp_path: Path) -> None:
    (parts[1] / "parts/1.txt").write_text("7")
    refused(tmp_path / "out", parts, str(parts[1]), "parts/1.txt")
    document = parts[0] / PROGRESS / SHARE
    document.write_text(json.dumps({**json.loads(document.read_text()), "indices": [2]}))
    refused(tmp_path / "out", parts, str(document), "sha256")


@pytest.mark.parametrize("change", [{"of": 1 << 62}, {"indices": []}, {"indices": [7]}])
def test_shares_that_there_cannot_be(
    parts: list[Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    """Neither waited for one by one, nor merged."""
    with edited_document(parts[1] / PROGRESS / SHARE) as document:
        document |= change
    refused(tmp_path / "out", parts, str(parts[1] / PROGRESS / SHARE))
    with pytest.raises(InputError, match=r"share\.json makes no sense"):
        status_of(tmp_path / "out")


def test_links_do_not_lead_out(parts: list[Path], tmp_path: Path) -> None:
    """Neither out of the output, nor into a part from elsewhere without its content."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/parts").symlink_to(elsewhere)
    with pytest.raises(InputError):
        fill(tmp_path / "out", parts=parts)
    assert not tree(elsewhere)


@pytest.mark.parametrize("planted", ["parts/1.txt", "parts", PROGRESS])
def test_links_are_not_taken_out_of_a_part(parts: list[Path], tmp_path: Path, planted: str) -> None:
    """What they lead to has the right content now, and is somebody else's to change."""
    elsewhere = tmp_path / "elsewhere"
    (parts[1] / planted).rename(elsewhere)
    (parts[1] / planted).symlink_to(elsewhere)
    order = [parts[1], parts[0], parts[2]]  # notes are those of the first
    refused(tmp_path / "deep/er/out", order, f"{parts[1] / planted} is a link to {elsewhere}")
    assert not (tmp_path / "deep").exists()


def test_what_all_parts_have_is_read_once_and_equal_plans_too(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = part(tmp_path / "out", [0, 1], parts=parts[:2])
    read: list[Path] = []

    def noting(path: Path) -> FileSum:
        read.append(path)
        return whole_sum(path)

    plans: list[Path] = []

    def noting_plans(path: Path, form: Any) -> Any:
        plans.append(path)
        return read_document(path, form)

    whole_sum = FileSum.of
    monkeypatch.setattr(FileSum, "of", staticmethod(noting))
    monkeypatch.setattr(output, "read_document", noting_plans)
    fill(tmp_path / "out", parts=[*parts, joined])
    assert sorted(path.name for path in read) == [f"{value}.txt" for value in range(4)]
    read_of = [path.parts[-3] for path in plans if "out.parts" in path.parts]
    assert read_of == ["0-of-3", "0-1-of-3"], "one that was merged also names its files"


def test_what_is_no_part_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "out", [tmp_path], f"{tmp_path} is not a part of a run and holds none")
    with pytest.raises(UsageError, match="share 3 of 3: shares of 3 are counted from 0 to 2"):
        Share([3], 3)


def test_shares_dealt_otherwise_do_not_go_on(tmp_path: Path) -> None:
    units, notes = [Number(value) for value in range(4)], tmp_path / PROGRESS
    notes.mkdir()
    Share([0], 2).take(units, notes)
    with pytest.raises(ResumeError, match="its units are others"):
        Share([0], 2).take([Number(0, 2), *units[1:]], notes)
    with pytest.raises(ResumeError, match="one of 2 shares, not of 3"):
        Share([0], 3).take(units, notes)


def test_what_is_not_on_record_is_not_taken(parts: list[Path], tmp_path: Path) -> None:
    (parts[1] / "parts/9.txt").write_text("81")
    fill(tmp_path / "out", parts=parts)
    assert tree(tmp_path / "out") == whole(tmp_path)


def test_parts_made_in_python_are_merged_there(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", str(tmp_path / "out.parts"), "-o", str(tmp_path / "out")]) == 3
    assert "was not made on the command line" in capsys.readouterr().err


def test_only_what_can_be_dealt_is_run_by_a_merge(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part may come from anywhere, and says what is to be called."""
    for each in parts:
        with edited_document(each / PROGRESS / SHARE) as document:
            document["call"] = {"command": "clipgap doctor", "settings": ""}
    assert main(["merge", str(tmp_path / "out.parts"), "-o", str(tmp_path / "out")]) == 3
    assert "says that 'doctor' has made it" in capsys.readouterr().err


def test_half_of_a_share_s_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "t", "--test=a=t", "-o", "x", "--shard-index", "0"]) == 2
    assert "--shard-index and --num-shards go together" in capsys.readouterr().err


# --- how far they are


def states(out: Path) -> list[tuple[str, int]]:
    return [(run.state, run.units_done) for run in status_of(out).runs]


def test_how_far_shares_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no run has begun there"):
        status_of(out)
    done = part(out, 3, 4, upto=8)
    assert states(out) == states(done.parent) == [("waiting", 0)] * 3 + [("done", 2)]
    with pytest.raises(Interrupted):
        fill(out, 8, share=Share([0], 4), stop_after=1)
    with pytest.raises(InputError):
        fill(out, 8, share=Share([1], 4), executor=fail)
    assert states(out) == [("stopped", 1), ("failed", 0), ("waiting", 0), ("done", 2)]
    assert status_of(out).runs[1].said == "not finite:\n  - row 7\n  - row 9"
    assert main(["status", str(out)]) == 0
    assert "s ago, not finite: row 7\n" in capsys.readouterr().out
    seen: list[Status] = []
    monkeypatch.setattr(run, "_SECONDS", 0.0)
    # What is done is on disk at once, not written beside the next unit.
    monkeypatch.setattr(Ledger, "writing", lambda ledger: nullcontext())
    part(out, 2, 4, upto=8, executor=lambda *all_of_it: look(seen, out, Here()(*all_of_it)))
    assert [status.runs[2].state for status in seen] == ["running"] * 4
    assert [status.runs[2].units_done for status in seen] == [0, 0, 1, 1]
    assert (seen[0].seconds_left, seen[1].per_second > 0) == (None, True)
    assert seen[3].seconds_left is not None and seen[3].runs[2].counted == "rows"
    for index in (0, 1):
        part(out, index, 4, upto=8, resume=True)
    assert states(out) == [("done", 2)] * 4
    fill(out, 8, parts=[done.parent])
    assert status_of(out).finished


def look(seen: list[Status], out: Path, events: Iterator[Event]) -> Iterator[Event]:
    """The events, and how far the runs were before each."""
    for event in events:
        seen.append(status_of(out))
        yield event


def fail(work: Any, units: Any, stop: Any, news: Any) -> Iterator[Event]:
    raise InputError.listing("not finite:", ["row 7", "row 9"])


def test_a_killed_run_falls_silent_whatever_the_clocks_say(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = parts[1] / PROGRESS / run.BOARD
    board.write_text(board.read_text().replace('"state": "done"', '"state": "running"'))
    (parts[1] / PROGRESS / "units.jsonl").unlink()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert status_of(tmp_path / "out").runs[1].state == "running"
    os.utime(board, (0, 0))
    assert status_of(tmp_path / "out").runs[1].state == "silent"


@pytest.mark.parametrize(
    "said",
    [
        *("[]", "{", '{"seconds": "x"}', '{"units": null}', "[" * 100_000),
        *({"size_new": 10**400}, {"size_new": 1e300, "seconds": 1e-300}, {"seconds": -1.0}),
    ],
    ids=lambda said: str(said)[:40],
)
def test_a_board_that_says_nothing(
    parts: list[Path], tmp_path: Path, said: str | dict[str, Any]
) -> None:
    """It is there for people alone, so nothing ends for it."""
    board = parts[1] / PROGRESS / run.BOARD
    if not isinstance(said, str):
        said = json.dumps(json.loads(board.read_text()) | said)
    board.write_text(said)
    assert [each.state for each in status_of(tmp_path / "out").runs][1] == "done"
    assert main(["status", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("stop_after", "alone", "submitted"),
    [(1, "again with --resume.", "--retry"), (2, "clipgap merge ", "see squeue.")],
)
def test_what_there_is_to_do_where_slurm_does_it(
    stop_after: int,
    alone: str,
    submitted: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    with pytest.raises((Interrupted, ShareDone)):
        fill(out, 2, share=Share([0], 1), stop_after=stop_after)
    for said in (alone, submitted):
        assert main(["status", str(out)]) == 0
        assert said in capsys.readouterr().out.splitlines()[-1]
        (tmp_path / "out.slurm").mkdir(exist_ok=True)
        (tmp_path / "out.slurm" / "jobs.jsonl").touch()


def test_a_run_that_is_not_dealt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Interrupted):
        fill(tmp_path / "out", stop_after=1)
    assert states(tmp_path / "out") == [("stopped", 1)]
    assert main(["status", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert re.search(r"run stopped on .+, 1 of 4 shards, .+ s ago\n", said), said
    fill(tmp_path / "out", resume=True)
    assert main(["status", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"] is True


def test_a_board_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, document: Any) -> None:
        raise InputError(f"cannot write {path}: no space left")

    monkeypatch.setattr(run, "write_json", full)
    fill(tmp_path / "out")
    assert tree(tmp_path / "out") == whole(tmp_path)


# --- lists of neighbours


def test_lists_of_two_shares_are_merged_as_if_sorted_anew() -> None:
    """With ties, entries of both, and lists that are not full."""
    random = np.random.default_rng(0)

    def lists(points: int, k: int) -> TopK:
        ids = np.argsort(random.random((points, 12)), axis=1)[:, : random.integers(13)]
        sim = (ids % 3) / 2.0  # an id has the same score wherever it is
        room = np.full((points, k), NO_ID), np.full((points, k), -np.inf)
        together = (np.concatenate(some, axis=1) for some in ((sim, room[1]), (ids, room[0])))
        return TopK(*merge_topk(*together, k))

    for _ in range(200):
        points, k = int(random.integers(1, 5)), int(random.integers(1, 7))
        one, other = lists(points, k), lists(points, k)
        together = (np.concatenate(some, 1) for some in ((one.sim, other.sim), (one.id, other.id)))
        sim, ids = merge_topk(*together, k)
        merged = one.merge(other)
        assert np.array_equal(merged.sim, sim) and np.array_equal(merged.id, ids)
