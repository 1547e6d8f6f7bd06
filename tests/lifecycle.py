"""A folder in which the tests of `lifecycle_cases` take place, in states that runs leave behind."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import pytest

from clipgap.study.process import NEEDS_TORCH
from tests.faults import Fault
from tests.lifecycle_cases import CASES, OUT, Case, make_inputs
from tests.lifecycle_server import Ended, Server

FAILED, BAD_CALL, BAD_INPUT, NO_ROOM, STOPPED, STOPPED_BY_USER = 1, 2, 3, 5, 75, 130
WHOLE = "manifest.json"
MEMORY, ROOM = Path("/dev/shm"), 1 << 30

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
    torch_server: Server
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
        """Only the inputs are there, or what a run left in another test."""
        shutil.rmtree(self.folder, ignore_errors=True)
        # Under the same name, since manifests hold the paths of inputs.
        self._copy(state or self.inputs, self.folder)

    @cached_property
    def _contents(self) -> dict[tuple[int, int], str]:
        """Of the inputs, by number and time: so they are known under all their names, unwritten."""
        files = [path for path in self.inputs.rglob("*") if path.is_file()]
        return {_identity(path.lstat()): _content(path) for path in files}

    def server_of(self, case: Case) -> Server:
        return self.torch_server if case.arguments[0] in NEEDS_TORCH else self.server

    def run(
        self,
        case: Case,
        *more: str,
        at: int | None = None,
        number: int = signal.SIGKILL,
        limit: int | None = None,
        fault: Fault | None = None,
    ) -> Ended:
        return self.server_of(case).run(
            [*case.arguments, *more],
            at=at,
            number=number,
            limit=limit,
            fault=fault,
            processes=case.processes,
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

    def killed_at(
        self,
        case: Case,
        writes: Sequence[str],
        numbers: Sequence[int],
        arguments: Sequence[str] = (),
    ) -> Iterator[int]:
        """The folder as kills at some of the writes of a command leave it, one after another.

        One of them is true. The others are of one run, which is held meanwhile: on the disk that is
        the same, since what a process has not yet handed over dies with it. But children outlive a
        kill, and are waited for. The run that is held must write as the undisturbed one did.
        """
        server, environment = self.server_of(case), dict(case.environment)
        arguments = arguments or case.arguments
        truly = set(numbers) if case.has_children else {numbers[len(numbers) // 2]}
        before = self._state(case, "before kills")
        states = {}
        self._save(before)
        for n in truly:
            assert server.run(arguments, at=n, **environment).code == -signal.SIGKILL
            states[n] = self._state(case, f"killed at {n}")
            self._save(states[n])
            self.renew(before)

        def keep(n: int) -> None:
            states[n] = self._state(case, f"killed at {n}")
            self._save(states[n])

        if at_each := sorted({*numbers} - truly):
            ended = until_it_ends(server.held(arguments, at_each, **environment), keep)
            assert ended.code == case.code, ended.said
            # In another order perhaps, where threads write side by side.
            assert sorted(ended.writes) == sorted(writes), "a run that is held writes otherwise"
        assert states.keys() == {*numbers}
        for n, state in sorted(states.items()):
            self.renew(state)
            yield n
            shutil.rmtree(state)
        shutil.rmtree(before)

    def begun_with(self, case: Case, file: Path) -> None:
        """The folder has in it what a run left that was killed late, with that file there."""
        _, writes = self.known(case)
        state = self._state(case, "begun with a file")
        if state.exists():
            self.renew(state)
            return
        every_write = range(1, len(writes) + 1)
        environment = dict(case.environment)
        for _ in self.server_of(case).held(case.arguments, every_write, **environment):
            if file.is_file() and not (self.out / WHOLE).exists():
                shutil.rmtree(state, ignore_errors=True)
                self._save(state)
        self.renew(state)

    def save(self, case: Case, of: str) -> None:
        """Keep what is there now, for `renew_with`."""
        self._save(self._state(case, of))

    def renew_with(self, case: Case, of: str) -> None:
        self.renew(self._state(case, of))

    def tree(self, case: Case) -> Tree:
        """All that lies in the folder, inputs too, but for what shares have made."""
        return {
            name: content
            for name, content in tree_of(self.folder, self._contents).items()
            if name.partition("/")[0] != f"{OUT}.parts"
            and not any(fnmatchcase(name, f"{OUT}/{pattern}") for pattern in case.loose)
        }

    def _state(self, case: Case, of: str) -> Path:
        return self.saved / f"{case.name}-{of}"

    def _save(self, state: Path) -> None:
        self._copy(self.folder, state)

    def _copy(self, folder: Path, to: Path) -> None:
        """All of it; inputs, which nobody writes, get another name only."""

        def copy(source: str, target: str) -> None:
            if _identity(os.lstat(source)) in self._contents:
                os.link(source, target)
            else:
                shutil.copy2(source, target, follow_symlinks=False)

        shutil.copytree(folder, to, symlinks=True, copy_function=copy)


def until_it_ends(command: Generator[int, None, Ended], at_each: Callable[[int], None]) -> Ended:
    """Do something whenever a command is held."""
    while True:
        try:
            number = next(command)
        except StopIteration as end:
            ended: Ended = end.value
            return ended
        at_each(number)


def tree_of(folder: Path, known: Mapping[tuple[int, int], str] = MappingProxyType({})) -> Tree:
    """Every file, folder and link, with what is in it; that of some files is known."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            content = f"link to {path.readlink()}"
        elif stat.S_ISDIR(status.st_mode):
            content = "folder"
        else:
            content = known.get(_identity(status)) or _content(path)
        found[path.relative_to(folder).as_posix()] = content
    return found


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_mtime_ns


def _content(path: Path) -> str:
    return f"{hash(path.read_bytes()):x}"


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
    with (
        quick(folder) as here,
        Server(here / "work") as server,
        Server(here / "work", torch=True) as torch_server,
    ):
        make_inputs(torch_server)
        (here / "work").rename(here / "inputs")
        yield House(server, torch_server, here / "inputs", here / "saved")


@contextmanager
def quick(folder: Path) -> Iterator[Path]:
    """A folder in memory, if there is room: tens of thousands of files are made and removed."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < ROOM:
        yield folder
        return
    with TemporaryDirectory(dir=MEMORY) as made:
        yield Path(made)
