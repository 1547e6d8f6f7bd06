"""`report`: from scans, splits and evaluations to a page that opens from disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clipgap import __version__
from clipgap.errors import InputError, ResumeError, UsageError
from clipgap.files.documents import checksum, encode
from clipgap.files.parquet import FileSum
from clipgap.report.contents import gather
from clipgap.report.gallery import write_gallery
from clipgap.report.page import markdown, write_pages
from clipgap.report.sources import Given, Named, Sources, open_sources
from clipgap.runs.old_how import refuse_both
from clipgap.runs.old_lock import only_writer
from clipgap.runs.old_output import OutputFolder, read_manifest, remove
from clipgap.runs.old_progress import OnProgress, Progress, ignore

FORMAT = "clipgap-report"
DATA = "report.json"
FORMATS = ("html", "md", "json")
TITLE = "Similarity report"


@dataclass(frozen=True)
class ReportResult:
    """A finished report."""

    path: Path
    manifest: Mapping[str, Any]
    already_complete: bool = False  # True: a resumed run found nothing to do

    @property
    def page(self) -> Path:
        """What to open."""
        names = {"html": "index.html", "md": "report.md", "json": DATA}
        return self.path / names[self.manifest["settings"]["format"]]


@dataclass
class _Files:
    """Writes the files of a report and keeps their sums.

    They are not flushed one by one, of which there can be a hundred thousand: whether they arrived
    whole is what the sums in the manifest tell, and a report is soon made again.
    """

    folder: Path
    sums: dict[str, FileSum] = field(default_factory=dict)
    _made: set[Path] = field(default_factory=set)

    def write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        try:
            if path.parent not in self._made:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._made.add(path.parent)
            path.write_bytes(content)
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror}. Free some space or choose another output "
                "folder, then run the same command again with --resume."
            ) from error
        self.sums[name] = FileSum(hashlib.sha256(content).hexdigest(), len(content))


def plan_report(
    scans: Named,
    *,
    reference: Named | None = None,
    splits: Named = (),
    evals: Sequence[Given] | Given = (),
    images: Mapping[str, Given] | None = None,
    paper: Given | None = None,
    embeddings: Named = (),
) -> Sources:
    """Open and check everything that `report` would read."""
    return open_sources(scans, reference, splits, evals, images, paper, embeddings)


def report(
    scans: Named,
    *,
    out: Given,
    reference: Named | None = None,
    splits: Named = (),
    evals: Sequence[Given] | Given = (),
    images: Mapping[str, Given] | None = None,
    paper: Given | None = None,
    embeddings: Named = (),
    format: str = "html",
    title: str = TITLE,
    gallery: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ReportResult:
    """Make a report of scans, and of whatever else there is, in the folder `out`.

    `scans`, `reference` and `splits` are paths, or paths by name; without a name a folder is called
    as it is. The first scan is of the large set that galleries and curves are about. `evals` are
    folders of `clipgap eval`; a checkpoint belongs to the split, or the scan, that it is called
    like. `images` are tar shards by name of a test set, scan or reference. `paper` is a file of
    published figures. `embeddings` are the first scan made again with other embeddings. `gallery`
    limits how many points of each test set the gallery shows.

    Equal inputs give equal folders, byte for byte.
    """
    if format not in FORMATS:
        raise UsageError(f"the format {format!r} is not one of {', '.join(FORMATS)}")
    refuse_both(resume, overwrite)
    if gallery is not None and gallery < 1:
        raise UsageError(f"a gallery of {gallery:,} points a test set; it takes at least 1")
    tell = on_progress or ignore
    tell(Progress("reading headers"))
    sources = plan_report(
        scans,
        reference=reference,
        splits=splits,
        evals=evals,
        images=images,
        paper=paper,
        embeddings=embeddings,
    )
    settings = {"format": format, "title": title, "gallery": gallery}
    folder = OutputFolder(Path(out), FORMAT, "report")
    _spare(folder.path, sources)
    with only_writer(folder.path):
        return _write(folder, sources, settings, resume, overwrite, tell)


def _write(
    folder: OutputFolder,
    sources: Sources,
    settings: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
    tell: OnProgress,
) -> ReportResult:
    state = folder.state()
    if state != "empty" and not (resume or overwrite):
        raise folder.require_flag(state)
    described = {"settings": settings, "inputs": sources.identity()}
    if state == "finished" and resume and (found := _finished(folder, described)) is not None:
        return ReportResult(folder.path, found, already_complete=True)
    folder.start(described, ("assets", "data", "figures", "tables", "thumbs"))
    for old in [*folder.path.glob("*.html"), folder.path / DATA, folder.path / "report.md"]:
        remove(old)
    tell(Progress("computing"))
    findings = gather(sources, settings["title"])
    files = _Files(folder.path)
    files.write(DATA, encode(findings))
    shown: dict[str, Any] = {}
    if settings["format"] == "md":
        files.write("report.md", markdown(findings).encode())
    elif settings["format"] == "html":
        tell(Progress("writing the gallery"))
        shown = write_gallery(sources, settings["gallery"], files.write)
        tell(Progress("writing pages"))
        write_pages(findings, shown, files.write)
    manifest = {
        "format": FORMAT,
        "version": 1,
        "kind": "report",
        **described,
        "gallery": shown,
        "versions": {"clipgap": __version__},
        "files": {name: asdict(entry) for name, entry in sorted(files.sums.items())},
    }
    folder.finish(manifest)
    return ReportResult(folder.path, manifest)


def _finished(folder: OutputFolder, described: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of the report that is there, if it is the wanted one and whole."""
    manifest = read_manifest(folder.path, FORMAT, "report", "")
    if problems := [
        f"{part} {name}"
        for part in ("settings", "inputs")
        for name in described[part]
        if checksum({"": described[part][name]}) != checksum({"": manifest[part].get(name)})
    ]:
        raise ResumeError.listing(
            f"{folder.path} was made from other inputs or settings. Name another folder, or "
            "replace it with --overwrite. What differs:",
            problems,
        )
    files = {name: FileSum(**entry) for name, entry in manifest["files"].items()}
    return None if folder.damaged(files) else manifest


def _spare(out: Path, sources: Sources) -> None:
    """Refuse an output that is one of the inputs."""
    inputs = [one.scan.path for one in (*sources.training_sets, *sources.embeddings)]
    inputs += [keep.path for keep in sources.splits.values()]
    inputs += [one.path for one in sources.evaluations]
    for path in inputs:
        if path is not None and path.resolve() == out.resolve():
            raise UsageError(f"{path} is both input and output; name another output folder")
