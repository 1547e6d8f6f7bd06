"""`verify_split`: proves a split right from the stores, and writes down what was proved.

A pruned split is proved by four claims, each over all rows:

(a) no kept row exceeds a threshold: kept rows are scored anew against all test points;
(b) every removed row has its witness: the test point that the scan names is scored in NumPy;
(c) maximality: removed rows are scored anew too, and each exceeds some threshold;
(d) kept rows and reference rows together have the reference's gap at every test point.

Splits by similarity are proved by their size and by the order of kept and removed rows.
Deduplicated stores are clustered again, and the rows of each cluster compared. All other splits are
made again and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.files.documents import MANIFEST, checksum
from clipgap.keep.certificates import write_certificate
from clipgap.keep.lists import KeepList, bitmap_name, keep_name, open_keep
from clipgap.kernels.options import Compute
from clipgap.options import takes_options
from clipgap.runs.how import OnProgress, ignore
from clipgap.scan.inputs import LoadedTest
from clipgap.scan.manifest import differences
from clipgap.scan.result import ScanResult
from clipgap.select.algebra import combine
from clipgap.select.columns import ScanTables, open_tables
from clipgap.select.labels import Condition, Where, cite_labels
from clipgap.select.options import OPERATIONS
from clipgap.select.rules import Rand, Rule
from clipgap.select.splitting import split
from clipgap.store.base import Store
from clipgap.store.opening import open_store
from clipgap.verify.api import load_evidence
from clipgap.verify.checks import Check, Checks, Problems, VerifyReport
from clipgap.verify.claims import (
    Claim,
    Claims,
    Feed,
    Means,
    OrderClaims,
    PruneClaims,
    check_joint_gap,
    check_witnesses,
    read_blocks,
)
from clipgap.verify.dedup import dedup_claims
from clipgap.verify.scans import Evidence, check_gap, check_inputs
from clipgap.version import __version__

_BY_ORDER = ("near", "far", "core")


@takes_options
def verify_split(
    path: str | Path,
    *,
    train: Any = None,
    tests: Mapping[str, Any] | None = None,
    certify: str | Path | None = None,
    on_progress: OnProgress | None = None,
    compute: Compute,
) -> VerifyReport:
    """Check a keep-list by its rule; `certify` is where to write the certificate, as JSON.

    `train` and `tests` say where the stores lie now, if not where the scans say.
    """
    keep, rule = open_keep(path), open_keep(path).manifest["rule"]
    means = Means(compute, on_progress or ignore)
    checks, claims = Checks(means.on_progress), list[Claim]()
    tables: ScanTables | None = None
    checks.make("checksums", check_files, keep)
    if checks.all_good:
        checks.make("bitmaps", check_bitmaps, keep)
    if checks.all_good and keep.manifest["scans"]:
        within = rule.get("within")
        tables = open_tables(
            [scan["path"] for scan in keep.manifest["scans"]], within and within["path"]
        )
        checks.make("scans", _check_scans, keep, tables)
    if checks.all_good and tables is not None and rule["name"] in ("prune", *_BY_ORDER):
        proof = _Proof.load(keep, tables, train, tests or {}, means)
        proof.check_inputs(checks)
        if checks.all_good:
            claims += proof.claims()
    elif checks.all_good and rule["name"] == "dedup":
        store = open_store(train or keep.manifest["store"]["path"])
        checks.make("inputs", _check_store, keep, store)
        checks.make("keys", check_keys, keep, store)
        if checks.all_good:
            claims += dedup_claims(keep, store, means)
    elif checks.all_good:
        checks.make("made again", check_again, keep, tables)
    for claim in claims:
        checks.add(_title(claim), claim.problems, f"{claim.says}: {claim.rows:,} checked")
    report = VerifyReport(str(path), tuple(checks.done))
    if certify is not None:
        scans = () if tables is None else tables.scans
        write_certificate(Path(certify), certificate(keep, scans, report.checks, claims))
    return report


@dataclass(frozen=True)
class _Proof:
    """A split by thresholds or by similarity, with all that it takes to score it anew."""

    keep: KeepList
    tables: ScanTables
    evidence: tuple[Evidence, ...]  # a scan each
    tests: tuple[LoadedTest, ...]  # those that the rule names
    means: Means

    @classmethod
    def load(
        cls, keep: KeepList, tables: ScanTables, train: Any, tests: Mapping[str, Any], means: Means
    ) -> _Proof:
        rule = keep.manifest["rule"]
        names = rule["sets"] if rule["name"] == "prune" else rule["by"]
        tables.set_columns([*names, *(name for name in tests if name not in names)])
        evidence = []
        for scan in tables.scans:
            here = {name: tests[name] for name in tests if name in scan.test_names}
            evidence.append(load_evidence(scan, train, here))
        loaded = {test.name: test for part in evidence for test in part.tests}
        return cls(keep, tables, tuple(evidence), tuple(loaded[name] for name in names), means)

    def check_inputs(self, checks: Checks) -> None:
        for scan, part in zip(self.tables.scans, self.evidence, strict=True):
            checks.make("inputs", check_inputs, scan, part)
            checks.make("thresholds", check_gap, scan)
        checks.make("keys", check_keys, self.keep, self.evidence[0].plan.train)

    def claims(self) -> list[Claim]:
        """Score every row that the split could have kept."""
        if self.keep.manifest["rule"]["name"] != "prune":
            order = OrderClaims(self.keep)
            self._rescan(order)
            return [*order.finish(), order.strangers]
        prune = PruneClaims(self.keep, self.tests)
        best = dict(zip([test.name for test in self.tests], self._rescan(prune), strict=True))
        tests = {test.name: test for test in self.tests}
        witnesses = check_witnesses(self.keep, self.tables, self.evidence[0], tests)
        clean, maximal = prune.finish()
        found = [clean, witnesses, maximal]
        if prune.offset <= 0:
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


def _check_store(keep: KeepList, store: Store, problems: Problems) -> str:
    """The rows are those that the keep-list is about."""
    found = differences(keep.manifest["store"], store.identity(), "inputs train")
    problems.add_all(text for *_, text in found)
    return f"{store.path} is unchanged"


def _title(claim: Claim) -> str:
    return f"({claim.name})" if len(claim.name) == 1 else claim.name


def check_again(keep: KeepList, tables: ScanTables | None, problems: Problems) -> str:
    """The rule, applied to what the manifest names, keeps the same rows."""
    rule = keep.manifest["rule"]
    mask: Callable[[int], NDArray[np.bool_]]
    if rule["name"] in OPERATIONS:
        inputs = [open_keep(of["path"]) for of in rule["of"]]
        for one, was in zip(inputs, rule["of"], strict=True):
            if one.cite()["manifest_sha256"] != was["manifest_sha256"]:
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


def check_files(keep: KeepList, problems: Problems) -> str:
    """Every file is there with its checksum, and no other."""
    listed = keep.manifest["files"]
    for name in keep.damaged():
        problems.add(f"{name} is damaged or missing: its SHA-256 is not that of the manifest")
    present = {
        path.relative_to(keep.path).as_posix() for path in keep.path.rglob("*") if path.is_file()
    }
    for name in sorted(present - listed.keys() - {MANIFEST}):
        problems.add(f"{name} does not belong to the keep-list")
    return f"{len(listed):,} files are as they were written"


def check_bitmaps(keep: KeepList, problems: Problems) -> str:
    """Bitmaps, tables and counts say the same."""
    for shard in keep.shards:
        rows = keep.rows_of(shard.index)
        if len(rows) != shard.kept:
            problems.add(
                f"{bitmap_name(shard.index)} keeps {len(rows):,} rows, the manifest says "
                f"{shard.kept:,}"
            )
        table = keep.table(shard.index)
        same = np.array_equal(table["row"].to_numpy(), rows)
        if not same or set(table["shard"].unique().to_pylist()) - {shard.index}:
            problems.add(f"{keep_name(shard.index)} keeps other rows than its bitmap")
    if keep.kept != sum(shard.kept for shard in keep.shards):
        problems.add(f"{MANIFEST}: {keep.kept:,} rows in all is not the sum over its shards")
    return f"{keep.kept:,} of {keep.rows:,} rows are kept"


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
