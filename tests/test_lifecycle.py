"""The life of an output folder, the same for every command that fills one.

Whatever happens to a run or is done to its folder: what is there is whole or not there, --resume
ends where an undisturbed run ends, and nothing is touched that is not the run's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from tests.lifecycle_cases import CASES, OUT, Case, make_inputs
from tests.lifecycle_server import Ended, Server

BAD_CALL, BAD_INPUT, STOPPED, STOPPED_BY_USER = 2, 3, 75, 130
WHOLE = "manifest.json"

# What is still wrong, by property and command.
FAULTS: dict[tuple[str, str], str] = {}

Tree = dict[str, str]


def every(*, flags: bool = False, **choices: list[Any]) -> Callable[[Any], Any]:
    """Run a test for every command; with `flags` for those that have --resume and --overwrite."""

    def mark(test: Any) -> Any:
        which = [case for case in CASES if case.flags or not flags]
        given = []
        for case in which:
            fault = FAULTS.get((test.__name__.removeprefix("test_"), case.name))
            marks = [pytest.mark.xfail(strict=True, reason=fault)] if fault else []
            given.append(pytest.param(case, id=case.name, marks=marks))
        for name, values in choices.items():
            test = pytest.mark.parametrize(name, values)(test)
        return pytest.mark.parametrize("case", given)(test)

    return mark


@dataclass
class House:
    """A folder with inputs, in which commands run; each test finds it as new."""

    server: Server
    inputs: Path
    saved: Path
    whole: dict[str, Tree] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.server.folder

    @property
    def out(self) -> Path:
        return self.folder / OUT

    def renew(self, state: Path | None = None) -> None:
        """Only the inputs are there, or also what a run left in another test."""
        shutil.rmtree(self.folder, ignore_errors=True)
        # Under the same name, since manifests hold the paths of inputs.
        shutil.copytree(self.inputs, self.folder, copy_function=os.link)
        if state is not None:
            shutil.copytree(state, self.folder, symlinks=True, dirs_exist_ok=True)

    def run(
        self, case: Case, *more: str, at: int | None = None, number: int = signal.SIGKILL
    ) -> Ended:
        return self.server.run(
            [*case.arguments, *more], at=at, number=number, **dict(case.environment)
        )

    def resume(self, case: Case, *more: str) -> Ended:
        return self.run(case, *case.resume, *more)

    def known(self, case: Case) -> tuple[Tree, int]:
        """What an undisturbed run makes, and in how many writes; the folder is as new."""
        if case.name not in self.whole:
            self.renew()
            ended = self.run(case)
            assert ended.code == case.code, ended.said
            self.whole[case.name], self.writes[case.name] = self.tree(case), ended.writes
            self._save(self._state(case, "finished"))
        self.renew()
        return self.whole[case.name], self.writes[case.name]

    def finished(self, case: Case) -> Tree:
        """The folder has the whole output in it; what that is."""
        whole, _ = self.known(case)
        self.renew(self._state(case, "finished"))
        return whole

    def begun(self, case: Case) -> None:
        """The folder has in it what a run left that was killed in its midst."""
        _, writes = self.known(case)
        state = self._state(case, "begun")
        if state.exists():
            self.renew(state)
        else:
            assert self.run(case, at=max(2, writes * 6 // 10)).code == -signal.SIGKILL
            self._save(state)

    def tree(self, case: Case) -> Tree:
        """All that lies in the folder, inputs too."""
        return {
            name: content
            for name, content in tree_of(self.folder).items()
            if not any(fnmatchcase(name, f"{OUT}/{pattern}") for pattern in case.loose)
        }

    def _state(self, case: Case, of: str) -> Path:
        return self.saved / f"{case.name}-{of}"

    def _save(self, state: Path) -> None:
        state.mkdir(parents=True)
        for path in self.folder.iterdir():
            if path.is_dir() and not (self.inputs / path.name).exists():
                shutil.copytree(path, state / path.name, symlinks=True)
            elif not (self.inputs / path.name).exists():
                shutil.copy2(path, state)


def tree_of(folder: Path) -> Tree:
    """Every file, folder and link, with what is in it."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def without_lock(tree: Tree) -> Tree:
    """A killed run may leave a lock, and the next one clears it away whatever else it does."""
    return {name: content for name, content in tree.items() if name != f".{OUT}.lock"}


