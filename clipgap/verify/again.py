"""Splits that no score decides: made again and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.keep.lists import KeepList, open_keep
from clipgap.select.algebra import combine
from clipgap.select.columns import ScanTables
from clipgap.select.labels import Condition, Where, cite_labels
from clipgap.select.options import OPERATIONS
from clipgap.select.output import cite
from clipgap.select.rules import Rand, Rule
from clipgap.select.splitting import split
from clipgap.verify.problems import Problems


def check_again(keep: KeepList, tables: ScanTables | None, problems: Problems) -> str:
    """The rule, applied to what the manifest names, keeps the same rows."""
    rule = keep.manifest["rule"]
    mask: Callable[[int], NDArray[np.bool_]]
    if rule["name"] in OPERATIONS:
        inputs = [open_keep(of["path"]) for of in rule["of"]]
        for one, was in zip(inputs, rule["of"], strict=True):
            if cite(one)["manifest_sha256"] != was["manifest_sha256"]:
                problems.add(f"{one.path} is no longer the keep-list that was combined")
        mask = combine(rule["name"], inputs).mask
    elif tables is not None and rule["name"] in ("rand", "where"):
        again = _rule(rule, problems)
        mask = split(tables.scans, again, within=tables.within).mask
    else:
        return f"nothing is known of the rule {rule['name']!r}; only the files were checked"
    for shard in keep.shards:
        wrong = np.flatnonzero(mask(shard.index) != keep.bits(shard.index))
        problems.at(
            wrong,
            f"shard {shard.index:,} ({shard.name}), row {{:,}}: the rule says otherwise".format,
        )
    return f"the rule {rule['name']!r} keeps the same {keep.kept:,} rows"


def _rule(rule: Mapping[str, Any], problems: Problems) -> Rule:
    if rule["name"] == "rand":
        return Rand(rule["n"], rule["seed"])
    labels = rule["labels"]["path"]
    if cite_labels(labels)["sha256"] != rule["labels"]["sha256"]:
        problems.add(f"{labels} is no longer the table of labels that was used")
    return Where(labels, tuple(map(Condition.parse, rule["conditions"])))
