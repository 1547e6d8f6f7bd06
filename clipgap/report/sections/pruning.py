"""What pruning takes: splits and their proofs, overlaps, how near training rows come to the gap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.files.documents import checksum
from clipgap.report.paper import printed
from clipgap.report.parts import Figure, Findings, Section, outlines, training_colours
from clipgap.report.sources import Sources, TrainingSet
from clipgap.report.svg import Entry
from clipgap.report.tables import Cell, Column, Table

CLOSE = 0.9  # normalised similarity above which a row counts as close to the gap
DENSITY_STEPS = 50
_LAST_BIN = 2 * DENSITY_STEPS  # of ratios above 2


def findings(sources: Sources) -> Findings:
    passes = [_pass(sources, one) for one in sources.training_sets]
    of_splits = [_split_overlap(sources, one) for one in sources.scans]
    return {
        "normalised": [series for found in passes for series in found.normalised],
        "overlap": {
            "test_sets": [found.overlap for found in passes if found.overlap is not None],
            "splits": [found for found in of_splits if found is not None],
        },
        "splits": list(_by_split(sources)),
    }


@dataclass
class _Ratios:
    """Counts of normalised similarities: score over the threshold of the nearest test point."""

    rows: int = 0
    close: int = 0
    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_LAST_BIN + 1, np.int64))

    def add(self, ratios: NDArray[np.float64]) -> None:
        self.rows += len(ratios)
        self.close += int(np.count_nonzero(ratios > CLOSE))
        # A bin holds its upper edge: a row exactly at its threshold is not pruned, nor above 1.
        bins = np.clip(np.ceil(ratios * DENSITY_STEPS) - 1, 0, _LAST_BIN).astype(np.int64)
        self.bins += np.bincount(bins, minlength=_LAST_BIN + 1)

    def to_json(self) -> dict[str, Any]:
        filled = np.flatnonzero(self.bins)
        some = range(filled[0], filled[-1] + 1) if len(filled) else range(0)
        return {
            "rows": self.rows,
            "close": self.close,
            "histogram": [
                {
                    "low": i / DENSITY_STEPS,
                    "high": (i + 1) / DENSITY_STEPS,
                    "count": int(self.bins[i]),
                }
                for i in some
            ],
        }


@dataclass(frozen=True)
class _Pass:
    """Of one pass over a training table."""

    normalised: list[dict[str, Any]]
    overlap: dict[str, Any] | None


def _pass(sources: Sources, training: TrainingSet) -> _Pass:
    """Normalised similarities and overlaps; nothing of it without a table or thresholds."""
    thresholds = {
        test: found[1]
        for test in training.scan.test_names
        if (found := sources.thresholds(test)) is not None
    }
    if not training.scan.manifest["settings"]["train_table"] or not thresholds:
        return _Pass([], None)
    gaps = [columns for columns in training.scan.set_columns if columns.has_gap]
    ratios = {
        test: {"all": _Ratios(), "pruned": _Ratios()} if _prunes(gaps, test) else {"all": _Ratios()}
        for test in thresholds
    }
    together = np.zeros((len(gaps), len(gaps)), np.int64)
    for batch in _batches(training, list(thresholds), [one.pruned for one in gaps]):
        pruned = {one.name: batch[one.pruned] for one in gaps}
        for test, tau in thresholds.items():
            normalised, usable = _normalised(batch[f"sim_{test}"], batch[f"nn_{test}"], tau)
            ratios[test]["all"].add(normalised[usable])
            if test in pruned:
                ratios[test]["pruned"].add(normalised[usable & ~pruned[test]])
        if gaps:
            masks = np.array(list(pruned.values()), np.float64)
            together += (masks @ masks.T).astype(np.int64)  # whole numbers far below 2^53
    return _Pass(
        [
            {"test": test, "training": training.name, "of": which, **counted.to_json()}
            for test, series in ratios.items()
            for which, counted in series.items()
        ],
        _overlap(training.name, [one.name for one in gaps], together) if len(gaps) > 1 else None,
    )


def _split_overlap(sources: Sources, training: TrainingSet) -> dict[str, Any] | None:
    """How many rows two splits removed alike."""
    splits = sources.splits_of(training)
    if len(splits) < 2:
        return None
    together = np.zeros((len(splits), len(splits)), np.int64)
    keeps = list(splits.values())
    for shard in range(len(keeps[0].shards)):
        removed = [~keep.bits(shard) for keep in keeps]
        for g, one in enumerate(removed):
            for h in range(g, len(removed)):
                together[g, h] += np.count_nonzero(one & removed[h])
    together = np.maximum(together, together.T)
    return _overlap(training.name, list(splits), together)


def _overlap(training: str, names: Sequence[str], counts: NDArray[np.int64]) -> dict[str, Any]:
    return {"training": training, "names": list(names), "counts": counts.tolist()}


def _prunes(gaps: Sequence[Any], test: str) -> bool:
    return any(columns.name == test for columns in gaps)


def _batches(
    training: TrainingSet, tests: Sequence[str], flags: Sequence[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    """The columns that are needed, a piece at a time; rows in quarantine have NaN and False."""
    scores = [column for test in tests for column in (f"sim_{test}", f"nn_{test}")]
    for batch in training.scan.train().to_batches(columns=[*scores, *flags]):
        columns = {}
        for name in scores:
            fill = float("nan") if name.startswith("sim_") else -1
            columns[name] = batch[name].fill_null(fill).to_numpy(zero_copy_only=False)
        for name in flags:
            columns[name] = batch[name].fill_null(False).to_numpy(zero_copy_only=False)
        yield columns


def _normalised(
    sim: NDArray[np.float32], nearest: NDArray[np.int32], tau: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Ratios, and where there is one: the row has a score and its point a positive threshold."""
    # As exact as the tables have scores, so that a row at its threshold has the ratio 1.
    tau = tau.astype(np.float32).astype(np.float64)
    at = tau[nearest] if len(tau) else np.full(len(nearest), np.nan)
    usable = ~np.isnan(sim) & (at > 0)
    ratios = np.divide(sim.astype(np.float64), at, where=usable, out=np.zeros(len(sim)))
    return ratios, usable


