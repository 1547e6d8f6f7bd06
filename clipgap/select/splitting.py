"""`split`: from scans and a rule to a keep-list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import UsageError
from clipgap.keep.lists import KeepList
from clipgap.keep.writing import KeepWriter, Piece
from clipgap.kernels.options import Compute
from clipgap.options import Only, takes_options
from clipgap.runs.how import How
from clipgap.runs.output import spare
from clipgap.scan.result import ScanResult
from clipgap.select.columns import Block, ScanTables, open_tables
from clipgap.select.labels import Condition, Where
from clipgap.select.options import OPERATIONS, Operation, RuleOptions
from clipgap.select.reference import Reference
from clipgap.select.rules import Below, Core, Decision, Far, Near, Prune, Rand, Rule
from clipgap.select.sizes import Sizes
from clipgap.select.work import Workers
from clipgap.sheets import html
from clipgap.store.options import Mixing

Scan = str | Path | ScanResult
_RULES = (
    "--prune, --below, --near, --far, --core, --rand, --where, --union, --intersection, "
    "--difference"
)
_BY = ("below", "near", "far", "core")


@dataclass(frozen=True)
class Split:
    """What a split came to."""

    rule: Mapping[str, Any]
    sizes: Mapping[str, Any]
    keep: KeepList | None  # None: only counted, nothing was written
    already_complete: bool = False  # True: a resumed run found nothing to do
    mask: Callable[[int], NDArray[np.bool_]] = field(repr=False, kw_only=True)
    """Which rows of a shard are kept."""

    def __repr__(self) -> str:
        where = "counted only" if self.keep is None else str(self.keep.path)
        kept, rows = self.sizes["kept"], self.sizes["rows"]
        return f"<split {self.rule['name']}: {kept:,} of {rows:,} rows kept; {where}>"

    def _repr_html_(self) -> str:
        """A notebook's view: a line a test set that removes rows."""
        removed = self.sizes.get("by_set", {})
        rows = ((name, f"{one['removed']:,}") for name, one in removed.items())
        return html(repr(self), ("test set", "rows removed"), rows)

    @classmethod
    def written(cls, writer: KeepWriter, write: Callable[[KeepWriter], Mapping[str, Any]]) -> Split:
        """What `write` writes, which gives its sizes; or what was there already, and whole."""
        with writer:
            complete = writer.finished is not None
            if not complete:
                writer.note(sizes=write(writer))
        keep = writer.finish()
        return cls(keep.manifest["rule"], keep.sizes, keep, complete, mask=keep.bits)


@takes_options
def split(
    scans: Scan | Sequence[Scan],
    rule: Rule | None = None,
    *,
    out: str | Path | None = None,
    within: str | Path | KeepList | None = None,
    reference: Reference | None = None,
    named: RuleOptions,
    mixing: Mixing,
    compute: Annotated[Compute, Only("threads")],
    how: How,
) -> Split:
    """Apply a rule to the rows that some scans of one store scored.

    The rule is one of `clipgap.select.rules`, or is named with its options: `prune=["val"]`.
    The keep-list goes to the folder `out`; without it the split is only counted. `within` narrows
    the split to the rows of another keep-list, whatever the rule. `reference` adds the samples of a
    reference set. Rows without scores are never kept.
    """
    rule = _one_rule(rule, named)
    several = [scans] if isinstance(scans, str | Path | ScanResult) else list(scans)
    tables = open_tables(several, within)
    described: dict[str, Any] = {
        **rule.to_json(),
        **({} if tables.within is None else {"within": tables.within.cite()}),
        **({} if reference is None else {"reference": reference.to_json()}),
    }
    if reference is not None:
        met = reference.meet(tables.store, mixing)
        for note in met.notes:
            how.note(note)
        described["reference"] |= {"mixed_models": True} if met.is_mixed else {}
    workers = Workers(tables.shard_rows, compute.threads, how)
    if out is None:
        how.without_folder()
        work = _Work(tables, rule.ready(tables, workers), workers)
        return Split(described, work.count(), None, mask=work.mask)
    narrowed = None if tables.within is None else tables.within.path
    spare(Path(out), [*(scan.path for scan in tables.scans), narrowed], how)

    def write(writer: KeepWriter) -> Mapping[str, Any]:
        sizes = _Work(tables, rule.ready(tables, workers), workers).write(writer)
        if reference is not None:
            reference.write(writer)
        return sizes

    return Split.written(KeepWriter(out, tables.store, described, tables.sources(), how), write)