def is_visible(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def check_nothing_half(house: House, case: Case, before: Tree) -> None:
    """What a run that was cut short left: whole files, and notes that nobody takes for output."""
    whole, left = house.whole[case.name], house.tree(case)
    visible = {name: content for name, content in left.items() if is_visible(name)}
    new = {name: of for name, of in visible.items() if before.get(name) != of}
    assert new.items() <= whole.items(), "a file that is not whole is visible"
    assert before.keys() <= left.keys()
    if f"{OUT}/{WHOLE}" in visible:
        assert {name for name in whole if is_visible(name)} <= visible.keys(), "manifest too early"


@pytest.fixture(scope="module")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("lifecycle")
    (folder / "scratch").mkdir()
    with Server(folder / "work", folder / "scratch") as server:
        make_inputs(server)
        (folder / "work").rename(folder / "inputs")
        yield House(server, folder / "inputs", folder / "saved")


@pytest.fixture
def house(_house: House) -> House:
    _house.renew()
    return _house


# --- an undisturbed run, and what is said to it afterwards -----------------------------------


@every()
def test_fresh_and_once_more(house: House, case: Case) -> None:
    inputs = house.tree(case)
    made, _ = house.known(case)
    assert inputs.items() < made.items()
    assert house.run(case).code == case.code
    assert house.tree(case) == made


@every()
def test_a_finished_output_is_kept(house: House, case: Case) -> None:
    made = house.finished(case)
    states = {path: path.stat() for path in house.out.rglob("*")}
    ended = house.resume(case)
    assert ended.code == case.code
    assert re.search("already complete|nothing to do", ended.said, re.IGNORECASE)
    assert house.tree(case) == made
    for path, state in states.items():
        if path.is_file():
            assert path.stat().st_mtime_ns == state.st_mtime_ns, path
            assert path.stat().st_ino == state.st_ino, path


@every(flags=True)
def test_a_finished_output_is_not_replaced_unasked(house: House, case: Case) -> None:
    made = house.finished(case)
    ended = house.run(case)
    assert ended.code == BAD_INPUT
    assert "--overwrite" in ended.said and OUT in ended.said
    assert house.tree(case) == made


@every(flags=True)
def test_both_flags(house: House, case: Case) -> None:
    inputs = house.tree(case)
    ended = house.resume(case, "--overwrite")
    assert ended.code == BAD_CALL, ended.said
    assert house.tree(case) == inputs
    made = house.finished(case)
    assert house.resume(case, "--overwrite").code == BAD_CALL
    assert house.tree(case) == made


@every(flags=True)
def test_overwriting(house: House, case: Case) -> None:
    made = house.finished(case)
    ended = house.run(case, "--overwrite")
    assert ended.code == case.code, ended.said
    assert house.tree(case) == made
    house.begun(case)
    ended = house.run(case, "--overwrite")
    assert ended.code == case.code, ended.said
    assert house.tree(case) == made


@every(flags=True)
def test_an_unfinished_output_needs_a_flag(house: House, case: Case) -> None:
    house.begun(case)
    left = house.tree(case)
    ended = house.run(case)
    assert ended.code == BAD_INPUT, ended.said
    assert "--resume" in ended.said
    assert without_lock(house.tree(case)) == without_lock(left)


# --- damage ---------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


@every()
def test_damage_is_mended_or_named(house: House, case: Case) -> None:
    made = house.finished(case)
    for name in case.damage:
        for damage in (flip, truncate, Path.unlink):
            path = house.out / name
            if path.is_symlink():
                path.unlink()
            else:
                damage(path)
            ended = house.resume(case)
            what = f"{name}, {damage.__name__}: {ended}"
            if ended.code == case.code:
                assert house.tree(case) == made, what
            else:
                assert ended.code == BAD_INPUT and path.name in ended.said, what
                house.finished(case)


# --- kills ----------------------------------------------------------------------------------


def chosen(writes: int, most: int | None) -> list[int]:
    """All writes, or so many of them."""
    if most is None or most >= writes:
        return list(range(1, writes + 1))
    return sorted({1 + i * (writes - 1) // (most - 1) for i in range(most)})


@every()
def test_killed_at_every_write(house: House, case: Case) -> None:
    whole, writes = house.known(case)
    inputs = house.tree(case)
    for n in chosen(writes, case.kills):
        assert house.run(case, at=n).code == -signal.SIGKILL
        check_nothing_half(house, case, inputs)
        ended = house.resume(case)
        assert ended.code == case.code, f"write {n}: {ended.said}"
        assert house.tree(case) == whole, f"write {n}"
        house.renew()


@every(flags=True)
def test_killed_while_overwriting(house: House, case: Case) -> None:
    whole = house.finished(case)
    writes = house.run(case, "--overwrite").writes
    for n in chosen(writes, min(case.kills or 12, 12)):
        assert house.run(case, "--overwrite", at=n).code == -signal.SIGKILL
        ended = house.resume(case)
        assert ended.code == case.code, f"write {n}: {ended.said}"
        assert house.tree(case) == whole, f"write {n}"


# --- signals --------------------------------------------------------------------------------


@every(number=[signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_stop(house: House, case: Case, number: signal.Signals) -> None:
    whole, writes = house.known(case)
    inputs = house.tree(case)
    stopped = STOPPED_BY_USER if number == signal.SIGINT else STOPPED
    for n in chosen(writes, 3):
        ended = house.run(case, at=n, number=number)
        assert ended.code in (stopped, case.code), f"write {n}: {ended}"
        if ended.code == stopped:
            check_nothing_half(house, case, inputs)
            assert "Traceback" not in ended.said
            assert "--resume" in ended.said or not case.flags
        ended = house.resume(case)
        assert ended.code == case.code, f"write {n}: {ended.said}"
        assert house.tree(case) == whole, f"write {n}"
        house.renew()


# --- others ---------------------------------------------------------------------------------


@every()
def test_a_second_writer(house: House, case: Case) -> None:
    whole, writes = house.known(case)
    flags = [[], [*case.resume], ["--overwrite"]] if case.flags else [[]]
    with house.server.at_work(case.arguments, writes // 2, **dict(case.environment)) as first:
        left = house.tree(case)
        for more in flags:
            ended = house.run(case, *more)
            assert ended.code == BAD_INPUT and "another run is at work" in ended.said, ended
        assert house.tree(case) == left
    assert first[0].code == case.code, first[0].said
    assert house.tree(case) == whole


@every(time_kept=[False, True])
def test_changed_inputs(house: House, case: Case, time_kept: bool) -> None:
    """The output was made, or begun, from others: refused, and told why. (`run` makes it anew.)"""
    for begin in (house.begun, house.finished):
        begin(case)
        case.change.apply(house.folder, time_kept)
        left = house.tree(case)
        ended = house.resume(case, *case.change.arguments)
        if case.flags:
            assert ended.code == BAD_INPUT, ended
            assert re.search(case.change.named, ended.said), ended.said
            assert without_lock(house.tree(case)) == without_lock(left)
        else:
            assert ended.code == case.code, ended
            made = house.tree(case)
            shutil.rmtree(house.out)
            assert house.run(case).code == case.code
            assert house.tree(case) == made


@every()
def test_strangers_in_the_folder(house: House, case: Case) -> None:
    flags = [[], [*case.resume], ["--overwrite"]] if case.flags else [[]]
    house.out.mkdir()
    stranger = house.out / "thesis.tex"
    stranger.write_text("mine")
    left = house.tree(case)
    for more in flags:
        ended = house.run(case, *more)
        assert ended.code == BAD_INPUT, ended
        assert house.tree(case) == left


@every(flags=True)
def test_strangers_among_what_is_ours(house: House, case: Case) -> None:
    """Left alone, whether the output is then replaced or not."""
    made = house.finished(case)
    for begin in (house.finished, house.begun):
        begin(case)
        folders = [house.out, *(path for path in house.out.iterdir() if path.is_dir())]
        strangers = [folder / "thesis.tex" for folder in folders if is_visible(folder.name)]
        for stranger in strangers:
            stranger.write_text("mine")
        ended = house.run(case, "--overwrite")
        assert ended.code in (case.code, BAD_INPUT), ended
        for stranger in strangers:
            assert stranger.is_file() and stranger.read_text() == "mine", stranger
            stranger.unlink()
        if ended.code == case.code:
            assert house.tree(case) == made


# --- links ----------------------------------------------------------------------------------


@pytest.fixture
def precious(house: House) -> Iterator[Path]:
    """A folder elsewhere, which no run may touch."""
    folder = house.folder.parent / "precious"
    (folder / "keep").mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    (folder / "keep" / "thesis.tex").write_text("mine")
    yield folder
    shutil.rmtree(folder)


def is_untouched(precious: Path) -> bool:
    names = sorted(path.relative_to(precious).as_posix() for path in precious.rglob("*"))
    return names == ["keep", "keep/thesis.tex", "thesis.tex"] and all(
        path.read_text() == "mine" for path in precious.rglob("*.tex")
    )


@every(name=[f".{OUT}.lock", f"{OUT}.toml", f".{OUT}.unfinished", f"{OUT}.work", OUT])
def test_links_beside_the_output(house: House, precious: Path, case: Case, name: str) -> None:
    """Whatever a run writes there, it doesn't write through a link."""
    for target in ("thesis.tex", "keep"):
        (house.folder / name).symlink_to(precious / target)
        ended = house.run(case)
        assert ended.code in (case.code, BAD_INPUT), ended
        assert is_untouched(precious), target
        house.renew()


@every()
def test_links_among_what_is_ours(house: House, precious: Path, case: Case) -> None:
    flags = [[*case.resume], ["--overwrite"]] if case.flags else [[]]
    for begin in (house.begun, house.finished):
        for more in flags:
            begin(case)
            entries = [path for path in house.out.rglob("*") if not path.is_dir()]
            folders = [path for path in house.out.iterdir() if path.is_dir()]
            for path in entries[::3]:
                path.unlink()
                path.symlink_to(precious / "thesis.tex")
            for path in folders[::2]:
                shutil.rmtree(path)
                path.symlink_to(precious / "keep")
            ended = house.run(case, *more)
            assert ended.code in (case.code, BAD_INPUT), ended
            assert is_untouched(precious), (begin.__name__, more)


# --- documents ------------------------------------------------------------------------------

NAMES = ("..", "../precious", "../precious/thesis.tex")
VALUES: tuple[Any, ...] = (None, -1, "x", [1], {"a": 1}, 1e300, True)


def mutants(document: Any, outside: str) -> Iterator[Any]:
    """The document with names of what lies elsewhere, and with values of other types."""
    places = list(places_of(document))
    for name in (*NAMES, outside):
        yield replaced(document, places, lambda value, name=name: with_name(value, name))
    for number, place in enumerate(places[1:]):
        value = VALUES[number % len(VALUES)]
        yield replaced(document, [place], lambda _, value=value: value)


def places_of(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values in a document."""
    yield place
    if isinstance(value, dict):
        for key in value:
            yield from places_of(value[key], (*place, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 2)):
            yield from places_of(value[i], (*place, i))


def with_name(value: Any, name: str) -> Any:
    """A name added to each list of strings and to each mapping of mappings."""
    if isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
        return {**value, name: next(iter(value.values()))}
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [*value, name]
    return value


def replaced(document: Any, places: list[tuple[Any, ...]], change: Callable[[Any], Any]) -> Any:
    document = json.loads(json.dumps(document))
    for place in reversed(places):
        if not place:
            document = change(document)
            continue
        inner = document
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = change(inner[place[-1]])
    return document


@every(flags=True)
def test_hostile_documents(house: House, precious: Path, case: Case) -> None:
    """Edited manifests and notes: exit 3, or made again; nothing outside is touched."""
    made = house.finished(case)
    neighbours = {name: of for name, of in made.items() if not name.startswith(OUT)}
    for begin in (house.finished, house.begun):
        begin(case)
        documents = [path for path in house.out.rglob("*.json") if "stats" not in path.name]
        named = [path.relative_to(house.out) for path in documents]
        for name in named:
            content = json.loads((house.out / name).read_bytes())
            every_one = list(mutants(content, str(precious / "thesis.tex")))
            names, values = every_one[: len(NAMES) + 1], every_one[len(NAMES) + 1 :]
            step = max(1, len(values) // (4 if case.kills is None else 2))
            for number, mutant in enumerate([*names, *values[::step]]):
                begin(case)
                path = house.out / name
                path.write_text(json.dumps(mutant))
                more = ["--overwrite"] if number % 2 == 0 else [*case.resume]
                ended = house.run(case, *more)
                what = f"{name} {more} {json.dumps(mutant)[:2000]}: {ended}"
                assert ended.code in (case.code, BAD_INPUT), what
                if ended.code == BAD_INPUT:
                    assert path.name in ended.said, what
                assert neighbours.items() <= house.tree(case).items(), what
                assert is_untouched(precious), what
