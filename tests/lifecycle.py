"""A folder in which the tests of `lifecycle_cases` take place, in states that runs leave behind."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from tests.faults import Fault
from tests.lifecycle_cases import CASES, OUT, Case, make_inputs
from tests.lifecycle_server import Ended, Server

FAILED, BAD_CALL, BAD_INPUT, NO_ROOM, STOPPED, STOPPED_BY_USER = 1, 2, 3, 5, 75, 130
WHOLE = "manifest.json"

Tree = dict[str, str]


def every(
    *, flags: bool = False, names: Collection[str] = (), **choices: list[Any]
) -> Callable[[Any], Any]:
    """Run a test for every command; with `flags` for those that have --resume and --overwrite; with
    `names` for these."""

    def mark(test: Any) -> Any:
        which = [case for case in CASES if case.flags or not flags]
        which = [case for case in which if not names or case.name in names]
        given = [pytest.param(case, id=case.name) for case in which]
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
    writes: dict[str, list[str]] = field(default_factory=dict)

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
        self,
        case: Case,
        *more: str,
        at: int | None = None,
        number: int = signal.SIGKILL,
        limit: int | None = None,
        fault: Fault | None = None,
    ) -> Ended:
        return self.server.run(
            [*case.arguments, *more],
            at=at,
            number=number,
            limit=limit,
            fault=fault,
            **dict(case.environment),
        )

    def resume(self, case: Case, *more: str) -> Ended:
        return self.run(case, *case.resume, *more)

    def known(self, case: Case) -> tuple[Tree, list[str]]:
        """What an undisturbed run makes, and in which writes; the folder is as new."""
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
            assert self.run(case, at=max(2, len(writes) * 6 // 10)).code == -signal.SIGKILL
            self._save(state)

    def begun_with(self, case: Case, file: Path) -> None:
        """The folder has in it what a run left that was killed late, with that file there."""
        _, writes = self.known(case)
        state = self._state(case, "begun with a file")
        if state.exists():
            self.renew(state)
            return
        for at in range(len(writes), 0, -1):
            self.renew()
            assert self.run(case, at=at).code == -signal.SIGKILL
            if file.is_file() and not (self.out / WHOLE).exists():
                self._save(state)
                return
        raise AssertionError(f"{case.name} never has {file}")

    def save(self, case: Case, of: str) -> None:
        """Keep what is there now, for `renew_with`."""
        self._save(self._state(case, of))

    def renew_with(self, case: Case, of: str) -> None:
        self.renew(self._state(case, of))

    def tree(self, case: Case) -> Tree:
        """All that lies in the folder, inputs too, but for what shares have made."""
        return {
            name: content
            for name, content in tree_of(self.folder).items()
            if name.partition("/")[0] != f"{OUT}.parts"
            and not any(fnmatchcase(name, f"{OUT}/{pattern}") for pattern in case.loose)
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
            found[name] = f"{hash(path.read_bytes()):x}"
    return found


def without_lock(tree: Tree) -> Tree:
    """A killed run may leave a lock, and the next one clears it away whatever else it does."""
    return {name: of for name, of in tree.items() if not fnmatchcase(name, f".{OUT}*.lock")}


def is_visible(name: str) -> bool:
    """Whether anybody would take it for output: notes have a dot, or lie in NAME.work."""
    parts = name.split("/")
    return parts[0] != f"{OUT}.work" and not any(part.startswith(".") for part in parts)


def check_nothing_half(house: House, case: Case, before: Tree) -> None:
    """What a run that was cut short left: whole files, and notes that nobody takes for output."""
    whole, left = house.whole[case.name], house.tree(case)
    visible = {name: content for name, content in left.items() if is_visible(name)}
    new = {name: of for name, of in visible.items() if before.get(name) != of}
    assert new.items() <= whole.items(), "a file that is not whole is visible"
    assert before.keys() <= left.keys()
    check_finished_is_whole(house, case)


def check_finished_is_whole(house: House, case: Case) -> None:
    """A manifest stands only where all else stands."""
    whole, left = house.whole[case.name], house.tree(case)
    if f"{OUT}/{WHOLE}" in left:
        assert {name for name in whole if is_visible(name)} <= left.keys(), "manifest too early"


def open_house(folder: Path) -> Iterator[House]:
    with Server(folder / "work") as server:
        make_inputs(server)
        (folder / "work").rename(folder / "inputs")
        yield House(server, folder / "inputs", folder / "saved")