def _one_rule(rule: Rule | None, named: RuleOptions) -> Rule:
    if rule is None:
        chosen = rule_of(named)
        if isinstance(chosen, str):
            raise UsageError(f"{chosen} is of keep-lists: clipgap.combine({chosen!r}, [KEEP, …])")
        return chosen
    if not hasattr(rule, "ready"):
        raise UsageError(f"{rule!r} is no rule; give one, or its name, as in prune=['val']")
    if named.given():
        raise UsageError(f"{named.given()[0]} is given beside a rule; give one of them")
    return rule


def rule_of(options: RuleOptions) -> Rule | Operation:
    """The one rule that was asked for; refuses options that would do nothing."""
    given = options.given()
    if len(given) != 1:
        asked = " and ".join(f"--{name}" for name in given) or "none"
        raise UsageError(f"give exactly one of {_RULES}; given: {asked}")
    name = given[0]
    _refuse_idle("--by", options.by, name, *_BY)
    _refuse_idle("--offset", options.offset, name, "prune")
    _refuse_idle("--seed", options.seed, name, "rand")
    _refuse_idle("--labels", options.labels, name, "where")
    by = options.by
    if name in _BY and not by:
        raise UsageError(f"--{name} needs --by NAME: the test sets whose similarity counts")
    if options.prune:
        return Prune(options.prune, options.offset)
    if options.where:
        if options.labels is None:
            raise UsageError("--where needs --labels FILE: the table that has its columns")
        return Where(options.labels, tuple(map(Condition.parse, options.where)))
    if options.below is not None:
        return Below(options.below, by)
    if options.near is not None:
        return Near(options.near, by)
    if options.far is not None:
        return Far(options.far, by)
    if options.core is not None:
        return Core(options.core, by)
    if options.rand is not None:
        return Rand(options.rand, options.seed)
    return next(operation for operation in OPERATIONS if operation == name)


def _refuse_idle(option: str, value: object, rule: str, *uses: str) -> None:
    if value and rule not in uses:
        raise UsageError(
            f"{option} does nothing with --{rule}; it belongs to --{', --'.join(uses)}"
        )


@dataclass(frozen=True)
class _Work:
    """A decision on its way through the shards."""

    tables: ScanTables
    decision: Decision
    workers: Workers

    def count(self) -> dict[str, Any]:
        def count(shard: int) -> Sizes:
            sizes = Sizes.zero(self.decision.sets)
            for _ in self._masks(shard, sizes):
                self.workers.check()
            return sizes

        return self._sum(self.workers.each("counting", count))

    def write(self, writer: KeepWriter) -> dict[str, Any]:
        def write(shard: int) -> Sizes:
            sizes = Sizes.zero(self.decision.sets)
            writer.write(shard, self._pieces(shard, sizes))
            return sizes

        writer.begin()
        return self._sum(self.workers.each("writing", write, works=True))

    def mask(self, shard: int) -> NDArray[np.bool_]:
        masks = self._masks(shard, Sizes.zero(self.decision.sets))
        return np.concatenate([np.zeros(0, np.bool_), *(mask for _, mask in masks)])

    def _pieces(self, shard: int, sizes: Sizes) -> Iterator[Piece]:
        for block, mask in self._masks(shard, sizes, keys=True):
            self.workers.check()
            yield mask, block.keys.filter(pa.array(mask))  # type: ignore[union-attr]

    def _masks(
        self, shard: int, sizes: Sizes, keys: bool = False
    ) -> Iterator[tuple[Block, NDArray[np.bool_]]]:
        """Each block of a shard with what is kept of it; counts on the way."""
        choose = self.decision.shard(shard, sizes)
        columns, keys = self.decision.columns, keys or self.decision.keys
        for block in self.tables.blocks(shard, columns, keys=keys):
            chosen = choose(block)
            sizes.rows += block.rows
            sizes.candidates += len(chosen)
            sizes.kept += int(np.count_nonzero(chosen))
            yield block, block.spread(chosen)

    def _sum(self, shards: Sequence[Sizes]) -> dict[str, Any]:
        total = Sizes.zero(self.decision.sets)
        for sizes in shards:
            total.add(sizes)
        counts = total.to_json(self.tables.quarantined)
        return {**counts, **self.decision.facts}
