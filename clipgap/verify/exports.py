"""Exports: what the lists of the scan say of each item, derived anew where the scan is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from clipgap.errors import InputError
from clipgap.files.documents import MANIFEST, checksum
from clipgap.files.remote import path_of, source_of
from clipgap.scan.result import open_scan
from clipgap.verify.checks import Asked, Checks, Problems, json_of, read_checked
from clipgap.verify.evidence import Evidence, check_inputs
from clipgap.verify.export import (
    COLUMNS,
    KIND,
    SAMPLES,
    TABLE,
    TRAIN,
    embeddings_of,
    items_of,
    project,
)

_NEAR = 1e-4
"""Of the spread: processors differ in the last places of a projection."""


def prove_export(asked: Asked, checks: Checks) -> None:
    """The items are those of the scan, with their neighbours and embeddings."""
    manifest = read_checked(asked, checks, KIND)
    if checks.all_good:
        items = _items_in(asked.path, manifest)
        checks.make("counts", _check_counts, items, manifest)
        checks.make("items", _check_items, items, manifest)


def _items_in(folder: Path, manifest: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The columns of the table, by our names of them, whatever form it has."""
    if SAMPLES not in manifest["files"]:
        found: dict[str, list[Any]] = pq.read_table(source_of(folder / TABLE)).to_pydict()
        if "neighbors" in found:
            for name in ("ids", "distances"):
                found[f"neighbor_{name}"] = [each[name] for each in found["neighbors"]]
        return found
    samples = json_of(folder / SAMPLES)["samples"]
    names = {"neighbors": "neighbor_ids", "distances": "neighbor_distances"}
    names |= {name: name for name in (*COLUMNS.names, "x", "y", "embedding") if name not in names}
    return {ours: [one.get(theirs) for one in samples] for theirs, ours in names.items()}


def _check_counts(items: Mapping[str, Any], manifest: Mapping[str, Any], problems: Problems) -> str:
    counts: dict[str, int] = {}
    for name in items["set"]:
        counts[name] = counts.get(name, 0) + 1
    lists = zip(items["set"], items["neighbor_ids"], strict=True)
    longest = max((len(ids) for name, ids in lists if name != TRAIN), default=0)
    problems.differ("kind", manifest["kind"], "export")
    problems.differ("most", manifest["settings"]["most"], longest)
    problems.differ("counts", manifest["counts"], counts)
    to = "fiftyone" if SAMPLES in manifest["files"] else "spotlight"
    problems.differ("to", manifest["settings"]["to"], "atlas" if "neighbors" in items else to)
    return f"{len(items['set']):,} items"


def _check_items(items: Mapping[str, Any], manifest: Mapping[str, Any], problems: Problems) -> str:
    said, most = manifest["inputs"]["scan"], manifest["settings"]["most"]
    if not (path_of(said["path"]) / MANIFEST).exists():
        return f"the scan {said['path']!r} is not there, so the items are as stated"
    scan = open_scan(said["path"])
    if checksum(scan.manifest) != said["manifest_sha256"]:
        problems.add(f"{scan.path} is no longer the scan that was exported")
        return ""
    again = items_of(scan, most)
    lists = again["neighbors"].combine_chunks()
    columns = {name: again[name].to_pylist() for name in COLUMNS.names if name != "neighbors"}
    for name in ("ids", "distances"):
        columns[f"neighbor_{name}"] = lists.field(name).to_pylist()
    for name, values in columns.items():
        for number, (was, should) in enumerate(zip(items[name], values, strict=False)):
            if was != should:
                problems.add(f"item {number:,}: {name} is {was}, should be {should}")
    problems.differ("items", len(items["set"]), len(again))
    if problems.count:
        return ""
    try:
        evidence = Evidence.load(scan, None, {})
    except InputError:
        return f"{len(again):,} items as the scan has them; its stores are not there"
    check_inputs(scan, evidence, problems)
    rows = embeddings_of(again, evidence)
    if (held := items.get("embedding")) is not None and not np.array_equal(held, rows):
        problems.add("the embeddings are not those of the stores")
    at, now = np.column_stack([items["x"], items["y"]]), project(rows)
    if not np.allclose(at, now, rtol=0, atol=_NEAR * float(np.abs(now).max())):
        problems.add("x and y are not the first two principal components")
    return f"{len(again):,} items with their neighbours and embeddings"
