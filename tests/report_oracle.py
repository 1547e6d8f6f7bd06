"""Every number of a report again, from the files that it was made of, without clipgap."""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq

Z = 1.959963984540054


def findings(inputs: Mapping[str, Any], paper: Mapping[str, Any]) -> dict[str, Any]:
    """What `report.json` must say of these inputs."""
    scans, (reference, gap) = inputs["scans"], next(iter(inputs["reference"].items()))
    (large, scan), *_ = scans.items()
    tests = sorted_like(scan, [path.stem for path in (scan / "test").iterdir()])
    train = rows(sorted((scan / "train").iterdir()))
    own = rows(sorted((gap / "train").iterdir()))
    near = {test: {large: best(scan, test), reference: best(gap, test)} for test in tests}
    keeps = {name: kept(path, len(train["row"])) for name, path in inputs["splits"].items()}
    summary = rows([inputs["evals"][0] / "summary.parquet"])
    return {
        "finding": finding(inputs["evals"][0], summary, large, keeps),
        "training": [
            training(large, scan, False, train),
            training(reference, gap, True, own),
        ],
        "tests": [test_set(test, near[test], reference) for test in tests],
        "normalised": [
            *normalised(large, train, near, reference, tests, True),
            *normalised(reference, own, near, reference, tests, False),
        ],
        "overlap": {
            "test_sets": [
                overlap(large, tests, [set_of(train[f"pruned_{test}"]) for test in tests])
            ],
            "splits": [overlap(large, list(keeps), [~keep for keep in keeps.values()])],
        },
        "splits": [
            {
                "name": name,
                "rows": len(keep),
                "kept": int(keep.sum()),
                "removed": int((~keep).sum()),
            }
            for name, keep in keeps.items()
        ],
        "accuracy": records(summary),
        "missing": {},
        "paired": records(rows([inputs["evals"][0] / "paired.parquet"])),
        "by_similarity": list(by_similarity(inputs["evals"][0], tests, summary, near, large)),
        "by_removed": by_removed(records(summary), keeps, large),
        "robustness": robustness(records(summary), paper, tests),
    }


def finding(folder: Path, summary: Any, large: str, keeps: Any) -> dict[str, Any]:
    """The only pruning whose difference to the whole set was bootstrapped; no control fits it."""
    split, test = "sketch-pruned", "sketch"
    (pair,) = (r for r in records(rows([folder / "paired.parquet"])) if r["set"] == test)
    assert (pair["first"], pair["second"]) == (large, split)
    top1 = {(r["checkpoint"], r["set"]): r for r in records(summary) if r["metric"] == "top1"}
    removed = int((~keeps[split]).sum())
    whole, left = (top1[name, test]["accuracy"] for name in (large, split))
    size, low, high = (f"{100 * pair[key]:.1f}" for key in ("difference", "low", "high"))
    return {
        "kind": "accuracy",
        "test": test,
        "training": large,
        "split": split,
        "control": None,
        "removed": removed,
        "difference": {key: pair[key] for key in ("difference", "low", "high")},
        "bars": [
            {
                "name": name,
                "label": label,
                "share": top1[name, test]["accuracy"],
                "low": top1[name, test]["low"],
                "high": top1[name, test]["high"],
            }
            for name, label in ((large, f"all of {large}"), (split, split))
        ],
        "says": f"Accuracy on sketch falls from {whole:.1%} to {left:.1%} when the {removed:,} "
        f"rows of {large} go that are nearer to sketch than the reference is: a difference of "
        f"{size} points (95\u00a0% {low} to {high}).".replace("-", "−"),
    }


def rows(paths: Iterable[Path]) -> dict[str, list[Any]]:
    tables = [pq.read_table(path).to_pydict() for path in paths]
    return {name: [v for table in tables for v in table[name]] for name in tables[0]}


