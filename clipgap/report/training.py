"""What the training rows say: how near they come to the thresholds, and what is pruned together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.report.sources import Sources, TrainingSet

CLOSE = 0.9  # normalised similarity above which a row counts as close to the gap
DENSITY_STEPS = 50
_LAST_BIN = 2 * DENSITY_STEPS  # of ratios from 2 on


@dataclass
class _Ratios:
    """Counts of normalised similarities: score over the threshold of the nearest test point."""

    rows: int = 0
    close: int = 0
    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_LAST_BIN + 1, np.int64))

    def add(self, ratios: NDArray[np.float64]) -> None:
        self.rows += len(ratios)
        self.close += int(np.count_nonzero(ratios > CLOSE))
        bins = np.clip(np.floor(ratios * DENSITY_STEPS), 0, _LAST_BIN).astype(np.int64)
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
class TrainingFindings:
    """Of one pass over a training table."""

    normalised: list[dict[str, Any]]
    overlap: dict[str, Any] | None


def training_findings(sources: Sources, training: TrainingSet) -> TrainingFindings:
    """Normalised similarities and overlaps; nothing of it without a table or thresholds."""
    thresholds = {
        test: found[1]
        for test in training.scan.test_names
        if (found := sources.thresholds(test)) is not None
    }
    if not training.scan.manifest["settings"]["train_table"] or not thresholds:
        return TrainingFindings([], None)
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
    return TrainingFindings(
        [
            {"test": test, "training": training.name, "of": which, **counted.to_json()}
            for test, series in ratios.items()
            for which, counted in series.items()
        ],
        _overlap(training.name, [one.name for one in gaps], together) if len(gaps) > 1 else None,
    )


def split_overlap(sources: Sources, training: TrainingSet) -> dict[str, Any] | None:
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
    at = tau[nearest] if len(tau) else np.full(len(nearest), np.nan)
    usable = ~np.isnan(sim) & (at > 0)
    ratios = np.divide(sim.astype(np.float64), at, where=usable, out=np.zeros(len(sim)))
    return ratios, usable
