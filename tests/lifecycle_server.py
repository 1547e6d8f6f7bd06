"""Command lines in forks of one process that has everything imported, so that each costs little.

A command can be killed, stopped, held or sent a signal just before its nth write. What counts as a
write is seen at the level of the operating system: files opened for writing, renamed or removed,
folders made or removed, links made, below the folder that the command runs in. So it is the same
for every command, and nothing here knows how clipgap is made. Flushing changes nothing that a kill
leaves.

This is the side of the tests; the other is `lifecycle_forks`. Requests go as lines of JSON, answers
come as lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from tests import faults
from tests.faults import Fault


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or minus the signal that ended it."""

    code: int
    said: str  # stdout and stderr
    writes: list[str]  # the kind of each: what was done in which folder
    calls: dict[str, int] = field(default_factory=dict)  # how many a fault could have hit, by kind


class Server:
    """Runs commands in `folder`, one after another.

    With `torch` those that need it find it there; a fork without it costs a tenth.
    """

    def __init__(self, folder: Path, torch: bool = False) -> None:
        self.folder = folder
        self._library = TemporaryDirectory()
        environment = {"OMP_NUM_THREADS": "1", "CLIPGAP_THREADS": "1", "COLUMNS": "1000"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.lifecycle_forks", *(["torch"] if torch else [])],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, **environment, **faults.compiled(Path(self._library.name))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.process.communicate()
        self._library.cleanup()

    def run(
        self,
        arguments: Sequence[str],
        at: int | None = None,
        number: int = signal.SIGKILL,
        limit: int | None = None,
        fault: Fault | None = None,
        processes: int = 0,
        **env: str,
    ) -> Ended:
        """Run a command; at its nth write it gets a signal. No file may grow beyond a limit."""
        at_each = [] if at is None else [at]
        self._ask_to_run(arguments, at_each, number, limit, fault or Fault(), env, processes)
        return self._answer()

    def prepare(self, arguments: Sequence[str]) -> None:
        """Run a command in no fork, so that forks find what is made once in a process."""
        self._ask(prepare=list(arguments))
        assert self._read()["code"] == 0, arguments

    def held(
        self, arguments: Sequence[str], at_each: Sequence[int], **env: str
    ) -> Generator[int, None, Ended]:
        """A command that is held at each of these writes until the next is asked for.

        It ends at those that it does not come to: what is written by the clock may be less.
        """
        self._ask_to_run(arguments, at_each, signal.SIGSTOP, None, Fault(), env)
        for number in sorted(at_each):
            answer = self._read()
            if "held" not in answer:
                return Ended(**answer)
            yield number
            self._ask(go_on=answer["held"])
        return self._answer()

    @contextlib.contextmanager
    def at_work(self, arguments: Sequence[str], at: int, **env: str) -> Iterator[list[Ended]]:
        """A command that is held at its nth write as long as this lasts; then it goes on.

        The list is empty before its end, and holds how it ended afterwards.
        """
        command = self.held(arguments, [at], **env)
        next(command)
        ended: list[Ended] = []
        try:
            yield ended
        finally:
            try:
                next(command)
            except StopIteration as end:
                ended.append(end.value)

    def _ask_to_run(
        self,
        arguments: Sequence[str],
        at_each: Sequence[int],
        number: int,
        limit: int | None,
        fault: Fault,
        env: dict[str, str],
        processes: int = 0,
    ) -> None:
        self._ask(
            arguments=list(arguments),
            at_each=list(at_each),
            number=number,
            limit=limit,
            fault=asdict(fault),
            env=env,
            processes=processes,
        )

    def _ask(self, **request: Any) -> None:
        assert self.process.stdin is not None
        print(
            json.dumps({**request, "folder": str(self.folder)}), file=self.process.stdin, flush=True
        )

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def _answer(self) -> Ended:
        return Ended(**self._read())
