"""`audit_domains`: the sample of an audit, on a page where it is labelled by keyboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipgap.domains.audit import DECISIONS, KIND, SAMPLE, accepted_rows, draw
from clipgap.domains.composition import Said, open_said
from clipgap.domains.options import AuditOptions
from clipgap.files.addresses import public
from clipgap.files.documents import MANIFEST, checksum
from clipgap.files.identity import sampled_since
from clipgap.files.naming import Given
from clipgap.files.remote import path_of
from clipgap.files.staging import Staging
from clipgap.kernels.options import Compute
from clipgap.options import Only, takes_options
from clipgap.report.page import Write, audit_page
from clipgap.report.pictures import (
    PACK,
    Picture,
    Pictures,
    Thumbnails,
    Wanted,
    read_pictures,
    script,
)
from clipgap.report.sources import Images
from clipgap.runs.how import How
from clipgap.runs.lock import PROGRESS
from clipgap.runs.output import Complete, New, Output, open_output, spare
from clipgap.version import __version__

DATA, PAGE = "data/audit.js", "index.html"
EDGE = 384  # pixels of a picture: one is looked at at a time


@dataclass(frozen=True)
class Audit:
    """A finished audit, to be labelled."""

    path: Path
    manifest: Mapping[str, Any]
    already_complete: bool = False

    @property
    def page(self) -> Path:
        return self.path / PAGE


@takes_options
def audit_domains(
    domains: Given,
    *,
    out: Given,
    images: Given | None = None,
    options: AuditOptions,
    compute: Annotated[Compute, Only("threads")],
    how: How,
) -> Audit:
    """Draw a random sample of the rows that heads say to be of a domain, and make a page of it.

    `domains` is a folder that `label_domains` made, or a scan with heads; `images` are tar shards
    or a folder with the images of its store. The page asks of each picture what it is, and does
    not say what heads said; `audited` turns the answers that it downloads into a precision.
    """
    how.tell("reading headers")
    said, shown = open_said(path_of(domains)), None if images is None else Images(str(images))
    described = {
        "kind": "audit",
        "inputs": {
            "domains": {"path": str(said.path), "manifest_sha256": checksum(said.manifest)},
            **({} if shown is None else {"images": shown.identity()}),
        },
        "settings": asdict(options),
    }
    spare(Path(out), [said.path], how)
    with open_output(out, KIND, how) as output:
        answer = output.begin(described)
        if isinstance(answer, Complete):
            files = [] if shown is None else [file for _, file in shown.files]
            if doubt := sampled_since(files, output.path / MANIFEST):
                how.note(doubt)
            return Audit(output.path, answer.manifest, already_complete=True)
        if not isinstance(answer, New):
            output.start()  # an audit that is not whole is made again, all of it
        accepted = accepted_rows(said, options)
        sample = draw(said, options, compute.threads, how)
        made = _make(output, said, shown, sample, {**described, "counts": {"accepted": accepted}})
        return Audit(output.path, made)


@takes_options
def plan_audit(domains: Given, *, options: AuditOptions) -> int:
    """How many rows `audit_domains` would draw from; refuses a sample that is larger."""
    return accepted_rows(open_said(path_of(domains)), options)


def _make(
    output: Output,
    said: Said,
    images: Images | None,
    sample: pa.Table,
    described: Mapping[str, Any],
) -> dict[str, Any]:
    how = output.how
    with Staging(output.path, f"{PROGRESS}/pages") as pages:

        def write(name: str, content: bytes) -> None:
            how.check()
            pages.write(name, content)

        sink = pa.BufferOutputStream()
        pq.write_table(sample, sink)
        write(SAMPLE, sink.getvalue().to_pybytes())
        how.tell("reading pictures", works=True)
        rows, problems = _rows(said, images, sample, write)
        found = sum(row["picture"] is not None for row in rows)
        if images is not None and found < len(rows):
            why = f": {public(problems[0])}" if problems else ""
            how.note(
                f"{len(rows) - found:,} of {len(rows):,} rows have no picture in {images.path}{why}"
            )
        data = {"pack": PACK, "labels": list(DECISIONS), "rows": rows}
        write(DATA, script(DATA, data))
        for name, content in audit_page(len(rows)):
            write(name, content)
        output.expect(pages.sums)
        pages.publish(last=PAGE)
    entries = {
        **described,
        "counts": {**described["counts"], "pictures": found},
        "versions": {"clipgap": __version__, "pyarrow": pa.__version__},
    }
    return output.finish(entries, pages.sums)


def _rows(
    said: Said, images: Images | None, sample: pa.Table, write: Write
) -> tuple[list[dict[str, Any]], Sequence[str]]:
    """What the page shows of each row, with its thumbnail's number; and why others have none."""
    shards = [shard["name"] for shard in said.store["shards"]]
    listed = sample.to_pylist()
    wanted: list[Wanted] = [(shards[row["shard"]], row["key"]) for row in listed if row["key"]]
    pictures = Pictures(set(wanted))
    if images is not None:
        with TemporaryFile() as spool:
            thumbnails = Thumbnails([("", one) for one in wanted], spool)
            pictures = read_pictures("", images, pictures.wanted, thumbnails, EDGE)
            thumbnails.write(write)
    nothing = Picture(None, "", "")
    rows = []
    for row in listed:
        picture = pictures.found.get((shards[row["shard"]], row["key"]), nothing)
        words = {"caption": picture.caption, "url": public(picture.url)}
        rows.append({**row, "picture": picture.number, **words})
    return rows, pictures.problems
