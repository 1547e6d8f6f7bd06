"""An output folder put up in a bucket while it is filled.

    s3://bucket/scan/…                      each file once its unit is done
    s3://bucket/scan/manifest.json          with it, the last of all, the output is finished
    s3://bucket/scan/.progress/…            the notes of the run, about once a minute
    s3://bucket/scan/.progress/claim.json   who is at it

A run goes by its folder on this machine. The bucket is read by --resume alone, which brings back
what the folder lacks, so that a run goes on on any machine.

Buckets have no locks, so a run claims its place (`runs.claim`). Should one that was taken for gone
wake up after all, what it still puts up is found when everything is looked at before the manifest.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from clipgap.errors import InputError, Interrupted, ShareDone
from clipgap.files.atomic import TEMPORARY_SUFFIX
from clipgap.files.bucket import Bucket
from clipgap.files.documents import MANIFEST, Form
from clipgap.files.folders import files_in, is_inside, make_folder
from clipgap.files.sums import AnySum, ArchiveSum, LinkSum, damaged, sums_from_json
from clipgap.runs.claim import Claim
from clipgap.runs.lock import LOCK, PLAN, PROGRESS
from clipgap.runs.units import UNITS, Made

if TYPE_CHECKING:
    from clipgap.runs.how import How

LOG = logging.getLogger("clipgap")

CLAIM = f"{PROGRESS}/claim.json"
_PLAN, _UNITS = f"{PROGRESS}/{PLAN}", f"{PROGRESS}/{UNITS}"
_ARRIVING = f"{PROGRESS}/{MANIFEST}"
"""The manifest, as long as not all is there that it names."""

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
        self._claim = Claim(_Object(self._bucket), folder)
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


@dataclass(frozen=True)
class _Object:
    """The claim among the notes in a bucket."""

    bucket: Bucket

    def __str__(self) -> str:
        return str(self.bucket)

    def standing(self) -> str | None:
        there = self.bucket.standing(CLAIM)
        return None if there is None else there.etag

    def read(self) -> bytes:
        return self.bucket.read(CLAIM)

    def put_if(self, content: bytes, there: str | None) -> str | None:
        return self.bucket.put_if(CLAIM, content, there)

    def remove(self) -> None:
        self.bucket.remove(CLAIM)
