"""Whose a place is, where nothing can be locked: buckets, and file systems without locks.

A run claims a place by what only one can make, and says something else there every 20 seconds.
Where it stays the same for a minute, its run is gone, and the next one takes over. No clocks are
compared. Should the first one wake up after all, it finds the place taken.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from os import getpid
from pathlib import Path
from typing import Any, Protocol

from clipgap.errors import InputError
from clipgap.files.documents import encode

LOG = logging.getLogger("clipgap")

_SPEAKS_SECONDS = 20.0
_GONE_SECONDS = 60.0


class Place(Protocol):
    """Where one claim can stand; its versions are told apart by tags."""

    def __str__(self) -> str: ...

    def standing(self) -> str | None:
        """The tag of what is said there; None if nothing is."""
        ...

    def read(self) -> bytes: ...

    def put_if(self, content: bytes, there: str | None) -> str | None:
        """Say something if this tag is there, or nothing is; the new tag, None if not."""
        ...

    def remove(self) -> None: ...


@dataclass(frozen=True)
class Beside:
    """OUT.claim-7 beside a folder: names are taken once, so that the next number is had by one."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def standing(self) -> str | None:
        numbers = self._numbers()
        return str(numbers[-1]) if numbers else None

    def read(self) -> bytes:
        return b"".join(self._path(number).read_bytes() for number in self._numbers()[-1:])

    def put_if(self, content: bytes, there: str | None) -> str | None:
        if self.standing() != there:
            return None
        number = int(there or 0) + 1
        try:
            with self._path(number).open("xb") as file:
                file.write(content)
        except FileExistsError:
            return None
        for earlier in self._numbers():
            if earlier < number:
                self._path(earlier).unlink(missing_ok=True)
        return str(number)

    def remove(self) -> None:
        for number in self._numbers():
            self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.folder.with_name(f"{self.folder.name}.claim-{number}")

    def _numbers(self) -> list[int]:
        begin = f"{self.folder.name}.claim-"
        names = [path.name for path in self.folder.parent.iterdir()]
        ends = [name.removeprefix(begin) for name in names if name.startswith(begin)]
        return sorted(int(end) for end in ends if end.isdecimal())


class Claim:
    """That a place is this run's, said again and again by a thread of its own."""

    def __init__(self, place: Place, folder: Path | None = None) -> None:
        """`folder` is locked by this run: what was claimed from there is what has come of it."""
        self._place, self._locked = place, folder is not None
        self._says = {
            "host": socket.gethostname(),
            "folder": str(folder or place),
            "process": getpid(),
            "token": secrets.token_hex(8),
        }
        self._count, self._tag, self._lost = 0, "", False
        self._over = threading.Event()
        self._speaker = threading.Thread(target=self._speak, daemon=True, name="clipgap-claim")

    def take(self) -> None:
        """Have the place, be it that of a run that is gone; refuse if one is at it."""
        tag = self._say(None)
        if tag is None and (there := self._place.standing()) is not None:
            said = self._said()
            same = all(said.get(key) == self._says[key] for key in ("host", "folder"))
            if not (self._locked and same):
                self._require_gone(there, said)
            tag = self._say(there)
        if tag is None:
            raise self._at_work(self._said())
        self._tag = tag
        self._speaker.start()

    def check(self) -> None:
        """Refuse to go on in a place that is no longer this run's."""
        if self._lost:
            raise InputError(
                f"{self._place}: another run has taken this place over, since nothing had been "
                f"heard of this one for {_GONE_SECONDS:g} seconds. What it has done is kept in its "
                "folder here."
            )

    def end(self) -> None:
        self._over.set()
        if self._speaker.ident is not None:
            self._speaker.join()
        if self._tag and not self._lost:
            with suppress(InputError, OSError):
                self._place.remove()

    def _say(self, there: str | None) -> str | None:
        self._count += 1
        return self._place.put_if(encode({**self._says, "count": self._count}), there)

    def _said(self) -> dict[str, Any]:
        try:
            said = json.loads(self._place.read())
        except (InputError, OSError, ValueError, RecursionError):
            said = None
        return said if isinstance(said, dict) else {}

    def _require_gone(self, tag: str, said: Mapping[str, Any]) -> None:
        LOG.info("%s is claimed; waiting whether its run is still there", self._place)
        until = time.monotonic() + _GONE_SECONDS
        while time.monotonic() < until:
            time.sleep(_SPEAKS_SECONDS / 10)
            there = self._place.standing()
            if there is not None and there != tag:
                raise self._at_work(said)

    def _at_work(self, said: Mapping[str, Any]) -> InputError:
        who = f": process {said.get('process')} on {said.get('host')}" if said else ""
        return InputError(
            f"another run is at work in {self._place}{who}. Wait for it, stop it, or name another "
            "place."
        )

    def _speak(self) -> None:
        while not self._over.wait(_SPEAKS_SECONDS):
            try:
                tag = self._say(self._tag)
                if tag is None:
                    # An answer may have been lost on its way, and the request repeated.
                    there, said = self._place.standing(), self._said()
                    self._lost = there is None or said.get("token") != self._says["token"]
                    tag = there or ""
            except (InputError, OSError) as error:
                LOG.warning("%s", error)
                continue
            if self._lost:
                return
            self._tag = tag
