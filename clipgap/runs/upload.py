"""An output folder put up in a bucket while it is filled.

    s3://bucket/scan/…                      each file once its unit is done
    s3://bucket/scan/manifest.json          with it, the last of all, the output is finished
    s3://bucket/scan/.progress/…            the notes of the run, about once a minute
    s3://bucket/scan/.progress/claim.json   who is at it

A run goes by its folder on this machine. The bucket is read by --resume alone, which brings back
what the folder lacks, so that a run goes on on any machine.

Buckets have no locks, so a run claims its place: by an object that only one can make, and that says
something else every 20 seconds. Where it stays the same for a minute, its run is gone, and the next
one takes over. No clocks are compared. Should the first one wake up after all, what it still puts
up is found when everything is looked at before the manifest.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from os import getpid
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from clipgap.errors import InputError, Interrupted, ShareDone
from clipgap.files.atomic import TEMPORARY_SUFFIX
from clipgap.files.bucket import Bucket
from clipgap.files.documents import MANIFEST, Form, encode
from clipgap.files.folders import files_in, is_inside, make_folder
from clipgap.files.sums import AnySum, ArchiveSum, LinkSum, damaged, sums_from_json
from clipgap.runs.lock import LOCK, PLAN, PROGRESS
from clipgap.runs.units import UNITS, Made

if TYPE_CHECKING:
    from clipgap.runs.how import How

LOG = logging.getLogger("clipgap")

CLAIM = f"{PROGRESS}/claim.json"
_PLAN, _UNITS = f"{PROGRESS}/{PLAN}", f"{PROGRESS}/{UNITS}"
_ARRIVING = f"{PROGRESS}/{MANIFEST}"
"""The manifest, as long as not all is there that it names."""

_SPEAKS_SECONDS = 20.0
_GONE_SECONDS = 60.0
_NOTES_SECONDS = 60.0
_THREADS = 8
_MOST_WAITING = 4 * _THREADS


class Upload:
    """A place in a bucket that is this run's as long as this lasts."""

    def __init__(
        self, address: str, folder: Path, form: Form, owned: Callable[[str], bool], how: How
    ) -> None:
        self._bucket, self._folder, self._how = Bucket(address), folder, how
        self._form, self._owned_file = form, owned
        self._claim = _Claim(self._bucket, folder)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="clipgap-upload")
        self._under_way: list[Future[None]] = []
        self._noted: dict[str, tuple[int, int]] = {}
        self._last_notes = float("-inf")

    def __enter__(self) -> Upload:
        self._claim.take()
        try:
            self._bucket.remove_cut_short()
            self._look()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put up what is left; of a run that has failed as far as that is possible."""
        try:
            if error is None and (self._folder / MANIFEST).is_file():
                self._complete()
            elif error is None or isinstance(error, (Interrupted, ShareDone)):
                self.note()
            else:
                with suppress(InputError):
                    self.note()
        finally:
            self._end()

    def _end(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._claim.end()

    # --- what stands there from earlier runs

    def _look(self) -> None:
        """Refuse a place that is not ours, or ours and in the way; bring back what is lacking."""
        names = [name for name in self._bucket.names() if name != CLAIM]
        documents = {
            name: self._read(name) for name in (MANIFEST, _ARRIVING, _PLAN) if name in names
        }
        if not names:
            return
        if not any(it.get("format") == self._form.name for it in documents.values()):
            raise InputError(
                f"{self._bucket} is not empty and not a clipgap {self._form.noun} (it holds "
                f"{names[0]!r}). Name a new place for --upload."
            )
        if not self._how.resume and not self._how.overwrite:
            raise InputError(
                f"{self._bucket} already holds a {self._form.noun}. Give --resume to go on with "
                "it, --overwrite to replace it, or another place for --upload."
            )
        if self._how.resume:
            self._bring_back(names, documents)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            document = json.loads(self._bucket.read(name))
        except ValueError:
            document = None
        return document if isinstance(document, dict) else {}

    def _bring_back(self, names: Sequence[str], documents: Mapping[str, Mapping[str, Any]]) -> None:
        for name in names:
            if not is_inside(name):
                raise InputError(f"{self._bucket}: {name!r} is not the name of a file in a folder")
        begun = [name for name in (_PLAN, MANIFEST) if (self._folder / name).is_file()]
        for name in begun:
            ours = json.loads((self._folder / name).read_bytes())
            if any(not _same_run(ours, theirs) for theirs in documents.values()):
                raise InputError(
                    f"{self._folder} and {self._bucket} hold two different runs. Remove one of "
                    "them, or name another place for one."
                )
        # What tells whose the folder is comes first. Notes go together, and ours are the newer.
        first = [name for name in (MANIFEST, _PLAN) if name in documents]
        notes = [name for name in names if name.startswith(f"{PROGRESS}/") and name != _ARRIVING]
        brought = [name for name in names if name != _ARRIVING and name not in first]
        if begun:
            first, brought = (
                [name for name in some if name not in notes] for some in (first, brought)
            )
        self._how.tell("fetching")
        for name in first:
            self._bring(name)
        for _ in self._pool.map(self._bring, brought):
            self._how.check("; --resume goes on")

    def _bring(self, name: str) -> None:
        path = self._folder / name
        if not path.exists():
            *inner, _ = name.split("/")
            if inner:
                make_folder(self._folder, "/".join(inner))
            self._bucket.get(name, path)

    def clear(self) -> None:
        """Begin with nothing, as the folder does; from here on the place is known as this run's."""
        self.note()
        names = set(self._bucket.names()) - {CLAIM, *self._noted}
        document = self._read(MANIFEST) if MANIFEST in names else {}
        named = {MANIFEST, *document.get("files", ())}
        ours = {name for name in names if name in named or self._owned(name)}
        for name in sorted(ours, key=lambda name: name != MANIFEST):
            self._bucket.remove(name)

    def _owned(self, name: str) -> bool:
        return name.startswith(f"{PROGRESS}/") or self._owned_file(name)

    # --- what is made

    def add(self, made: Made) -> bool:
        """Have the files of units put up, beside the work; whether it is time for notes."""
        if self._last_notes < 0:
            self.note()
        for record in made.records.values():
            for name, entry in sums_from_json(record.get("files", {})).items():
                if len(self._under_way) >= _MOST_WAITING:
                    self._under_way.pop(0).result()
                self._under_way.append(self._pool.submit(self._ensure, name, entry))
        return time.monotonic() - self._last_notes >= _NOTES_SECONDS

    def note(self) -> None:
        """Put up what the run has noted, after all files that it speaks of; its ledger last."""
        self._wait()
        self._last_notes = time.monotonic()
        if not (self._folder / _PLAN).is_file():
            return
        found = (f"{PROGRESS}/{name}" for name in files_in(self._folder / PROGRESS))
        for name in sorted(found, key=lambda name: (name == _UNITS, name != _PLAN, name)):
            path = self._folder / name
            if name == f"{PROGRESS}/{LOCK}" or name.endswith(TEMPORARY_SUFFIX):
                continue
            status = path.stat()
            now = status.st_size, status.st_mtime_ns
            if self._noted.get(name) != now:
                self._claim.check()
                self._bucket.put(name, path)
                self._noted[name] = now

    def _complete(self) -> None:
        """Have all there that the manifest names, then the manifest, and no more than that."""
        manifest = self._folder / MANIFEST
        self._how.tell("uploading")
        self._wait()
        self._bucket.put(_ARRIVING, manifest)
        sums = sums_from_json(json.loads(manifest.read_bytes())["files"])
        for name, entry in sums.items():
            self._under_way.append(self._pool.submit(self._ensure, name, entry))
        self._wait()
        self._claim.check()
        self._bucket.put(MANIFEST, manifest)
        for name in self._bucket.names():
            if name not in sums and name not in (MANIFEST, CLAIM) and self._owned(name):
                self._bucket.remove(name)
        self._how.note(f"{self._bucket} holds the {self._form.noun}: {len(sums):,} files, checked")

    def _wait(self) -> None:
        waiting, self._under_way = self._under_way, []
        for each in waiting:
            each.result()

    def _ensure(self, name: str, entry: AnySum) -> None:
        """Put a file up, unless it is there."""
        self._claim.check()
        if isinstance(entry, LinkSum):
            raise InputError(f"{self._folder / name} is a link, which a bucket cannot hold")
        mark = f"crc32:{entry.crc32}" if isinstance(entry, ArchiveSum) else entry.sha256
        there = self._bucket.standing(name)
        if there is not None and (there.size, there.mark) == (entry.size, mark):
            return
        if damaged(self._folder, {name: entry}):
            raise InputError(f"{self._folder / name} is not what was written; --resume mends it")
        self._bucket.put(name, self._folder / name, mark)