def _by_split(sources: Sources) -> Iterator[dict[str, Any]]:
    """Each split with its sizes, and its certificate where there is one that fits."""
    scanned = [(name, one.name) for one in sources.scans for name in sources.splits_of(one)]
    known = {name for name, _ in scanned}
    others = [
        (name, Path(keep.manifest["store"]["path"]).name)
        for name, keep in sources.splits.items()
        if name not in known
    ]
    for name, training in (*scanned, *others):
        keep = sources.splits[name]
        rule = keep.manifest["rule"]
        yield {
            "name": name,
            "training": training,
            "rule": rule,
            "says": describe_rule(rule),
            "family": family_of(rule),
            "rows": keep.rows,
            "kept": keep.kept,
            "removed": keep.rows - keep.kept,
            "sizes": keep.manifest.get("sizes"),
            "manifest_sha256": checksum(keep.manifest),
            "files": len(keep.manifest["files"]),
            "certificate": _certificate(sources.certificates.get(name)),
        }


def family_of(rule: Mapping[str, Any]) -> str:
    """Splits whose rules differ in nothing but their size lie on one curve."""
    if rule["name"] == "rand":
        return f"rand, seed {rule.get('seed', 0)}"
    sets = rule.get("by") or rule.get("sets") or rule.get("tests") or ()
    names = ", ".join(sets)
    return f"{rule['name']} by {names}" if names else str(rule["name"])


def describe_rule(rule: Mapping[str, Any]) -> str:
    """The rule in one line, as options of the command that made it."""
    parts = []
    for key, value in rule.items():
        if key == "name" or value in (None, [], {}) or (key == "offset" and not value):
            continue
        if isinstance(value, Mapping):
            value = value.get("path", "…")
        if isinstance(value, list | tuple):
            value = ", ".join(
                str(each.get("path", "…") if isinstance(each, Mapping) else each) for each in value
            )
        parts.append(f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}")
    return " · ".join([str(rule["name"]), *parts])


