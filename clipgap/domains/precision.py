"""What a head accepts at a threshold: how precise that is, how sure, and where else.

All counts are of labelled rows. `prevalence` says how often each label occurs where the head will
be used; a label's rows then count as many times as they are rarer here than there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.heads.heads import LABELS
from clipgap.intervals import lower_bound, trials_for


@dataclass(frozen=True, eq=False)
class Scored:
    """The rows of a part, with what a head makes of them."""

    name: str
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]  # places in LABELS

    @cached_property
    def steps(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Every score, falling, and how many rows of each label are accepted at it: (n, 3)."""
        order = np.argsort(-self.scores, kind="stable")
        scores = self.scores[order]
        last = np.append(scores[1:] != scores[:-1], True)  # equal scores are accepted together
        hot = np.eye(len(LABELS), dtype=np.int64)[self.labels[order]]
        return scores[last], np.cumsum(hot, axis=0)[last]

    @property
    def _mine(self) -> int:
        return LABELS.index(self.name)

    def accepted(self, threshold: float) -> NDArray[np.int64]:
        """How many rows of each label are accepted."""
        return np.bincount(self.labels[self.scores >= threshold], minlength=len(LABELS))

    def lowest(self, precision: float) -> float:
        """The lowest threshold with at least this precision: the one that accepts most."""
        scores, counts = self.steps
        right, all_ = counts[:, self._mine], counts.sum(axis=1)
        wanted = Fraction(str(precision))  # as it was written, so that 49 of 50 are 0.98
        good = np.flatnonzero(right * wanted.denominator >= all_ * wanted.numerator)
        if not len(good):
            best = int(np.argmax(right / all_))
            raise InputError(
                f"no threshold of the head {self.name!r} has a precision of {precision:g} on the "
                f"{len(self.scores):,} rows that choose it: the best is "
                f"{right[best] / all_[best]:.4f}, at {all_[best]:,} accepted rows. Ask for less "
                "(--precision), or label more rows."
            )
        return float(scores[good[-1]])

    def at(
        self, threshold: float, wanted: float, prevalence: Mapping[str, float] | None
    ) -> dict[str, Any]:
        """What a manifest says of a threshold."""
        counts = self.accepted(threshold)
        accepted, right = int(counts.sum()), int(counts[self._mine])
        there = np.bincount(self.labels, minlength=len(LABELS))
        found = {
            "accepted": accepted,
            "wrong": accepted - right,
            "by_label": dict(zip(LABELS, counts.tolist(), strict=True)),
            "labelled": dict(zip(LABELS, there.tolist(), strict=True)),
            "precision": right / accepted if accepted else None,
            "precision_at_least": lower_bound(right, accepted),
            "recall": right / int(there[self._mine]) if there[self._mine] else None,
            "volume": accepted / len(self.scores),
        }
        found |= self._elsewhere(counts, there, prevalence)
        found["doubt"] = self._doubt(found, wanted)
        return found

    def _elsewhere(
        self,
        counts: NDArray[np.int64],
        there: NDArray[np.int64],
        prevalence: Mapping[str, float] | None,
    ) -> dict[str, float | None]:
        """Precision and volume where labels are as common as declared."""
        if prevalence is None:
            return {"precision_at_prevalence": None, "volume_at_prevalence": None}
        shares = np.array([prevalence[label] for label in LABELS])
        rates = counts / np.maximum(there, 1)
        volume = float((shares * rates).sum())
        mine = float(shares[self._mine] * rates[self._mine])
        return {
            "precision_at_prevalence": mine / volume if volume else None,
            "volume_at_prevalence": volume,
        }

    def _doubt(self, found: Mapping[str, Any], wanted: float) -> str | None:
        """Why the wanted precision is not shown; None if it is."""
        sure, accepted = found["precision_at_least"], found["accepted"]
        if sure >= wanted:
            return None
        needed = trials_for(wanted)
        said = (
            f"a precision of {wanted:g} is not shown: of {accepted:,} accepted test rows "
            f"{found['wrong']:,} are wrong, so it is {sure:.4f} or more (95 %)"
        )
        if accepted < needed:
            said += f"; even without an error it takes {needed:,} accepted rows"
        return said

    def curve(self, prevalence: Mapping[str, float] | None) -> Iterator[dict[str, Any]]:
        """A row of the curve for each score that occurs."""
        scores, counts = self.steps
        there = np.bincount(self.labels, minlength=len(LABELS))
        for score, accepted in zip(scores.tolist(), counts, strict=True):
            all_, right = int(accepted.sum()), int(accepted[self._mine])
            yield {
                "head": self.name,
                "threshold": score,
                "accepted": all_,
                "wrong": all_ - right,
                "precision": right / all_,
                "recall": right / int(there[self._mine]) if there[self._mine] else None,
                "volume": all_ / len(self.scores),
                **self._elsewhere(accepted, there, prevalence),
            }
