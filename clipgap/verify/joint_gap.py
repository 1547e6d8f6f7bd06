"""Claim (d) of a pruned split: together with the reference it is no nearer to any test point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.keep.lists import KeepList
from clipgap.scan.inputs import LoadedTest
from clipgap.scan.result import ScanResult, open_scan
from clipgap.store.base import Store
from clipgap.store.opening import open_store
from clipgap.verify.claims import Claim
from clipgap.verify.rescan import Means, best_scores

Best = Mapping[str, NDArray[np.float64]]
"""By test set: the highest score of each usable test point."""


def check_joint_gap(
    keep: KeepList,
    scans: Sequence[ScanResult],
    tests: Sequence[LoadedTest],
    kept: Best,
    means: Means,
) -> Claim:
    """The gap of kept rows and reference rows, both scored anew, must equal the thresholds."""
    claim = Claim("d", "kept rows and reference rows together have the reference's gap everywhere")
    for scan in scans:
        mine = [test for test in tests if test.name in scan.test_names]
        reference = _reference(keep, scan, mine, means) if mine else {}
        for test in mine:
            assert test.gap is not None
            if test.name not in reference:
                claim.says += f" (reference of {test.name} not found: its thresholds as stated)"
            joint = np.maximum(kept[test.name], reference.get(test.name, test.gap))
            claim.rows += len(joint)
            claim.problems.at(
                np.flatnonzero(joint != test.gap),
                lambda at, test=test, joint=joint: (  # type: ignore[misc]
                    f"test set {test.name}, row {test.row_of[at]:,}: the gap is {joint[at]}, "
                    f"that of the reference {test.gap[at]}"
                ),
            )
    return claim


def _reference(
    keep: KeepList, scan: ScanResult, tests: Sequence[LoadedTest], means: Means
) -> dict[str, NDArray[np.float64]]:
    """The scores of the reference set that joins the split, or else of the one of the gap."""
    bad_rows = "quarantine"
    try:
        joined: Any = keep.manifest["rule"].get("reference")
        if joined is None:
            gap = open_scan(scan.manifest["inputs"]["gap"]["path"])
            joined = {"store": gap.manifest["inputs"]["train"]}
        store: Store = open_store(joined["store"]["path"])
    except InputError:
        return {}
    found = best_scores(store, tests, bad_rows, means)
    return {test.name: best for test, best in zip(tests, found, strict=True)}
