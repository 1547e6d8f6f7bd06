"""`report`: from scans, splits and evaluations to a page that opens from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipgap.files.documents import FILES, MANIFEST, Each, Form, encode, is_count
from clipgap.files.identity import sampled_since
from clipgap.files.naming import Given, Named
from clipgap.files.staging import Staging
from clipgap.options import takes_options
from clipgap.report.contents import gather
from clipgap.report.gallery import write_gallery
from clipgap.report.options import ReportOptions
from clipgap.report.page import markdown, single_page, write_pages
from clipgap.report.sources import Sources, open_sources
from clipgap.runs.how import How
from clipgap.runs.lock import PROGRESS
from clipgap.runs.output import Complete, Kind, New, Output, open_output, spare
from clipgap.store.options import Mixing
from clipgap.version import __version__

KIND = Kind(
    Form(
        "clipgap-report",
        "report",
        {
            "settings": {"format": str, "title": str, "gallery": (None, is_count)},
            "inputs": {
                **dict.fromkeys(("scans", "splits", "embeddings"), Each(str)),
                "reference": (None, Each(str)),
                "evaluations": [str],
                "images": Each({"path": str, "sha256": str}),
                "paper": (None, str),
                "analyses": (None, [str]),
                **dict.fromkeys(("domains", "heads"), (None, Each(str))),
                "calls": [str],
                "certificates": Each(str),
            },
            "gallery": dict,
            "files": FILES,
        },
    ),
    free=("path",),
)
DATA = "report.json"
PAGES = {"html": "index.html", "single": "report.html", "md": "report.md", "json": DATA}
"""Formats, and what to open of each."""


@dataclass(frozen=True)
class ReportResult:
    """A finished report."""

    path: Path
    manifest: Mapping[str, Any]
    already_complete: bool = False  # True: a resumed run found nothing to do

    @property
    def page(self) -> Path:
        """What to open."""
        return self.path / PAGES[self.manifest["settings"]["format"]]


@takes_options
def plan_report(
    scans: Named = (),
    *,
    reference: Named | None = None,
    splits: Named = (),
    evals: Sequence[Given] | Given = (),
    images: Mapping[str, Given] | None = None,
    paper: Given | None = None,
    embeddings: Named = (),
    analyses: Sequence[Given] | Given = (),
    domains: Named = (),
    heads: Named = (),
    mixing: Mixing,
) -> Sources:
    """Open and check everything that `report` would read."""
    return open_sources(
        scans,
        reference,
        splits,
        evals,
        images,
        paper,
        embeddings,
        analyses,
        domains,
        heads,
        mixing,
    )


@takes_options
def report(
    scans: Named = (),
    *,
    out: Given,
    reference: Named | None = None,
    splits: Named = (),
    evals: Sequence[Given] | Given = (),
    images: Mapping[str, Given] | None = None,
    paper: Given | None = None,
    embeddings: Named = (),
    analyses: Sequence[Given] | Given = (),
    domains: Named = (),
    heads: Named = (),
    options: ReportOptions,
    mixing: Mixing,
    how: How,
) -> ReportResult:
    """Make a report of scans, and of whatever else there is, in the folder `out`.

    `scans`, `reference` and `splits` are paths, or paths by name; without a name a folder is called
    as it is. The first scan is of the large set that galleries and curves are about. `evals` are
    folders of `clipgap eval`; a checkpoint, or a pool, belongs to the split, or the scan, that it
    is called like. `images` are tar shards or folders by name of a test set, scan or reference.
    `paper` is a file of published figures. `embeddings` are the first scan made again with other
    embeddings. `analyses` are folders of `clipgap analyze`; `domains` those of `label_domains`,
    `heads` those of `fit_heads`, both perhaps by name. `gallery` limits how many points of each
    test set the gallery shows.

    Equal inputs give equal folders, byte for byte.
    """
    how.tell("reading headers")
    sources = plan_report(
        scans,
        reference=reference,
        splits=splits,
        evals=evals,
        images=images,
        paper=paper,
        embeddings=embeddings,
        analyses=analyses,
        domains=domains,
        heads=heads,
        mixing=mixing,
    )
    for note in sources.met.notes:
        how.note(note)
    described = {"settings": asdict(options), "inputs": sources.identity()}
    spare(Path(out), sources.folders(), how)
    with open_output(out, KIND, how) as output:
        answer = output.begin(described)
        if isinstance(answer, Complete):
            files = [file for one in sources.images.values() for _, file in one.files]
            if doubt := sampled_since(files, output.path / MANIFEST):
                how.note(doubt)
            return ReportResult(output.path, answer.manifest, already_complete=True)
        if not isinstance(answer, New):
            output.start()  # a report that is not whole is made again, all of it
        return ReportResult(output.path, _make(output, sources, described))


def _make(output: Output, sources: Sources, described: Mapping[str, Any]) -> dict[str, Any]:
    how, settings = output.how, described["settings"]
    shown: dict[str, Any] = {}
    with Staging(output.path, f"{PROGRESS}/pages") as pages:

        def write(name: str, content: bytes) -> None:
            how.check()
            pages.write(name, content)

        how.tell("computing", works=True)
        findings = gather(sources, settings["title"])
        numbers = encode(findings)
        write(DATA, numbers)
        if settings["format"] == "md":
            write("report.md", markdown(findings).encode())
        elif settings["format"] == "html":
            how.tell("writing the gallery", works=True)
            shown = write_gallery(sources, settings["gallery"], write)
            how.tell("writing pages", works=True)
            write_pages(findings, shown, write)
        elif settings["format"] == "single":
            how.tell("gathering the gallery", works=True)
            data: dict[str, bytes] = {}
            shown = write_gallery(sources, settings["gallery"], data.__setitem__)
            write(PAGES["single"], single_page(findings, shown, data, numbers))
        output.expect(pages.sums)
        pages.publish(last=PAGES[settings["format"]])
    entries = {
        "kind": "report",
        **described,
        "gallery": shown,
        "versions": {"clipgap": __version__},
    }
    return output.finish(entries, pages.sums)
