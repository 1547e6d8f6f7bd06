"""Splits, proved from the stores, and the certificate that says what was proved.

A pruned split is proved by four claims, each over all rows:

(a) no kept row exceeds a threshold: kept rows are scored anew against all test points;
(b) every removed row has its witness: the test point that the scan names is scored in NumPy;
(c) maximality: removed rows are scored anew too, and each exceeds some threshold;
(d) kept rows and reference rows together have the reference's gap at every test point.

Splits by one similarity for all are proved by (a) and (c) with that limit, splits of a size by that
size and by the order of kept and removed rows.
Deduplicated stores are clustered again, and the rows of each cluster compared. Mixes are counted
anew, and the order of kept and removed rows is compared. All other splits are made again and
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipgap.files.documents import MANIFEST, checksum
from clipgap.keep.certificates import withdraw_certificate, write_certificate
from clipgap.keep.lists import KeepList, read_keep
from clipgap.scan.inputs import LoadedTest
from clipgap.scan.manifest import differences
from clipgap.scan.result import ScanResult
from clipgap.select.columns import ScanTables, open_tables
from clipgap.select.options import OPERATIONS
from clipgap.store.base import Store
from clipgap.store.opening import open_store
from clipgap.verify.again import RULES, check_combined, check_emulated, check_made_again
from clipgap.verify.checks import Asked, Check, Checks, Problems, check_files
from clipgap.verify.claims import (
    Claim,
    Claims,
    Feed,
    LimitClaims,
    Means,
    OrderClaims,
    check_joint_gap,
    check_witnesses,
    read_blocks,
)
from clipgap.verify.dedup import check_dedup, dedup_claims
from clipgap.verify.emulate import RULE as EMULATE
from clipgap.verify.evidence import Evidence, check_gap, check_inputs, named
from clipgap.verify.keeps import (
    check_bitmaps,
    check_keys,
    check_reference,
    check_sizes,
    check_store,
    check_uids,
)
from clipgap.verify.mixes import check_labels, mix_claims
from clipgap.version import __version__


def prove_split(asked: Asked, checks: Checks) -> Path | None:
    """Check a keep-list by its rule; if all of it is right, write the certificate."""
    keep = read_keep(asked.path)
    proof = _Proof(keep, asked, Means(asked.compute, asked.on_progress), checks)
    checks.make(
        "checksums", check_files, keep.path, keep.manifest["files"], "keep-list", checks.count
    )
    for name, look in (
        ("bitmaps", check_bitmaps),
        ("uids", check_uids),
        ("reference", check_reference),
    ):
        if checks.all_good:
            checks.make(name, look, keep)
    claims = proof.claims() if checks.all_good else []
    if asked.certify is None:
        return None
    if not checks.all_good:
        withdraw_certificate(asked.certify, keep)
        return None
    write_certificate(asked.certify, certificate(keep, proof.scans, checks.done, claims))
    return asked.certify


@dataclass
class _Proof:
    """The proof of one keep-list, by its rule."""

    keep: KeepList
    asked: Asked
    means: Means
    checks: Checks
    scans: tuple[ScanResult, ...] = ()

    def claims(self) -> list[Claim]:
        """Make the checks that the rule asks for; the claims among them."""
        keep, rule, make = self.keep, self.keep.manifest["rule"], self.checks.make
        name, tables = rule.get("name"), self._tables()
        if not self.checks.all_good:
            return []
        claims: list[Claim] = []
        if name == "dedup" and tables is None:
            store = self._store()
            if store is not None:
                claims, sizes, noted = dedup_claims(keep, store, self.means)
                self._add(claims)
                make("sizes", check_dedup, keep, sizes, noted)
        elif name == "mix" and tables is None:
            claims = self._mix_claims()
        elif name in OPERATIONS and tables is None:
            make("made again", check_combined, keep)
        elif name in RULES and tables is not None:
            if name in _SCORED:
                scored = _Scored.load(keep, tables, self.asked, self.means)
                scored.check_inputs(self.checks)
                claims = scored.claims() if self.checks.all_good else []
                self._add(claims)
            if self.checks.all_good:
                make("made again", check_made_again, keep, tables, RULES[name](rule))
        elif name == EMULATE and tables is not None:
            make("made again", check_emulated, keep, tables, self.asked)
        else:
            problems = Problems()
            problems.add(
                f"{MANIFEST}: the rule {name!r} of {len(self.scans):,} scans is none that clipgap "
                "knows, so nothing can be proved of it"
            )
            self.checks.add("rule", problems, "")
        return claims

    def _mix_claims(self) -> list[Claim]:
        store = self._store()
        self.checks.make("labels", check_labels, self.keep)
        if store is None or not self.checks.all_good:
            return []
        problems = Problems()
        claims, rule, sizes = mix_claims(self.keep, store, self.means, problems)
        self._add(claims)
        self.checks.add("sizes", problems, check_sizes(self.keep, rule, sizes, problems))
        return claims

    def _add(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            title = f"({claim.name})" if len(claim.name) == 1 else claim.name
            self.checks.add(title, claim.problems, f"{claim.says}: {claim.rows:,} checked")

    def _tables(self) -> ScanTables | None:
        manifest = self.keep.manifest
        if not manifest["scans"]:
            return None
        within = manifest["rule"].get("within")
        tables = open_tables(
            [scan["path"] for scan in manifest["scans"]], within and within["path"]
        )
        self.scans = tables.scans
        self.checks.make("scans", _check_scans, self.keep, tables)
        return tables

    def _store(self) -> Store | None:
        """The store of a keep-list that no scan stands behind; None if it is another one."""
        train = self.asked.train
        store = open_store(named(self.keep.manifest["store"]["path"]) if train is None else train)
        self.checks.make("inputs", check_store, self.keep, store)
        self.checks.make("keys", check_keys, self.keep, store)
        return store if self.checks.all_good else None


@dataclass(frozen=True)
class _Scored:
    """A split by thresholds or by similarity, with all that it takes to score it anew."""

    keep: KeepList
    tables: ScanTables
    evidence: tuple[Evidence, ...]  # a scan each
    tests: tuple[LoadedTest, ...]  # those that the rule names
    means: Means

    @classmethod
    def load(cls, keep: KeepList, tables: ScanTables, asked: Asked, means: Means) -> _Scored:
        rule, tests = keep.manifest["rule"], asked.tests
        names = rule["sets"] if rule["name"] == "prune" else rule["by"]
        tables.set_columns([*names, *(name for name in tests if name not in names)])
        evidence = []
        for scan in tables.scans:
            here = {name: tests[name] for name in tests if name in scan.test_names}
            evidence.append(Evidence.load(scan, asked.train, here))
        loaded = {test.name: test for part in evidence for test in part.tests}
        return cls(keep, tables, tuple(evidence), tuple(loaded[name] for name in names), means)

    def check_inputs(self, checks: Checks) -> None:
        for scan, part in zip(self.tables.scans, self.evidence, strict=True):
            checks.make("inputs", check_inputs, scan, part)
            checks.make("thresholds", check_gap, scan)
        checks.make("keys", check_keys, self.keep, self.evidence[0].plan.train)

    def claims(self) -> list[Claim]:
        """Score every row that the split could have kept."""
        rule = self.keep.manifest["rule"]
        if rule["name"] != "prune":
            is_limited = rule["name"] == "below"
            claims: Claims = (
                LimitClaims.below(self.keep, self.tests) if is_limited else OrderClaims(self.keep)
            )
            self._rescan(claims)
            return [*claims.finish(), claims.strangers]
        prune = LimitClaims.pruned(self.keep, self.tests)
        best = dict(zip([test.name for test in self.tests], self._rescan(prune), strict=True))
        tests = {test.name: test for test in self.tests}
        witnesses = check_witnesses(self.keep, self.tables, self.evidence[0], tests, self.means)
        clean, maximal = prune.finish()
        found = [clean, witnesses, maximal]
        if rule["offset"] <= 0:
            found.append(
                check_joint_gap(self.keep, self.tables.scans, self.tests, best, self.means)
            )
        return [*found, prune.strangers]

    def _rescan(self, claims: Claims) -> list[Any]:
        """Show the claims every row; returns the best scores among kept rows, per test set."""
        store, scan = self.evidence[0].plan.train, self.tables.scans[0]
        kept = Feed(self.tests, self.means, claims.kept)
        removed = Feed(self.tests, self.means, claims.removed)
        bad_rows = scan.manifest["settings"]["bad_rows"]
        for block in read_blocks(store, bad_rows, self.means, "verifying"):
            start, stop = block.start, block.start + len(block.status)
            bits = self.keep.bits(block.shard, start, stop)
            candidates = block.ok
            if self.tables.within is not None:
                candidates = candidates & self.tables.within.bits(block.shard, start, stop)
            claims.note_strangers(block.shard, start + np.flatnonzero(bits & ~candidates))
            mine = (bits & candidates)[block.ok]
            kept.add(block.rows[mine], block.ids[mine])
            others = (~bits & candidates)[block.ok]
            removed.add(block.rows[others], block.ids[others])
        removed.flush()
        return kept.best()


def _check_scans(keep: KeepList, tables: ScanTables, problems: Problems) -> str:
    """The scans, and the keep-list that the split lies within, are those it was made from."""
    for scan, was in zip(tables.scans, keep.manifest["scans"], strict=True):
        if checksum(scan.manifest) != was["manifest_sha256"]:
            problems.add(f"{scan.label} is no longer the scan that the split was made from")
    found = differences(keep.manifest["store"], tables.store, "inputs train")
    problems.add_all(text for *_, text in found)
    within = keep.manifest["rule"].get("within")
    if tables.within is not None and checksum(tables.within.manifest) != within["manifest_sha256"]:
        problems.add(f"{tables.within.path} is no longer the keep-list that was given as --within")
    return "what the split was made from is unchanged"


_SCORED = ("prune", "below", "near", "far", "core")
"""Those that are proved by scoring every row anew."""


def certificate(
    keep: KeepList, scans: Sequence[ScanResult], checks: Sequence[Check], claims: Sequence[Claim]
) -> dict[str, Any]:
    """Plain data; the fingerprints tell which stores, scans and files it is about."""
    store = keep.manifest["store"]
    return {
        "holds": all(check.ok for check in checks),
        "keep": {
            "path": str(keep.path),
            "manifest_sha256": checksum(keep.manifest),
            "rule": keep.manifest["rule"],
            "rows": keep.rows,
            "kept": keep.kept,
        },
        "store": {
            "path": store["path"],
            "shards": {shard["name"]: shard["fingerprint"] for shard in store["shards"]},
        },
        "scans": [_scan(scan) for scan in scans],
        "claims": {claim.name: _claim(claim) for claim in claims},
        "checks": {check.name: {"ok": check.ok, "detail": check.detail} for check in checks},
        "versions": {"clipgap": __version__, "numpy": np.__version__},
    }


def _scan(scan: ScanResult) -> dict[str, Any]:
    inputs = scan.manifest["inputs"]
    return {
        "path": scan.label,
        "manifest_sha256": checksum(scan.manifest),
        "tests": {test["name"]: test["sha256"] for test in inputs["tests"]},
        "gap": inputs["gap"],
    }


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "says": claim.says,
        "holds": not claim.problems.count,
        "checked": claim.rows,
        "contradicted": claim.problems.count,
        "contradictions": list(claim.problems.shown),
    }
