"""Audits: how many rows truly are of the domain that heads say, by a random sample that people see.

AUDIT/sample.parquet       the sample in its order: shard, row, key
AUDIT/index.html           the page on which it is labelled; it loads assets/, data/ and thumbs/
AUDIT/manifest.json        written last

Rows of the domain are ordered by hash, and the first are the sample: so it is the same whenever it
is drawn, a smaller one lies in a larger one, and every row is as likely to be in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipgap.domains.composition import Said
from clipgap.domains.options import AuditOptions
from clipgap.errors import InputError
from clipgap.files.documents import FILES, Each, Form, is_count, read_manifest
from clipgap.files.naming import Given
from clipgap.files.parquet import FileSum, read_row_groups, read_table
from clipgap.files.remote import path_of
from clipgap.heads.heads import DOMAIN_COLUMNS, LABELS
from clipgap.intervals import Interval, clopper_pearson, lower_bound
from clipgap.runs.how import How
from clipgap.runs.output import Kind
from clipgap.scan.sinks import part_name
from clipgap.select.hashes import Hashed
from clipgap.select.labels import read_any
from clipgap.select.work import Workers

SAMPLE = "sample.parquet"
SAMPLE_SCHEMA = pa.schema([("shard", pa.int32()), ("row", pa.int64()), ("key", pa.string())])

UNSEEN = "unseen"
"""The decision on a row whose image is not there; nobody saw that it is right."""

DECISIONS = (*LABELS, UNSEEN)
_SHOWN = 10

KIND = Kind(
    Form(
        "clipgap-audit",
        "audit",
        {
            "kind": "audit",
            "inputs": {
                "domains": {"path": str, "manifest_sha256": str},
                "images": (None, {"path": str, "sha256": str}),
            },
            "settings": {"domain": LABELS, "by": str, "sample": is_count, "seed": is_count},
            "counts": {"accepted": is_count, "pictures": is_count},
            "versions": Each(str),
            "files": FILES,
        },
    ),
    labels={"inputs domains": "domains", "inputs images": "images", "settings": "setting"},
    free=("path",),
)


def accepted_rows(said: Said, options: AuditOptions) -> int:
    """How many rows are said to be of the domain; refuses a sample of more."""
    accepted = int(said.counts[_column(options)][options.domain])
    if accepted < options.sample:
        raise InputError(
            f"{said.path}: {accepted:,} rows are {options.domain} by the {options.by} thresholds, "
            f"so a sample cannot have {options.sample:,}; ask for fewer (--sample)"
        )
    return accepted


def _column(options: AuditOptions) -> str:
    return next(name for name, point in DOMAIN_COLUMNS.items() if point == options.by)


def draw(said: Said, options: AuditOptions, threads: int | None, how: How) -> pa.Table:
    """The sample, in its order."""
    shards, files = said.store["shards"], said.manifest["files"]
    column, by = _column(options), Hashed(options.seed)

    def of_shard(shard: int) -> pa.Table:
        name, first = part_name(shard), _ranked(SAMPLE_SCHEMA.empty_table(), [])
        if name not in files:
            raise InputError(
                f"{said.path} was made without a training table, so there is nothing to draw from"
            )
        wanted = [*SAMPLE_SCHEMA.names, column]
        for group in read_row_groups(said.path / name, FileSum(**files[name]), wanted):
            workers.check()
            rows = group.filter(pc.fill_null(pc.equal(group[column], options.domain), False))
            rows = rows.select(SAMPLE_SCHEMA.names).cast(SAMPLE_SCHEMA).combine_chunks()
            keys = rows["key"].combine_chunks()
            # A stream of its own: which rows a mix of this seed draws says nothing of these.
            stream = f"audit\0{shards[shard]['name']}"
            ranks = by.of(stream, None if keys.null_count else keys, rows["row"].to_numpy())
            first = _lowest(pa.concat_tables([first, _ranked(rows, ranks)]), options.sample)
        return first

    workers = Workers([shard["rows"] for shard in shards], threads, how)
    drawn = _lowest(pa.concat_tables(workers.each("drawing", of_shard)), options.sample)
    return drawn.select(SAMPLE_SCHEMA.names).combine_chunks()


def _ranked(rows: pa.Table, ranks: Any) -> pa.Table:
    return rows.append_column("rank", pa.array(ranks, pa.uint64()))


def _lowest(rows: pa.Table, count: int) -> pa.Table:
    """The first by rank; among equal ones by their place in the store."""
    order = [(name, "ascending") for name in ("rank", "shard", "row")]
    return rows.take(pc.sort_indices(rows, order)[:count])


@dataclass(frozen=True)
class Audited:
    """What came out of an audit."""

    domain: str
    by: str
    accepted: int
    """Rows that heads say to be of the domain."""
    sample: int
    labelled: Mapping[str, int]
    """Rows of the sample by decision."""
    precision: Interval
    """Share of the accepted rows that truly are of the domain; Clopper and Pearson's 95 %."""
    at_least: float
    """Their one-sided 95 % bound."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def audited(audit: Given, labels: Given) -> Audited:
    """What the decisions on an audit's sample come to.

    `labels` is the table that its page downloads: shard, row, key, and `label`, one of natural,
    ambiguous, rendition, and unseen, which counts as wrong. Every row of the sample must have one,
    and no other row.
    """
    folder = path_of(audit)
    manifest = read_manifest(folder, KIND.form, "Run the same command with --resume.")
    settings = manifest["settings"]
    sample = read_table(folder / SAMPLE, FileSum(**manifest["files"][SAMPLE]))
    counts = Counter(_decisions(path_of(labels), sample))
    right, n = counts[settings["domain"]], sample.num_rows
    return Audited(
        settings["domain"],
        settings["by"],
        manifest["counts"]["accepted"],
        n,
        {label: counts[label] for label in DECISIONS},
        clopper_pearson(right, n),
        lower_bound(right, n),
    )


def _decisions(path: Path, sample: pa.Table) -> list[str]:
    """The decision on each row of the sample; refuses a table that is not about it."""
    table = read_any(path)
    for name in ("shard", "row", "label"):
        if name not in table.column_names:
            raise InputError(
                f"{path} has no column {name!r}; it has {', '.join(table.column_names)}. Download "
                "it from the page of the audit"
            )
    try:
        places = list(
            zip(
                *(table[name].cast(pa.int64()).to_pylist() for name in ("shard", "row")),
                strict=True,
            )
        )
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: shards and rows are numbers: {error}") from error
    keys = table["key"].to_pylist() if "key" in table.column_names else [None] * len(places)
    known = {(row["shard"], row["row"]): row["key"] for row in sample.to_pylist()}
    said = dict(zip(places, table["label"].to_pylist(), strict=True))
    problems = {
        "are not in the sample": [place for place in places if place not in known],
        "are decided more than once": [place for place, n in Counter(places).items() if n > 1],
        "have another key in the sample": [
            place
            for place, key in zip(places, keys, strict=True)
            if key and place in known and known[place] not in (None, key)
        ],
        f"have a label that is none of {', '.join(DECISIONS)}": [
            place for place, label in said.items() if label not in DECISIONS
        ],
        "of the sample have no decision": [place for place in known if place not in said],
    }
    for words, wrong in problems.items():
        if wrong:
            raise InputError.listing(
                f"{path}: {len(wrong):,} rows {words}:",
                [f"shard {shard}, row {row}" for shard, row in wrong[:_SHOWN]],
            )
    return list(said.values())
