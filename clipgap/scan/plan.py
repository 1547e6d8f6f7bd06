"""What a scan will do, decided before anything is computed or written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError, UsageError
from clipgap.heads.heads import Heads, open_heads, require_model
from clipgap.heads.options import ByHeads
from clipgap.scan.options import ScanOptions
from clipgap.scan.outputs.base import RowOutput
from clipgap.scan.outputs.domain import Domain
from clipgap.scan.tables import TRAIN
from clipgap.store.base import Store
from clipgap.store.opening import open_store
from clipgap.store.options import Mixing
from clipgap.store.provenance import meet, models_in

if TYPE_CHECKING:
    from clipgap.scan.result import ScanResult


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ScanPlan:
    """A scan of `train` against `tests`, checked as far as headers go."""

    kind: str  # "scan" or "gap"
    train: Store
    tests: Mapping[str, Store]
    settings: ScanOptions
    gap: ScanResult | None = None  # its nn_sim[0] are the thresholds
    heads: Heads | None = None  # say the domain of each training row
    notes: tuple[str, ...] = ()
    is_mixed: bool = False  # stores of different models meet, as was asked for

    @property
    def test_rows(self) -> int:
        return sum(store.rows for store in self.tests.values())

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(shards + 1,): the training id of each shard's first row, then the number of rows."""
        return np.cumsum([0, *(shard.rows for shard in self.train.shards)], dtype=np.int64)

    @property
    def operations(self) -> int:
        """Multiplications and additions of all scores: 2·N·M·d."""
        return 2 * self.train.rows * self.test_rows * self.train.dim

    def has_gap(self, name: str) -> bool:
        return self.gap is not None and name in self.gap.test_names

    def added(self, threads: int = 1) -> tuple[RowOutput, ...]:
        """What the training table has besides the outputs of each scan."""
        return () if self.heads is None else (Domain(self.heads, threads),)

    def describe(self) -> dict[str, Any]:
        """The plan as plain data, for `--dry-run`."""
        return {
            "kind": self.kind,
            "train": _describe(self.train),
            "tests": {
                name: {**_describe(store), "gap": self.has_gap(name)}
                for name, store in self.tests.items()
            },
            "gap": None if self.gap is None else self.gap.label,
            **({} if self.heads is None else {"heads": str(self.heads.path)}),
            "settings": asdict(self.settings),
            "operations": self.operations,
            "notes": list(self.notes),
        }


def make_plan(
    kind: str,
    train: Any,
    tests: Mapping[str, Any],
    gap: ScanResult | None,
    settings: ScanOptions,
    mixing: Mixing,
    by: ByHeads | None = None,
) -> ScanPlan:
    """Open every store and check that they fit together; read headers, write nothing."""
    _check_names(list(tests))
    store = open_store(train)
    test_stores = {name: open_store(source) for name, source in tests.items()}
    for name, test in test_stores.items():
        if test.dim != store.dim:
            raise InputError(
                f"dimensions differ: {store.path} has rows of {store.dim:,} numbers, test set "
                f"{name!r} ({test.path}) has rows of {test.dim:,}. "
                "Embed both with the same model."
            )
        if test.rows == 0:
            raise InputError(f"test set {name!r} ({test.path}) has no rows")
    heads = None
    if by is not None and by.heads is not None:
        heads = open_heads(by.heads)
        require_model(heads, store, by.model)
    meeting = {f"{'reference' if kind == 'gap' else 'training store'} {store.path}": store.models}
    meeting |= {f"test set {name!r} ({s.path})": s.models for name, s in test_stores.items()}
    notes: tuple[str, ...] = ()
    if gap is not None:
        notes = _gap_notes(gap, list(tests), store)
        reference = gap.manifest["inputs"]["train"]
        meeting[f"reference {reference['path']} (of {gap.label})"] = models_in(reference)
    met = meet(meeting, mixing)
    return ScanPlan(kind, store, test_stores, settings, gap, heads, notes + met.notes, met.is_mixed)


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise UsageError("no test set given; name at least one, as NAME=STORE")
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name a test set: use letters, digits, '_', '.' and '-', "
                "beginning with a letter or a digit"
            )
        if name == TRAIN:
            raise UsageError(f"{TRAIN!r} names the training rows; call the test set something else")
    folded: dict[str, str] = {}
    for name in names:
        # NAME becomes a file name, and some file systems do not tell capitals from small letters.
        if other := folded.get(name.lower()):
            raise UsageError(f"test sets {other!r} and {name!r} differ at most in capital letters")
        folded[name.lower()] = name


def _gap_notes(gap: ScanResult, names: Sequence[str], train: Store) -> tuple[str, ...]:
    """What is odd about a gap; one that can prune nothing is refused."""
    missing = [name for name in names if name not in gap.test_names]
    if len(missing) == len(names):
        raise InputError(
            f"the gap {gap.label} knows none of the test sets {', '.join(names)}; "
            f"it has {', '.join(gap.test_names)}. Use the same names in both scans."
        )
    if _is_part_of(train, gap.manifest["inputs"]["train"]["shards"]):
        raise InputError(
            f"the gap {gap.label} is of {train.path} itself, so no row is nearer to a test point "
            "than the threshold and nothing would be pruned. Make the gap of the reference set: "
            "clipgap gap REFERENCE --test NAME=STORE -o GAP"
        )
    notes = [
        f"test set {name!r} is not in the gap {gap.label}: scanned without thresholds"
        for name in missing
    ]
    if gap.manifest["kind"] == "scan":
        notes.append(
            f"{gap.label} was made by `clipgap scan`, not by `clipgap gap`: the store it scanned "
            "counts as the reference"
        )
    if gap.rows > train.rows:
        notes.append(
            f"the reference of {gap.label} has {gap.rows:,} rows, more than the {train.rows:,} of "
            f"{train.path}; were the two swapped?"
        )
    return tuple(notes)


def _is_part_of(store: Store, shards: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all rows of a store are rows of one that a manifest tells the shards of."""
    those = {(shard["rows"], shard.get("fingerprint")) for shard in shards}
    ours = [shard for shard in store.shards if shard.rows]
    if not ours or not {shard.rows for shard in ours} <= {rows for rows, _ in those}:
        return False  # known without reading a thing
    return all((shard.rows, store.fingerprint(shard.index)) in those for shard in ours)


def _describe(store: Store) -> dict[str, Any]:
    size = sum(shard.rows * np.dtype(shard.dtype).itemsize * store.dim for shard in store.shards)
    return {
        "path": store.path,
        "format": store.format,
        "shards": len(store.shards),
        "rows": store.rows,
        "dim": store.dim,
        "bytes": size,
    }
