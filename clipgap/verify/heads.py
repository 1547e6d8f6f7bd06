"""Heads, held against the rows that tested them, domains against the heads that told them, and
audits against the domains that they were drawn from.

Nothing is fitted again. What a manifest claims is what its weights accept: so their scores are
computed, thresholds chosen and test rows counted anew, as far as store and labels are there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipgap.domains.api import confusion, described_head, scored
from clipgap.domains.audit import KIND as AUDIT
from clipgap.domains.audit import SAMPLE, accepted_rows, draw
from clipgap.domains.composition import open_said
from clipgap.domains.labelled import Labelled, load
from clipgap.domains.labelling import KIND as DOMAINS
from clipgap.domains.labelling import SCHEMA, LabelWork, add, count, zero
from clipgap.domains.options import AuditOptions
from clipgap.errors import InputError
from clipgap.files.documents import checksum
from clipgap.files.parquet import FileSum, read_row_groups, read_table
from clipgap.files.remote import path_of
from clipgap.heads.heads import CURVE, CURVE_SCHEMA, HEADS, KIND, Heads, model_of, open_heads
from clipgap.intervals import lower_bound
from clipgap.report.audit import DATA
from clipgap.report.pictures import data_of
from clipgap.runs.how import How
from clipgap.scan.manifest import differences
from clipgap.scan.sinks import part_name
from clipgap.select.cells import open_pool
from clipgap.select.labels import cite_labels
from clipgap.store.opening import open_store
from clipgap.verify.checks import Asked, Checks, Count, Problems, read_checked
from clipgap.verify.evidence import named


def prove_heads(asked: Asked, checks: Checks) -> None:
    """Weights are exact, thresholds and counts are those that follow from them."""
    read_checked(asked, checks, KIND)
    if not checks.all_good:
        return
    heads = open_heads(asked.path)
    checks.make("curve", _check_curve, heads)
    checks.make("bounds", _check_bounds, heads)
    labelled: list[Labelled] = []
    checks.make("inputs", _check_inputs, heads, asked, labelled)
    if labelled and checks.all_good:
        checks.make("counted again", _check_counts, heads, labelled[0])


def _check_curve(heads: Heads, problems: Problems) -> str:
    """At each threshold, the curve has the counts of the manifest."""
    table = read_table(heads.path / CURVE, FileSum(**heads.manifest["files"][CURVE]))
    problems.differ(f"columns of {CURVE}", CURVE_SCHEMA.names, table.schema.names)
    rows = table.to_pylist()
    for name in HEADS:
        mine = [row for row in rows if row["head"] == name]
        for point, found in heads.manifest["heads"][name]["found"].items():
            above = [row for row in mine if row["threshold"] >= heads.threshold(name, point)]
            last = above[-1] if above else {"accepted": 0, "wrong": 0}
            for key in ("accepted", "wrong"):
                problems.differ(f"{name} {point} {key}", found[key], last[key])
    return f"{len(rows):,} thresholds"


def _check_bounds(heads: Heads, problems: Problems) -> str:
    """Bounds follow from the counts."""
    for name in HEADS:
        for point, found in heads.manifest["heads"][name]["found"].items():
            accepted, wrong = found["accepted"], found["wrong"]
            bound = lower_bound(accepted - wrong, accepted)
            if not math.isclose(found["precision_at_least"], bound, abs_tol=1e-9):
                problems.differ(f"{name} {point} bound", found["precision_at_least"], bound)
    return f"of {len(HEADS):,} heads"


def _check_inputs(heads: Heads, asked: Asked, into: list[Labelled], problems: Problems) -> str:
    """Store and labels are those that the heads were fitted on."""
    inputs, settings = heads.manifest["inputs"], heads.manifest["settings"]
    for table in inputs["labels"]:
        if cite_labels(named(table["path"])) != table:
            problems.add(f"{table['path']} is no longer the table of labels that was used")
    labels = [table["path"] for table in inputs["labels"]]
    try:
        pool = open_pool(named(inputs["store"]["path"]), labels, None, None, How())
    except InputError as error:
        problems.add(str(error))
        return ""
    problems.add_all(text for *_, text in differences(inputs["store"], pool.store.identity()))
    problems.differ("model", heads.model, model_of(pool.store, heads.model))
    problems.differ("dimensions", heads.dim, pool.store.dim)
    if not problems.count:
        into.append(load(pool, settings["train_share"], settings["seed"]))
        problems.differ("parts", heads.manifest["parts"], into[0].counts())
    return f"{pool.store.path} and {len(labels):,} tables of labels are unchanged"


def _check_counts(heads: Heads, labelled: Labelled, problems: Problems) -> str:
    """Thresholds are the lowest that will do, and accept the rows that they are said to."""
    settings, rows = heads.manifest["settings"], 0
    for name in HEADS:
        head, said = heads.heads[name], heads.manifest["heads"][name]
        again = described_head(head, labelled, settings["precision"], settings["prevalence"])
        for place, stated, found in _leaves(name, said, again):
            problems.differ(place, stated, found)
        rows += len(scored(head, labelled, "test").scores)
    again = confusion(heads.heads, heads.manifest["heads"], labelled)
    for place, stated, found in _leaves("confusion", heads.manifest["confusion"], again):
        problems.differ(place, stated, found)
    return f"{rows:,} scores of test rows"


def _leaves(place: str, stated: Any, found: Any) -> list[tuple[str, Any, Any]]:
    """Values of two documents of the same shape, side by side; sums of shares up to rounding."""
    if isinstance(stated, Mapping) and isinstance(found, Mapping):
        return [
            leaf
            for key in sorted(stated.keys() | found.keys())
            for leaf in _leaves(f"{place} {key}", stated.get(key), found.get(key))
        ]
    same = isinstance(stated, float) and isinstance(found, float)
    if same and math.isclose(stated, found, rel_tol=1e-12):
        return []
    return [(place, stated, found)]


def prove_domains(asked: Asked, checks: Checks) -> None:
    """All rows, scored again by the same heads, have the domains that the tables say."""
    manifest = read_checked(asked, checks, DOMAINS)
    if checks.all_good:
        checks.make("rows", _check_rows, asked.path, manifest, checks.count)


def _check_rows(folder: Path, manifest: Mapping[str, Any], begin: Count, problems: Problems) -> str:
    inputs, counts = manifest["inputs"], zero()
    heads = open_heads(named(inputs["heads"]["path"]))
    if checksum(heads.manifest) != inputs["heads"]["manifest_sha256"]:
        problems.add(f"{heads.path} are no longer the heads that rows were labelled by")
    problems.differ(
        "confusion of the heads", inputs["heads"]["confusion"], heads.manifest["confusion"]
    )
    store = open_store(named(inputs["store"]["path"]))
    problems.add_all(text for *_, text in differences(inputs["store"], store.identity()))
    names = [part_name(shard.index) for shard in store.shards]
    problems.differ("files", sorted(manifest["files"]), sorted(names))
    if problems.count:
        return ""
    work = LabelWork(folder, store, heads, manifest["settings"]["bad_rows"])
    scored = begin(store.rows, "rows")
    for shard, name in zip(store.shards, names, strict=True):
        start = 0
        for table in read_row_groups(folder / name, FileSum(**manifest["files"][name])):
            stop = start + table.num_rows
            if stop > shard.rows or not table.schema.equals(SCHEMA):
                problems.add(f"{name} has other columns, or more rows, than {shard.name}")
                return ""
            again = work.table(shard.index, start, stop)
            for column in SCHEMA.names:
                stated, found = (each[column].to_pylist() for each in (table, again))
                problems.add_all(
                    f"{name}, row {start + row:,}: {column} is {was}, not {now}"
                    for row, (was, now) in enumerate(zip(stated, found, strict=True))
                    if was != now
                )
            add(counts, count(again))
            scored.add(stop - start)
            start = stop
        problems.differ(f"rows of {name}", start, shard.rows)
    problems.differ("counts", manifest["counts"], counts)
    return f"{counts['rows']:,} rows, scored again"


def prove_audit(asked: Asked, checks: Checks) -> None:
    """The page asks of the sample, and the sample is the one that would be drawn."""
    manifest = read_checked(asked, checks, AUDIT)
    if checks.all_good:
        checks.make("page", _check_page, asked.path, manifest)
        checks.make("sample", _check_sample, asked.path, manifest)


def _check_page(folder: Path, manifest: Mapping[str, Any], problems: Problems) -> str:
    sample = read_table(folder / SAMPLE, FileSum(**manifest["files"][SAMPLE])).to_pylist()
    rows = json.loads(data_of(DATA, (folder / DATA).read_bytes()))["rows"]
    problems.differ("rows", sample, [{name: row[name] for name in sample[0]} for row in rows])
    pictures = sum(row["picture"] is not None for row in rows)
    problems.differ("pictures", manifest["counts"]["pictures"], pictures)
    return f"{len(rows):,} rows"


def _check_sample(folder: Path, manifest: Mapping[str, Any], problems: Problems) -> str:
    """Drawn again, from the same domains, it has the same rows."""
    said = open_said(path_of(named(manifest["inputs"]["domains"]["path"])))
    if checksum(said.manifest) != manifest["inputs"]["domains"]["manifest_sha256"]:
        problems.add(f"{said.path} are no longer the domains that the sample was drawn from")
        return ""
    options = AuditOptions(**manifest["settings"])
    accepted = accepted_rows(said, options)
    problems.differ("accepted", manifest["counts"]["accepted"], accepted)
    sample = read_table(folder / SAMPLE, FileSum(**manifest["files"][SAMPLE]))
    if not sample.equals(draw(said, options, None, How())):
        problems.add(f"{SAMPLE}: another sample than the one that is drawn by its seed")
    return f"{sample.num_rows:,} of {accepted:,} rows, drawn again"