def records(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def sorted_like(scan: Path, names: list[str]) -> list[str]:
    manifest = json.loads((scan / "manifest.json").read_text())
    order = [test["name"] for test in manifest["inputs"]["tests"]]
    return sorted(names, key=order.index)


def best(scan: Path, test: str) -> list[float]:
    return [
        sims[0] for sims in pq.read_table(scan / "test" / f"{test}.parquet")["nn_sim"].to_pylist()
    ]


def kept(path: Path, total: int) -> Any:
    mask = []
    manifest = json.loads((path / "manifest.json").read_text())
    for part, shard in enumerate(manifest["store"]["shards"]):
        here = np.zeros(shard["rows"], bool)
        here[pq.read_table(path / "keep" / f"part-{part:05d}.parquet")["row"].to_numpy()] = True
        mask.append(here)
    assert sum(map(len, mask)) == total
    return np.concatenate(mask)


def set_of(flags: list[bool]) -> Any:
    return np.array(flags, bool)


def training(name: str, scan: Path, is_reference: bool, columns: Any) -> dict[str, Any]:
    flags = {c.removeprefix("pruned_"): v for c, v in columns.items() if c.startswith("pruned_")}
    return {
        "name": name,
        "is_reference": is_reference,
        "rows": len(columns["row"]),
        "quarantined": 0,
        "pruned": {test: sum(values) for test, values in flags.items()},
        "pruned_by_any": sum(any(of_row) for of_row in zip(*flags.values(), strict=True)),
    }


def edges(steps: int) -> list[float]:
    return [b / steps for b in range(-steps, 2 * steps + 1)]


def histogram(
    values: Iterable[float], steps: int, last: int | None = None, upper: bool = False
) -> list[dict[str, Any]]:
    """Bins hold their lower edge, or their `upper` one."""
    bounds = edges(steps)
    place = bisect_left if upper else bisect_right
    bins = [place(bounds, value) - 1 - steps for value in values]
    if last is not None:
        bins = [min(b, last) for b in bins]
    counts = Counter(bins)
    return [
        {"low": b / steps, "high": (b + 1) / steps, "count": counts[b]}
        for b in range(min(bins), max(bins) + 1)
    ]


def test_set(test: str, near: Mapping[str, list[float]], reference: str) -> dict[str, Any]:
    found = {}
    for name, values in near.items():
        nearer = sum(s > t for s, t in zip(values, near[reference], strict=True))
        found[name] = {
            "scored": len(values),
            "mean": float(sum(map(Fraction, values))) / len(values),
            "median": median(values),
            "near_duplicates": sum(s > 0.95 for s in values),
            "near_duplicates_l2": sum(s > 0.99875 for s in values),
            "histogram": histogram(values, 50),
            "compared": len(values),
            "nearer": nearer,
            "nearer_share": nearer / len(values),
        }
    return {"name": test, "points": len(near[reference]), "reference": reference, "training": found}


def normalised(
    name: str, columns: Any, near: Any, reference: str, tests: list[str], prunes: bool
) -> Iterable[dict[str, Any]]:
    for test in tests:
        tau = near[test][reference]
        pairs = zip(columns[f"sim_{test}"], columns[f"nn_{test}"], strict=True)
        ratios = [sim / float(np.float32(tau[nearest])) for sim, nearest in pairs]
        series = {"all": ratios}
        if prunes:
            flags = columns[f"pruned_{test}"]
            series["pruned"] = [r for r, gone in zip(ratios, flags, strict=True) if not gone]
        for of, values in series.items():
            yield {
                "test": test,
                "training": name,
                "of": of,
                "rows": len(values),
                "close": sum(value > 0.9 for value in values),
                "histogram": histogram(values, 50, last=100, upper=True),
            }


def overlap(name: str, names: list[str], masks: list[Any]) -> dict[str, Any]:
    counts = [[int((a & b).sum()) for b in masks] for a in masks]
    return {"training": name, "names": names, "counts": counts}


def wilson(correct: int, n: int) -> tuple[float, float]:
    p, z2 = correct / n, Z * Z
    half = Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return (p + z2 / (2 * n) - half) / (1 + z2 / n), (p + z2 / (2 * n) + half) / (1 + z2 / n)


def by_similarity(
    folder: Path, tests: list[str], summary: Any, near: Any, large: str
) -> Iterable[dict[str, Any]]:
    for test in tests:
        for checkpoint in dict.fromkeys(summary["checkpoint"]):
            answers = rows([folder / "samples" / checkpoint / f"{test}.parquet"])["correct"]
            bins: dict[int, list[bool]] = {}
            for s, right in zip(near[test][large], answers, strict=True):
                bins.setdefault(bisect_right(edges(20), s) - 1 - 20, []).append(right)
            found = []
            for b, each in sorted(bins.items()):
                low, high = wilson(sum(each), len(each))
                found.append(
                    {
                        "low": b / 20,
                        "high": (b + 1) / 20,
                        "points": len(each),
                        "correct": sum(each),
                        "accuracy": sum(each) / len(each),
                        "accuracy_low": low,
                        "accuracy_high": high,
                    }
                )
            yield {"test": test, "checkpoint": checkpoint, "training": large, "bins": found}


FAMILIES = {
    "sketch-pruned": "prune by sketch",
    "val-pruned": "prune by val",
    "all-pruned": "prune by val, sketch",
    "near-90": "near by sketch",
    "near-70": "near by sketch",
    "far-90": "far by sketch",
    "far-70": "far by sketch",
    "rand-90": "rand, seed 1",
    "rand-70": "rand, seed 1",
}


def by_removed(summary: list[dict[str, Any]], keeps: Any, large: str) -> list[dict[str, Any]]:
    top1 = {(r["checkpoint"], r["set"]): r for r in summary if r["metric"] == "top1"}
    curves = []
    for test in dict.fromkeys(test for _, test in top1):
        for family in dict.fromkeys(FAMILIES.values()):
            points = []
            for name in [large, *(name for name, of in FAMILIES.items() if of == family)]:
                row = top1[name, test]
                removed = 0 if name == large else int((~keeps[name]).sum())
                kept_keys = {key: row[key] for key in ("samples", "accuracy", "low", "high")}
                points.append({"name": name, "removed": removed, **kept_keys})
            points.sort(key=lambda point: point["removed"])
            curves.append({"training": large, "test": test, "family": family, "points": points})
    return curves


def robustness(summary: Any, paper: Mapping[str, Any], tests: list[str]) -> dict[str, Any]:
    top1 = {(r["checkpoint"], r["set"]): r for r in summary if r["metric"] == "top1"}
    test = "sketch"
    models = [
        {
            "name": model["name"],
            "x": model["accuracy"]["val"] / 100,
            "y": model["accuracy"][test] / 100,
        }
        for model in paper["models"]
    ]

    def logit(share: float) -> float:
        return math.log(share / (1 - share))

    slope, intercept = np.polyfit(
        [logit(model["x"]) for model in models], [logit(model["y"]) for model in models], 1
    ).tolist()
    found = []
    for name in dict.fromkeys(name for name, _ in top1):
        x, y = top1[name, "val"]["accuracy"], top1[name, test]
        expected = 1 / (1 + math.exp(-(slope * logit(x) + intercept)))
        found.append(
            {
                "name": name,
                "x": x,
                "measured": y["accuracy"],
                "low": y["low"],
                "high": y["high"],
                "expected": expected,
                "effective_robustness": y["accuracy"] - expected,
            }
        )
    line = {"slope": slope, "intercept": intercept, "models": models, "checkpoints": found}
    return {"x": "val", "tests": [{"test": test, **line}]}