def _same_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two plans or manifests are of one run: by all that it follows from."""
    if "wanted" not in one and "wanted" not in other:
        return one == other
    plans = [it["wanted"] for it in (one, other) if "wanted" in it]
    said = [it.get("wanted", it) for it in (one, other)]
    names: Iterable[str] = plans[0].keys() - {"marks"}
    return all(said[0].get(name) == said[1].get(name) for name in names)


class _Claim:
    """That a place is this run's, said again and again by a thread of its own."""

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        self._bucket = bucket
        self._says = {
            "host": socket.gethostname(),
            "folder": str(folder),
            "process": getpid(),
            "token": secrets.token_hex(8),
        }
        self._count, self._etag, self._lost = 0, "", False
        self._over = threading.Event()
        self._speaker = threading.Thread(target=self._speak, daemon=True, name="clipgap-claim")

    def take(self) -> None:
        """Have the place, be it that of a run that is gone; refuse if one is at it."""
        etag = self._say(None)
        if etag is None and (there := self._bucket.standing(CLAIM)) is not None:
            said = self._said()
            # Whoever has the lock of this folder now is what has come of that run.
            if any(said.get(key) != self._says[key] for key in ("host", "folder")):
                self._require_gone(there.etag, said)
            etag = self._say(there.etag)
        if etag is None:
            raise self._at_work(self._said())
        self._etag = etag
        self._speaker.start()

    def check(self) -> None:
        """Refuse to go on in a place that is no longer this run's."""
        if self._lost:
            raise InputError(
                f"{self._bucket}: another run has taken this place over, since nothing had been "
                f"heard of this one for {_GONE_SECONDS:g} seconds. What it has done is kept in its "
                "folder here."
            )

    def end(self) -> None:
        self._over.set()
        if self._speaker.ident is not None:
            self._speaker.join()
        if self._etag and not self._lost:
            with suppress(InputError):
                self._bucket.remove(CLAIM)

    def _say(self, there: str | None) -> str | None:
        self._count += 1
        return self._bucket.put_if(CLAIM, encode({**self._says, "count": self._count}), there)

    def _said(self) -> dict[str, Any]:
        try:
            said = json.loads(self._bucket.read(CLAIM))
        except (InputError, ValueError):
            said = None
        return said if isinstance(said, dict) else {}

    def _require_gone(self, etag: str, said: Mapping[str, Any]) -> None:
        LOG.info("%s is claimed; waiting whether its run is still there", self._bucket)
        until = time.monotonic() + _GONE_SECONDS
        while time.monotonic() < until:
            time.sleep(_SPEAKS_SECONDS / 10)
            there = self._bucket.standing(CLAIM)
            if there is not None and there.etag != etag:
                raise self._at_work(said)

    def _at_work(self, said: Mapping[str, Any]) -> InputError:
        who = f": process {said.get('process')} on {said.get('host')}" if said else ""
        return InputError(
            f"another run is at work in {self._bucket}{who}. Wait for it, stop it, or name another "
            "place for --upload."
        )

    def _speak(self) -> None:
        while not self._over.wait(_SPEAKS_SECONDS):
            try:
                etag = self._say(self._etag)
                if etag is None:
                    # An answer may have been lost on its way, and the request repeated.
                    there, said = self._bucket.standing(CLAIM), self._said()
                    self._lost = there is None or said.get("token") != self._says["token"]
                    etag = "" if there is None else there.etag
            except InputError as error:
                LOG.warning("%s", error)
                continue
            if self._lost:
                return
            self._etag = etag