def _certificate(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What `clipgap verify` wrote beside the keep-list, as far as it is shown."""
    if found is None:
        return None
    return {
        "holds": found["holds"],
        "claims": {
            name: {key: claim[key] for key in ("says", "holds", "checked", "contradicted")}
            for name, claim in found["claims"].items()
        },
        "checks": {
            name: {"ok": check["ok"], "detail": check["detail"]}
            for name, check in found["checks"].items()
        },
    }


def _splits(findings: Findings) -> Iterator[Table]:
    yield Table(
        "splits",
        "Splits",
        "Rows of the store that each split keeps and removes.",
        (
            Column("split"),
            Column("of"),
            Column("rule"),
            Column("rows", "count"),
            Column("removed", "count"),
            Column("removed share", "percent"),
            Column("proof"),
        ),
        tuple(
            (
                Cell(split["name"]),
                Cell(split["training"]),
                Cell(split["says"]),
                Cell(split["rows"]),
                Cell(
                    split["removed"], paper=printed(findings, "rows", split["name"]).get("removed")
                ),
                Cell(split["removed"] / split["rows"] if split["rows"] else None),
                Cell(proof(split)),
            )
            for split in findings["splits"]
        ),
        of_splits=True,
    )


def proof(split: dict[str, Any]) -> str:
    if split["certificate"] is None:
        return "not verified"
    return "holds" if split["certificate"]["holds"] else "contradicted"


def badge(findings: Findings) -> tuple[str, str] | None:
    """What is proved of the split that the finding is about, or of all splits: state, and words."""
    splits = findings["splits"]
    about = (findings["finding"] or {}).get("split")
    chosen = [split for split in splits if split["name"] == about] or splits
    states = {proof(split) for split in chosen}
    if not states:
        return None
    worst = next(state for state in ("contradicted", "not verified", "holds") if state in states)
    whose = chosen[0]["name"] if len(chosen) == 1 else f"{len(chosen):,} splits"
    says = {
        "holds": f"Proved: every row of {whose} was scored anew, and the rule holds",
        "contradicted": f"Contradicted: the certificate of {whose} names rows that break the rule",
        "not verified": f"Not verified: clipgap verify proves {whose}, row by row",
    }
    return worst, says[worst]


def _close(findings: Findings) -> Iterator[Table]:
    rows = []
    pruned = {(s["test"], s["training"]) for s in findings["normalised"] if s["of"] == "pruned"}
    for series in findings["normalised"]:
        theirs = printed(findings, "tests", series["test"]).get("close", {}).get(series["training"])
        if series["of"] == "all" and (series["test"], series["training"]) in pruned:
            theirs = None  # the paper counts what pruning leaves
        rows.append(
            (
                Cell(series["test"]),
                Cell(series_name(series)),
                Cell(series["rows"]),
                Cell(series["close"], paper=theirs),
            )
        )
    yield Table(
        "close-to-the-gap",
        "Training rows close to the gap",
        "Rows whose similarity to their nearest test point exceeds 0.9 of the threshold τ there.",
        (
            Column("test set"),
            Column("training rows"),
            Column("rows", "count"),
            Column("above 0.9", "count"),
        ),
        tuple(rows),
    )


def series_name(series: dict[str, Any]) -> str:
    """How a series of training rows is called."""
    pruned = series["of"] == "pruned"
    return f"{series['training']}, pruned" if pruned else str(series["training"])


def _overlaps(findings: Findings) -> Iterator[Table]:
    captions = {
        "test_sets": ("test set", "Overlap of what test sets prune", "pruned by both test sets"),
        "splits": ("split", "Overlap of splits", "removed by both splits"),
    }
    for kind, matrices in findings["overlap"].items():
        first, title, says = captions[kind]
        for matrix in matrices:
            names = matrix["names"]
            yield Table(
                f"overlap-{kind.replace('_', '-')}-{matrices.index(matrix) + 1}",
                title,
                f"Rows of {matrix['training']} that are {says}; on the diagonal by one.",
                (Column(first), *(Column(name, "count") for name in names)),
                tuple(
                    (Cell(name), *map(Cell, counts))
                    for name, counts in zip(names, matrix["counts"], strict=True)
                ),
                is_matrix=True,
            )


def _density(findings: Findings) -> Iterator[Figure]:
    drawings = []
    colours = training_colours(findings)
    for test in dict.fromkeys(series["test"] for series in findings["normalised"]):
        # Where a set was pruned, what is left is what the figure is about.
        of_test = [series for series in findings["normalised"] if series["test"] == test]
        pruned = {series["training"] for series in of_test if series["of"] == "pruned"}
        shown = [
            series
            for series in of_test
            if series["histogram"]
            and (series["of"] == "pruned" or series["training"] not in pruned)
        ]
        if not shown:
            continue
        shares = {
            series_name(series): [
                (b["low"], b["high"], b["count"] / series["rows"]) for b in series["histogram"]
            ]
            for series in shown
        }
        legend = [Entry(series_name(series), colours[series["training"]]) for series in shown]
        drawings.append(
            outlines(
                test,
                shares,
                legend,
                "similarity / threshold τ of the nearest test point",
                "training rows (%)",
                "of the training rows",
            )
        )
    yield Figure(
        "normalised-similarity",
        "How close training rows are to the gap",
        "Similarity of each training row to its nearest test point, divided by the threshold τ "
        "there, in bins of 0.02. Above 1 lies only what pruning removes; rows at exactly 1 stay, "
        "and count below.",
        drawings,
    )


PRUNING = Section("pruning", "What pruning takes", findings, (_splits, _overlaps, _density, _close))
