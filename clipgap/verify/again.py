"""Splits made again by their rule, from what they were made from, and compared row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import UsageError
from clipgap.files.documents import MANIFEST, checksum
from clipgap.keep.lists import KeepList, keep_name, open_keep, read_keep
from clipgap.select.algebra import combine
from clipgap.select.columns import ScanTables, require_same_store
from clipgap.select.labels import Condition, Where
from clipgap.select.rules import Below, Core, Far, Near, Prune, Rand, Rule
from clipgap.select.splitting import split
from clipgap.verify.checks import Asked, Problems
from clipgap.verify.emulate import emulate
from clipgap.verify.keeps import check_sizes
from clipgap.verify.options import Shortcuts


def _where(rule: Mapping[str, Any]) -> Rule:
    labels = rule["labels"]["path"]
    return Where(labels, tuple(map(Condition.parse, rule["conditions"])))


RULES: Mapping[str, Callable[[Mapping[str, Any]], Rule]] = {
    "prune": lambda rule: Prune(tuple(rule["sets"]), rule["offset"]),
    "below": lambda rule: Below(rule["sim"], tuple(rule["by"])),
    "near": lambda rule: Near(rule["n"], tuple(rule["by"])),
    "far": lambda rule: Far(rule["n"], tuple(rule["by"])),
    "core": lambda rule: Core(rule["n"], tuple(rule["by"])),
    "rand": lambda rule: Rand(rule["n"], rule["seed"]),
    "where": _where,
}
"""Rules that go by scans, from what a manifest says of them."""


def check_made_again(keep: KeepList, tables: ScanTables, rule: Rule, problems: Problems) -> str:
    """The rule, applied to the scans again, keeps the same rows, with their keys."""
    said = keep.manifest["rule"].get("labels")
    if said and rule.to_json()["labels"] != said:
        problems.add(f"{said['path']} is no longer the table of labels that was used")
        return ""
    again = split(tables.scans, rule, within=tables.within)
    _compare_rows(keep, again.mask, problems)
    for shard in () if problems.count else keep.shards:
        blocks = tables.blocks(shard.index, (), keys=True)
        keys = pa.chunked_array([b.keys for b in blocks], pa.string())
        if keep.keys(shard.index).to_pylist() != keys.take(keep.rows_of(shard.index)).to_pylist():
            problems.add(f"{keep_name(shard.index)}: keys are not those of the scan")
    check_sizes(keep, again.rule, again.sizes, problems)
    return f"the rule {again.rule['name']!r} keeps the same {keep.kept:,} rows"


def check_combined(keep: KeepList, problems: Problems) -> str:
    """The keep-lists, combined again, keep the same rows, with their keys."""
    rule = keep.manifest["rule"]
    inputs = [open_keep(of["path"]) for of in rule["of"]]
    for one, was in zip(inputs, rule["of"], strict=True):
        if checksum(one.manifest) != was["manifest_sha256"]:
            problems.add(f"{one.path} is no longer the keep-list that was combined")
    require_same_store(keep.manifest["store"], str(keep.path), inputs[0])
    again = combine(rule["name"], inputs)
    _compare_rows(keep, again.mask, problems)
    for shard in () if problems.count else keep.shards:
        keys = np.full(shard.rows, None, object)
        for one in reversed(inputs):  # the first list that has a row gives its key
            keys[one.bits(shard.index)] = one.keys(shard.index).to_pylist()
        if keep.keys(shard.index).to_pylist() != keys[keep.bits(shard.index)].tolist():
            problems.add(f"{keep_name(shard.index)}: keys are not those of the keep-lists")
    check_sizes(keep, again.rule, again.sizes, problems)
    return f"the rule {rule['name']!r} keeps the same {keep.kept:,} rows"


def check_emulated(keep: KeepList, tables: ScanTables, asked: Asked, problems: Problems) -> str:
    """The same shortcuts, taken again, keep the same rows."""
    rule = keep.manifest["rule"]
    try:
        options = Shortcuts(candidates=rule["candidates"], arithmetic=rule["arithmetic"])
    except (KeyError, TypeError, UsageError) as error:
        problems.add(f"{MANIFEST}: the rule is none that `clipgap emulate` writes: {error}")
        return ""
    with TemporaryDirectory(prefix="clipgap-") as folder:
        again = Path(folder) / "keep"
        emulate(tables.scans[0], out=again, train=asked.train, tests=asked.tests, **vars(options))
        made = read_keep(again).manifest
    problems.differ("rule", rule, made["rule"])
    for name, entry in sorted(keep.manifest["files"].items()):
        if made["files"].get(name) != entry:
            problems.add(f"{name} is not what the shortcuts make")
    return f"the shortcuts keep the same {keep.kept:,} rows"


def _compare_rows(
    keep: KeepList, mask: Callable[[int], NDArray[np.bool_]], problems: Problems
) -> None:
    for shard in keep.shards:
        wrong = np.flatnonzero(mask(shard.index) != keep.bits(shard.index))
        problems.at(
            wrong,
            f"shard {shard.index:,} ({shard.name}), row {{:,}}: the rule says otherwise".format,
        )
