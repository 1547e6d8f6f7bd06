"""The life of an output folder, and units in any executor's hands."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from clipgap.errors import InputError, Interrupted, ResumeError, UsageError
from clipgap.files.documents import MANIFEST, read_manifest
from clipgap.runs.executors import Here, Processes, Threads
from clipgap.runs.how import How, Progress
from clipgap.runs.lock import PROGRESS
from clipgap.runs.output import Complete, Damaged, GoesOn, New, open_output, spare
from clipgap.runs.run import run_units
from clipgap.runs.units import Ledger, Made
from tests.ray_work import Hears, Unit
from tests.squares import KIND, SEEN, Number, Squares, fill, tree
from tests.turns import Turns


def interrupted(out: Path, stop_after: int = 2) -> None:
    with pytest.raises(Interrupted, match="2 of 4 shards left; --resume goes on"):
        fill(out, stop_after=stop_after)


def test_a_new_folder(tmp_path: Path) -> None:
    answer, made = fill(tmp_path / "deep" / "out")
    assert answer == New()
    assert len(made) == 4
    assert sorted(tree(tmp_path)) == [
        "deep/out/manifest.json",
        *(f"deep/out/parts/{value}.txt" for value in range(4)),
    ]


def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    fill(tmp_path / "whole")
    interrupted(tmp_path / "out")
    answer, made = fill(tmp_path / "out", resume=True)
    assert answer == GoesOn()
    assert made == ["number-2", "number-3"]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_unit_whose_file_was_damaged_is_done_again(tmp_path: Path) -> None:
    fill(tmp_path / "whole")
    interrupted(tmp_path / "out")
    (tmp_path / "out/parts/1.txt").write_text("7")
    _, made = fill(tmp_path / "out", resume=True)
    assert made == ["number-1", "number-2", "number-3"]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_what_is_finished_needs_a_flag(tmp_path: Path) -> None:
    fill(tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(InputError, match="already holds a finished folder of numbers"):
        fill(tmp_path / "out")
    answer, made = fill(tmp_path / "out", resume=True)
    assert isinstance(answer, Complete)
    assert not made
    assert tree(tmp_path / "out") == before
    answer, made = fill(tmp_path / "out", overwrite=True)
    assert answer == New()
    assert len(made) == 4
    assert tree(tmp_path / "out") == before


def test_what_is_unfinished_needs_a_flag(tmp_path: Path) -> None:
    interrupted(tmp_path / "out")
    with pytest.raises(InputError, match="holds an unfinished folder of numbers"):
        fill(tmp_path / "out")
    assert fill(tmp_path / "out", overwrite=True)[0] == New()


def test_a_run_that_made_nothing_leaves_nothing_to_ask_about(tmp_path: Path) -> None:
    with open_output(tmp_path / "out", KIND, How()) as output:
        output.begin({"upto": 4})
    assert fill(tmp_path / "out", 3)[0] == New()


def test_resume_and_overwrite_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        How(resume=True, overwrite=True)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    interrupted(tmp_path / "out")
    with pytest.raises(ResumeError, match="setting upto: was 4, is 5"):
        fill(tmp_path / "out", 5, resume=True)
    fill(tmp_path / "out", 4, resume=True)
    with pytest.raises(ResumeError, match="setting upto: was 4, is 5"):
        fill(tmp_path / "out", 5, resume=True)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "out")
    (tmp_path / "out/parts/1.txt").unlink()
    answer, _ = fill(tmp_path / "out", resume=True)
    assert isinstance(answer, Damaged)
    assert answer.files == ["parts/1.txt"]


def test_a_damaged_output_is_reopened(tmp_path: Path) -> None:
    fill(tmp_path / "out")
    before = tree(tmp_path / "out")
    (tmp_path / "out/parts/1.txt").unlink()
    with open_output(tmp_path / "out", KIND, How(resume=True)) as output:
        answer = output.begin({"upto": 4})
        assert isinstance(answer, Damaged)
        files = {name: vars(entry) for name, entry in answer.sums.items()}
        del files["parts/1.txt"]
        output.reopen({f"number-{Path(n).stem}": {"files": {n: f}} for n, f in files.items()})
    answer, made = fill(tmp_path / "out", resume=True)
    assert answer == GoesOn()
    assert made == ["number-1"]
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_notes_without_a_plan_are_nothing(tmp_path: Path, how: dict[str, bool]) -> None:
    (tmp_path / "out" / PROGRESS).mkdir(parents=True)
    (tmp_path / "out" / PROGRESS / "units.jsonl").touch()
    assert fill(tmp_path / "out", **how)[0] == New()


def test_fewer_files_than_before_leave_none_behind(tmp_path: Path) -> None:
    fill(tmp_path / "out", 5)
    fill(tmp_path / "small", 2)
    fill(tmp_path / "out", 2, overwrite=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "small")


def test_strangers_files_stay(tmp_path: Path) -> None:
    fill(tmp_path / "out")
    for name in ("notes.md", "parts/notes.md"):
        (tmp_path / "out" / name).write_text("mine")
    fill(tmp_path / "out", 2, overwrite=True)
    assert (tmp_path / "out/notes.md").read_text() == "mine"
    assert (tmp_path / "out/parts/notes.md").read_text() == "mine"


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match=r"is not empty and not .* \(it holds 'notes.md'\)"):
            fill(tmp_path, **how)
    assert tree(tmp_path) == {"notes.md": b"mine"}


@pytest.mark.parametrize("how", ["resume", "overwrite"])
@pytest.mark.parametrize(
    "name", ["..", "../kept", "/etc/passwd", "a/../../kept", "", "./a", "a//b"]
)
def test_names_that_lead_out_of_the_folder(tmp_path: Path, name: str, how: str) -> None:
    (tmp_path / "kept").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    manifest = {"format": "clipgap-numbers", "version": 1, "upto": 4, "files": {name: {"size": 1}}}
    (out / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=MANIFEST):
        fill(out, **{how: True})
    (out / MANIFEST).unlink()
    (out / PROGRESS).mkdir()
    (out / PROGRESS / "units.jsonl").touch()
    plan = {
        "format": "clipgap-numbers",
        "version": 1,
        "wanted": {},
        "outputs": [],
        "earlier": [name],
    }
    (out / PROGRESS / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match=r"plan.json"):
        fill(out, **{how: True})
    assert (tmp_path / "kept").read_text() == "mine"


def test_links_are_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "0.txt").write_text("mine")
    fill(tmp_path / "out")
    for value in range(4):
        (tmp_path / "out/parts" / f"{value}.txt").unlink()
    (tmp_path / "out/parts").rmdir()
    (tmp_path / "out/parts").symlink_to(elsewhere)
    for how in ("resume", "overwrite"):
        with pytest.raises(InputError, match="is a link to"):
            fill(tmp_path / "out", **{how: True})
    assert tree(elsewhere) == {"0.txt": b"mine"}


def test_an_edited_manifest_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "upto": 3}))
    with pytest.raises(InputError, match=r"sha256 is not that of its other entries"):
        read_manifest(tmp_path / "out", KIND.form, "")
    for wrong in ({"upto": "4"}, {"upto": None}, {"files": []}, {"version": 2}):
        path.write_text(json.dumps({**document, **wrong}))
        with pytest.raises(InputError, match=MANIFEST):
            read_manifest(tmp_path / "out", KIND.form, "")


@pytest.mark.parametrize("locks_folders", [True, False])
def test_one_writer_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks_folders: bool
) -> None:
    if not locks_folders:
        flock = fcntl.flock

        def refuse_folders(descriptor: int, flags: int) -> None:
            if Path(f"/proc/self/fd/{descriptor}").is_dir():
                raise OSError("no locks on folders")
            flock(descriptor, flags)

        monkeypatch.setattr(fcntl, "flock", refuse_folders)
    out = tmp_path / "out"
    with open_output(out, KIND, How()) as output:
        output.begin({"upto": 4})
        with pytest.raises(InputError, match="another run is at work"):
            fill(out, resume=True)
    fill(out)
    assert sorted(tree(tmp_path)) == [
        "out/manifest.json",
        *(f"out/parts/{value}.txt" for value in range(4)),
    ]
    assert not (out / PROGRESS).exists()


def test_nothing_stays_of_a_folder_that_was_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError), open_output(tmp_path / "out", KIND, How()):
        raise UsageError("no")
    assert not (tmp_path / "out").exists()


def test_an_output_that_holds_an_input(tmp_path: Path) -> None:
    for inside in (tmp_path / "out", tmp_path / "out" / "inner"):
        with pytest.raises(UsageError, match="name another output folder"):
            spare(tmp_path / "out", [None, tmp_path, inside], How())
    spare(tmp_path / "out", [None, tmp_path], How())


# --- units


@pytest.mark.parametrize(
    "executor", [Here(), Threads(1), Threads(3), Processes(["cpu"]), Processes(["cpu"] * 2)]
)
def test_executors_make_the_same(tmp_path: Path, executor: Any) -> None:
    fill(tmp_path / "whole")
    fill(tmp_path / "out", executor=executor)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("executor", [Here(), Threads(2), Processes(["cpu"] * 2)])
def test_an_error_of_a_worker_is_the_run_s(tmp_path: Path, executor: Any) -> None:
    ledger = Ledger(None)
    ledger.gather(frozenset.union)
    with pytest.raises(InputError, match="cannot write"):
        list(run_units(Squares(tmp_path / "nowhere"), [Number(1)], ledger, executor, How()))


def test_states_of_workers_are_merged(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    units = [Number(value) for value in range(6)]
    ledger = Ledger(None)
    ledger.gather(frozenset.union)
    for _ in run_units(Squares(tmp_path), units, ledger, Threads(3), How()):
        pass
    assert ledger.state == frozenset(range(6))


@pytest.mark.parametrize("executor", [Here(), Threads(2), Processes(["cpu"] * 2), Turns(2)])
def test_workers_are_told_what_all_have_gathered(tmp_path: Path, executor: Any) -> None:
    """In return for what they have, and when they begin; also what earlier runs had."""
    path = tmp_path / "units.jsonl"
    for name in ("a", "b"):
        ledger = Ledger(path)
        ledger.gather(frozenset.union, SEEN, tell=sorted)
        ledger.load()
        units = [Unit(f"{name}{n}") for n in range(2)]
        list(run_units(Hears(tmp_path), units, ledger, executor, How()))
    assert all({"a0", "a1"} <= set(ledger.records[f"b{n}"]["began"]) for n in range(2))


def test_states_of_many_workers_take_no_more_memory_than_those_of_two(tmp_path: Path) -> None:
    held: set[int] = set()

    class State:
        def __init__(self, known: frozenset[int]) -> None:
            self.known = known
            held.add(id(self))

        def __del__(self) -> None:
            held.discard(id(self))

    def merge(ours: State, theirs: State) -> State:
        return State(ours.known | theirs.known)

    ledger, most = Ledger(None), 0
    ledger.gather(merge)
    for worker in range(50):
        for value in (worker, 100 + worker):  # the last state of a worker knows all before
            ledger.add(Made({f"{value}": {}}, State(frozenset(range(worker, value + 1))), worker))
            most = max(most, len(held))
    assert ledger.state.known == frozenset(range(150))
    assert most <= 3


def test_a_torn_line_of_the_ledger_is_none(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"
    ledger = Ledger(path)
    for value in range(3):
        ledger.add(Made({f"unit-{value}": {"value": value}}))
    whole = path.read_bytes()
    for cut in range(len(whole.splitlines(True)[0]) + 1, len(whole)):
        path.write_bytes(whole[:cut])
        again = Ledger(path)
        again.load()
        assert len(again.records) == whole[:cut].count(b"\n")
        again.add(Made({"unit-9": {"value": 9}}))
        last = Ledger(path)
        last.load()
        assert last.records == {**again.records, "unit-9": {"value": 9}}


def test_a_flipped_bit_in_the_ledger_is_found(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"
    Ledger(path).add(Made({"unit-1": {"value": 1}, "unit-2": {"value": 2}}))
    whole = path.read_bytes()
    for place in range(0, len(whole) - 1, 7):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        ledger = Ledger(path)
        with pytest.raises(InputError, match=r"units\.jsonl: line \d is damaged"):
            ledger.load()


def test_forgotten_units_stay_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"
    ledger = Ledger(path)
    ledger.add(Made({"a": {}, "b": {}}))
    ledger.forget(["a", "never there"])
    again = Ledger(path)
    again.load()
    assert again.records == {"b": {}}


def test_progress_counts_this_run_alone() -> None:
    moment = Progress(stage="scanning", done=30, earlier=10, total=50, seconds=4)
    assert moment.new == 20
    assert moment.rate == 5
    assert moment.seconds_left == 4
