"""What the commands that write keep-lists do alike before they write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgap.errors import ResumeError, UsageError
from clipgap.files.documents import MANIFEST, checksum
from clipgap.keep.lists import KeepList, KeepWriter, read_keep
from clipgap.runs.old_how import refuse_both
from clipgap.runs.old_lock import only_writer
from clipgap.scan.manifest import differences


@dataclass(frozen=True)
class Output:
    """A keep-list that is going to be made, and all that it follows from."""

    path: Path
    store: Mapping[str, Any]
    rule: Mapping[str, Any]
    scans: Sequence[Mapping[str, Any]]
    resume: bool = False
    overwrite: bool = False

    @classmethod
    def named(
        cls,
        out: str | Path | None,
        store: Mapping[str, Any],
        rule: Mapping[str, Any],
        scans: Sequence[Mapping[str, Any]],
        resume: bool,
        overwrite: bool,
    ) -> Output | None:
        """None if no folder is named; then nothing is written, and nothing can be replaced."""
        refuse_both(resume, overwrite)
        if out is not None:
            return cls(Path(out), store, rule, scans, resume, overwrite)
        if resume or overwrite:
            raise UsageError("--resume and --overwrite need an output folder")
        return None

    def finished(self) -> KeepList | None:
        """With resume: the keep-list that is wanted, if it is already there and whole."""
        if not self.resume or not (self.path / MANIFEST).exists():
            return None
        keep = read_keep(self.path)
        found = differences(
            _comparable(keep.manifest["store"], keep.manifest["rule"], keep.manifest["scans"]),
            _comparable(self.store, self.rule, self.scans),
        )
        if problems := [text for *_, text in found]:
            raise ResumeError.listing(
                f"{self.path} was made from other inputs or by another rule. Name another folder, "
                "or replace it with --overwrite. The differences:",
                problems,
            )
        if keep.damaged():
            return None
        KeepWriter.folder(self.path).tidy()  # a kill may have come between the last two steps
        return keep

    def require_free(self) -> None:
        """Refuse, before any work, what `writer` would refuse after it."""
        state = KeepWriter.folder(self.path).state()
        if state != "empty" and not (self.overwrite or self.resume):
            raise KeepWriter.folder(self.path).require_flag(state)

    @contextmanager
    def writer(self) -> Iterator[KeepWriter]:
        # A split takes minutes, so one that was interrupted starts again.
        overwrite = self.overwrite or self.resume
        with (
            only_writer(self.path),
            KeepWriter(self.path, self.store, self.rule, self.scans, overwrite) as writer,
        ):
            yield writer

    def spare(self, inputs: Iterable[Path | None]) -> None:
        """Refuse an output that is one of the inputs."""
        for path in inputs:
            if path is not None and path.resolve() == self.path.resolve():
                raise UsageError(f"{path} is both input and output; name another output folder")


def _comparable(
    store: Mapping[str, Any], rule: Mapping[str, Any], scans: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    # A scan may have moved; what counts is its content.
    return {"store": store, "rule": rule, "scans": [scan["manifest_sha256"] for scan in scans]}


def cite(keep: KeepList) -> dict[str, str]:
    """A keep-list as the manifest of another one names it."""
    return {"path": str(keep.path), "manifest_sha256": checksum(keep.manifest)}
