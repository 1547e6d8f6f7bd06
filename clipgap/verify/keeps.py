"""What can be checked of a keep-list without scoring anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.documents import MANIFEST
from clipgap.files.remote import source_of
from clipgap.keep.lists import DATACOMP, REFERENCE, KeepList, bitmap_name, keep_name
from clipgap.keep.uids import UID, parse_uids
from clipgap.scan.manifest import differences
from clipgap.store.base import Store
from clipgap.store.opening import open_store
from clipgap.verify.checks import Problems
from clipgap.verify.evidence import named


def check_bitmaps(keep: KeepList, problems: Problems) -> str:
    """Bitmaps, tables and counts say the same."""
    keyed = False
    for shard in keep.shards:
        rows = keep.rows_of(shard.index)
        if len(rows) != shard.kept:
            problems.add(
                f"{bitmap_name(shard.index)} keeps {len(rows):,} rows, the manifest says "
                f"{shard.kept:,}"
            )
        table = keep.table(shard.index)
        keyed |= table["key"].null_count < table.num_rows
        same = np.array_equal(table["row"].to_numpy(), rows)
        if not same or set(table["shard"].unique().to_pylist()) - {shard.index}:
            problems.add(f"{keep_name(shard.index)} keeps other rows than its bitmap")
    problems.differ("kind", keep.manifest["kind"], "keep")
    problems.differ("rows", keep.manifest["counts"]["rows"], sum(s.rows for s in keep.shards))
    problems.differ("rows kept", keep.manifest["counts"]["kept"], sum(s.kept for s in keep.shards))
    problems.differ("keys", keep.manifest["keys"], keyed)
    return f"{keep.kept:,} of {keep.rows:,} rows are kept"


def check_uids(keep: KeepList, problems: Problems) -> str:
    """DataComp's file of uids, if all keys are uids, lists just those of the kept rows."""
    listed = DATACOMP in keep.manifest["files"]
    held = np.load(source_of(keep.path / DATACOMP)) if listed else np.zeros(0, UID)
    uids = _comparable(np.stack([held["f0"], held["f1"]]))
    if (uids[1:] <= uids[:-1]).any():
        problems.add(f"{DATACOMP} is no ascending list of uids")
        return ""
    seen, all_uids = np.zeros(len(uids), np.bool_), keep.has_keys
    for shard in keep.shards if all_uids else ():
        for table in keep.row_groups(shard.index):
            halves = parse_uids(table["key"].combine_chunks())
            all_uids &= halves is not None
            if halves is None or not listed:
                break
            wanted = _comparable(halves)
            place = np.minimum(np.searchsorted(uids, wanted), max(0, len(uids) - 1))
            if len(wanted) and (not len(uids) or (uids[place] != wanted).any()):
                problems.add(f"{DATACOMP} lacks uids of {keep_name(shard.index)}")
            seen[place] = True
    if listed != all_uids:
        problems.add(f"{DATACOMP} should {'not ' if listed else ''}be there")
    elif not seen.all():
        problems.add(f"{DATACOMP} lists {np.count_nonzero(~seen):,} uids that are not kept")
    return f"{len(uids):,} uids" if listed else "the keys are not uids"


def _comparable(halves: NDArray[np.uint64]) -> NDArray[np.bytes_]:
    """Uids in two halves as bytes that have their order."""
    return np.ascontiguousarray(halves.T.astype(">u8")).view("S16")[:, 0]


def check_keys(keep: KeepList, store: Store, problems: Problems) -> str:
    """Each kept row has the key that the store has for it."""
    if not store.has_keys:
        return "the store has no keys"
    for shard in keep.shards:
        keys = store.take_keys(shard.index, keep.rows_of(shard.index))
        stated = keep.keys(shard.index)
        if stated.to_pylist() != (keys.to_pylist() if keys is not None else []):
            problems.add(f"{keep_name(shard.index)}: keys are not those of {shard.name}")
    return f"{keep.kept:,} keys are those of the store"


def check_store(keep: KeepList, store: Store, problems: Problems) -> str:
    """The rows are those that the keep-list is about."""
    found = differences(keep.manifest["store"], store.identity(), "inputs train")
    problems.add_all(text for *_, text in found)
    return f"{store.path} is unchanged"


def check_sizes(
    keep: KeepList, rule: Mapping[str, Any], sizes: Mapping[str, Any], problems: Problems
) -> str:
    """The manifest says of the rule, and of what it came to, what was found anew."""
    stated = {key: value for key, value in keep.manifest["rule"].items() if key != "reference"}
    _compare("rule", stated, rule, problems)
    if said := keep.manifest.get("sizes"):
        _compare("sizes", said, sizes, problems)
    return "as they were counted anew"


def _compare(
    what: str, stated: Mapping[str, Any], found: Mapping[str, Any], problems: Problems
) -> None:
    for key in sorted(stated.keys() | found.keys()):
        problems.differ(f"{what} {key}", stated.get(key), found.get(key))


def check_reference(keep: KeepList, problems: Problems) -> str:
    """The samples of a reference set that joins the split are those of its store."""
    said, table = keep.manifest["rule"].get("reference"), keep.reference()
    if said is None or table is None:
        if said is not None or table is not None or keep.manifest.get("reference") is not None:
            problems.add(f"{MANIFEST} and {REFERENCE} do not agree on whether there is a reference")
        return "no reference set joins the split"
    rows = [shard["rows"] for shard in said["store"]["shards"]]
    shards = np.repeat(np.arange(len(rows)), rows)
    places = np.concatenate([np.zeros(0, np.int64), *map(np.arange, rows)])
    problems.differ("reference rows", keep.manifest["reference"]["rows"], sum(rows))
    in_order = np.array_equal(table["shard"].to_numpy(), shards) and np.array_equal(
        table["row"].to_numpy(), places
    )
    if not in_order:
        problems.add(f"{REFERENCE} does not list the rows of the reference, in order")
        return ""
    before, _, after = said["caption"].partition("{class}")
    for row, caption in enumerate(table["caption"].to_pylist()):
        if not (caption.startswith(before) and caption.endswith(after)):
            problems.add(f"{REFERENCE}, row {row:,}: a caption that is not {said['caption']!r}")
    try:
        store = open_store(named(said["store"]["path"]))
    except InputError:
        return f"{len(places):,} samples; the reference store is not there, so keys as stated"
    problems.add_all(text for *_, text in differences(said["store"], store.identity()))
    if problems.count or not store.has_keys:
        return f"{len(places):,} samples of {store.path}"
    keys = [
        key
        for shard in store.shards
        for key in store.take_keys(shard.index, np.arange(shard.rows)).to_pylist()  # type: ignore[union-attr]
    ]
    if table["key"].to_pylist() != keys:
        problems.add(f"{REFERENCE}: keys are not those of {store.path}")
    return f"{len(places):,} samples of {store.path}"
