"""Splits against a brute-force oracle, by equality: on scans, on tied data, on bad rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import clipgap
from clipgap.bench.scan_tables import write_manifest, write_part
from clipgap.errors import InputError, ResumeError, UsageError
from clipgap.keep.lists import KeepList, open_keep
from clipgap.keep.writing import KeepWriter
from clipgap.runs.how import How
from clipgap.scan.tables import SetColumns
from clipgap.select import order
from clipgap.select.rules import Core, Far, Near, Prune, Rand
from clipgap.select.splitting import Split
from tests.test_verify import sign
from tests.thorough import examples
from tests.worlds import World, flip_bit, make_world, thresholds, tree, truth

SETS = ("a", "b.2-x")
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    clipgap.gap(world.paths["reference"], world.test_paths, k=1, out=world.folder / "gap")
    clipgap.scan(
        world.train, world.test_paths, gap=world.folder / "gap", k=1, out=world.folder / "scan"
    )
    return world


def mask_of(split: Split, shards: int) -> Mask:
    return np.concatenate([split.mask(shard) for shard in range(shards)])


def keep_mask(keep: KeepList) -> Mask:
    return np.concatenate([keep.bits(shard.index) for shard in keep.shards])


def margins(world: World, name: str) -> NDArray[np.float64]:
    tau = thresholds(world.reference, world.tests[name])
    margin = truth(world.rows, world.tests[name], 1, tau).margin
    assert margin is not None
    return margin


def sims(world: World, names: Sequence[str]) -> NDArray[np.float32]:
    each = [truth(world.rows, world.tests[name], 1).sim.astype(np.float32) for name in names]
    return np.max(each, axis=0)


def first_by_sim(sim: NDArray[np.float32], n: int) -> Mask:
    """The definition: similarity falling, then id rising."""
    mask = np.zeros(len(sim), np.bool_)
    mask[np.lexsort((np.arange(len(sim)), -sim.astype(np.float64)))[:n]] = True
    return mask


@pytest.mark.parametrize("names", [("a",), ("b.2-x",), SETS])
def test_prune_equals_the_definition(world: World, names: tuple[str, ...], tmp_path: Path) -> None:
    split = clipgap.split(world.folder / "scan", Prune(names), out=tmp_path / "k", threads=2)
    pruned = {name: margins(world, name) > 0 for name in names}
    removed = np.any(list(pruned.values()), axis=0)
    assert 0 < removed.sum() < len(removed)
    assert split.keep is not None
    np.testing.assert_array_equal(keep_mask(split.keep), ~removed)
    np.testing.assert_array_equal(keep_mask(open_keep(tmp_path / "k")), ~removed)
    sizes = split.sizes
    assert sizes["kept"] == split.keep.kept == (~removed).sum()
    assert sizes["removed"] == removed.sum()
    for name, counts in sizes["by_set"].items():
        others = [pruned[other] for other in names if other != name]
        assert counts["removed"] == pruned[name].sum()
        assert counts["also_by"] == {o: (pruned[name] & pruned[o]).sum() for o in names}
        assert counts["by_no_other"] == (pruned[name] & ~np.any([~removed, *others], 0)).sum()
    keys = [world.key(s, r) for s, rows in enumerate(world.shards) for r in range(len(rows))]
    kept = [key for shard in split.keep.shards for key in split.keep.keys(shard.index).to_pylist()]
    assert kept == [key for key, gone in zip(keys, removed, strict=True) if not gone]


@pytest.mark.parametrize("offset", [-0.03, 0.01, 0.1, -2.0, 2.0])
def test_an_offset_compares_the_stored_margin(world: World, offset: float) -> None:
    split = clipgap.split(world.folder / "scan", Prune(SETS, offset))
    stored = [margins(world, name).astype(np.float32).astype(np.float64) for name in SETS]
    removed = np.any([margin > offset for margin in stored], axis=0)
    np.testing.assert_array_equal(mask_of(split, len(world.shards)), ~removed)
    assert split.keep is None


def test_an_offset_on_a_stored_margin_is_not_exceeded(world: World) -> None:
    stored = margins(world, "a").astype(np.float32)
    value = float(np.sort(stored)[len(stored) // 2])
    for offset in (value, np.nextafter(value, 9), np.nextafter(value, -9)):
        split = clipgap.split(world.folder / "scan", Prune(("a",), float(offset)))
        removed = stored.astype(np.float64) > offset
        np.testing.assert_array_equal(mask_of(split, len(world.shards)), ~removed)
        assert split.sizes["by_set"]["a"]["at_offset"] == (stored == np.float32(offset)).sum() > 0


@pytest.mark.parametrize("names", [("a",), SETS])
def test_near_and_far_keep_exactly_n(world: World, names: tuple[str, ...]) -> None:
    sim, rows = sims(world, names), len(world.rows)
    for n in (0, 1, 2, rows // 2, rows - 1, rows):
        for threads in (1, 2):
            far = clipgap.split(world.folder / "scan", Far(n, names), threads=threads)
            near = clipgap.split(world.folder / "scan", Near(n, names), threads=threads)
            core = clipgap.split(world.folder / "scan", Core(n, names), threads=threads)
            first = first_by_sim(sim, n)
            np.testing.assert_array_equal(mask_of(far, len(world.shards)), first)
            np.testing.assert_array_equal(mask_of(core, len(world.shards)), first)
            dropped = first_by_sim(sim, rows - n)
            np.testing.assert_array_equal(mask_of(near, len(world.shards)), ~dropped)
            assert far.sizes["kept"] == near.sizes["kept"] == n


def test_equals_too_many_to_hold_are_counted_in_a_third_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = sims(world, SETS)
    values, counts = np.unique(sim, return_counts=True)
    common = values[counts.argmax()]
    n = int((sim > common).sum() + counts.max() // 2)
    far = Far(n, SETS)
    cut = clipgap.split(world.folder / "scan", far).sizes["cut"]
    assert cut == {"sim": common, "equals": counts.max(), "above": counts.max() // 2}
    monkeypatch.setattr(order, "_HELD", cut["equals"] - 1)
    split = clipgap.split(world.folder / "scan", far)
    np.testing.assert_array_equal(mask_of(split, len(world.shards)), first_by_sim(sim, n))


def test_random_rows_are_reproducible_even_and_exact(world: World) -> None:
    rows, hits = len(world.rows), np.zeros(len(world.rows), np.int64)
    masks = {}
    for seed in range(200):
        split = clipgap.split(world.folder / "scan", Rand(rows // 4, seed))
        masks[seed] = mask_of(split, len(world.shards))
        assert masks[seed].sum() == rows // 4
        hits += masks[seed]
    again = clipgap.split(world.folder / "scan", Rand(rows // 4, 7), threads=1)
    np.testing.assert_array_equal(mask_of(again, len(world.shards)), masks[7])
    assert not np.array_equal(masks[7], masks[8])
    # Each row is kept 50 times out of 200 on average, with a standard deviation of about 6.
    assert abs(hits - 50).max() < 5 * 6.2
    assert 4 < hits.std() < 8.5


@dataclass
class Tables:
    """A scan made by hand: coarse numbers, so that ties are everywhere, and rows without scores."""

    folder: Path
    sim: dict[str, NDArray[np.float32]]
    margin: dict[str, NDArray[np.float32]]
    ok: Mask
    sizes: list[int]

    @classmethod
    def make(cls, folder: Path, sizes: list[int], levels: int, bad: float, seed: int) -> Tables:
        random = np.random.default_rng(seed)
        rows = sum(sizes)
        ok = random.random(rows) >= bad
        sim, margin = {}, {}
        for name in SETS:
            coarse = random.integers(-levels, levels + 1, rows) / np.float32(2 * levels)
            sim[name] = coarse.astype(np.float32)
            margin[name] = (coarse - np.float32(0.25)).astype(np.float32)
        made = cls(folder, sim, margin, ok, sizes)
        made.write()
        return made

    def write(self) -> None:
        sets = [SetColumns(name, has_gap=True) for name in SETS]
        start = 0
        for shard, n in enumerate(self.sizes):
            at = slice(start, start + n)
            missing = ~self.ok[at]
            columns: dict[str, Any] = {"key": [f"{shard}-{row}" for row in range(n)]}
            for names in sets:
                margin = self.margin[names.name][at]
                columns |= {
                    names.sim: pa.array(self.sim[names.name][at], mask=missing),
                    names.nn: pa.array(np.zeros(n, np.int32), mask=missing),
                    names.margin: pa.array(margin, mask=missing),
                    names.witness: pa.array(np.zeros(n, np.int32), mask=missing),
                    names.pruned: pa.array(margin > 0, mask=missing),
                }
            write_part(self.folder, shard, sets, columns)
            start += n
        write_manifest(self.folder, self.sizes, sets, int((~self.ok).sum()))


def oracle(tables: Tables, rule: Any, universe: Mask) -> Mask:
    """What a rule keeps among the rows of `universe`, straight from its definition."""
    kept = np.zeros(len(universe), np.bool_)
    rows = np.flatnonzero(universe)
    if isinstance(rule, Prune):
        margin = np.max([tables.margin[name][rows] for name in rule.sets], axis=0)
        kept[rows] = ~(margin.astype(np.float64) > rule.offset)
    else:
        sim = np.max([tables.sim[name][rows] for name in rule.by], axis=0)
        n = rule.n if isinstance(rule, Far) else len(rows) - rule.n
        first = first_by_sim(sim, n)
        kept[rows] = first if isinstance(rule, Far) else ~first
    return kept


names = st.sampled_from([("a",), ("b.2-x",), SETS])


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    levels=st.sampled_from([1, 3, 1000]),
    bad=st.sampled_from([0.0, 0.3]),
    make=st.sampled_from([Far, Near, Core]),
    by=names,
    share=st.floats(0, 1),
    offset=st.sampled_from([0.0, 0.25, -0.25, 0.1]),
    narrowed=st.booleans(),
)
@examples(40)
def test_every_rule_on_tied_data_with_bad_rows(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    levels: int,
    bad: float,
    make: Callable[..., Any],
    by: tuple[str, ...],
    share: float,
    offset: float,
    narrowed: bool,
) -> None:
    folder = tmp_path_factory.mktemp("t")
    tables = Tables.make(folder / "scan", sizes, levels, bad, seed=sum(sizes))
    universe, within = tables.ok, None
    if narrowed:
        within = clipgap.split(folder / "scan", Rand(int(0.6 * tables.ok.sum())), out=folder / "w")
        universe = keep_mask(within.keep)
        assert not (universe & ~tables.ok).any()
    given_keep = None if within is None else folder / "w"
    for rule in (Prune(by, offset), make(int(share * universe.sum()), by)):
        out = folder / type(rule).__name__
        split = clipgap.split(folder / "scan", rule, within=given_keep, out=out)
        expected = oracle(tables, rule, universe)
        np.testing.assert_array_equal(keep_mask(open_keep(out)), expected)
        counted = clipgap.split(folder / "scan", rule, within=given_keep)
        assert counted.sizes == split.sizes
        np.testing.assert_array_equal(mask_of(counted, len(sizes)), expected)
        assert split.sizes["kept"] == expected.sum()
        assert split.sizes["candidates"] == universe.sum()
        assert split.sizes["quarantined"] == (~tables.ok).sum()


def test_shards_larger_than_a_row_group(tmp_path: Path) -> None:
    sizes = [70_000, 3, 140_000]
    tables = Tables.make(tmp_path / "scan", sizes, 50, 0.01, seed=1)
    for rule in (Far(100_001, SETS), Near(77_777, ("a",)), Prune(SETS)):
        split = clipgap.split(tmp_path / "scan", rule, out=tmp_path / "k", overwrite=True)
        assert split.keep is not None
        np.testing.assert_array_equal(keep_mask(split.keep), oracle(tables, rule, tables.ok))


def test_threads_do_not_show(tmp_path: Path) -> None:
    Tables.make(tmp_path / "scan", [40, 0, 31, 7, 90, 12], 2, 0.1, seed=3)
    for threads in (1, 5):
        clipgap.split(
            tmp_path / "scan", Far(60, SETS), out=tmp_path / f"k{threads}", threads=threads
        )
    assert tree(tmp_path / "k1") == tree(tmp_path / "k5")


def test_two_scans_of_one_store_are_one(world: World, tmp_path: Path) -> None:
    for name in SETS:
        clipgap.scan(
            world.train,
            {name: world.paths[name]},
            gap=world.folder / "gap",
            k=1,
            out=tmp_path / name,
        )
    for rule in (Prune(SETS), Core(100, SETS), Rand(50, 3)):
        together = clipgap.split(world.folder / "scan", rule)
        apart = clipgap.split([tmp_path / name for name in SETS], rule)
        assert apart.sizes == together.sizes
        np.testing.assert_array_equal(mask_of(apart, 5), mask_of(together, 5))
    with pytest.raises(InputError, match="'a' is both in"):
        clipgap.split([tmp_path / "a", world.folder / "scan"], Prune(("a",)))


def test_a_scan_in_memory(world: World) -> None:
    scan = clipgap.scan(world.train, {"a": world.paths["a"]}, k=1)
    split = clipgap.split(scan, Far(100, ("a",)))
    np.testing.assert_array_equal(mask_of(split, 5), first_by_sim(sims(world, ("a",)), 100))


def test_a_store_without_keys_or_rows(tmp_path: Path) -> None:
    rows = np.eye(4, dtype=np.float16)
    scan = clipgap.scan(rows, {"a": rows[:1]}, k=1)
    keep = clipgap.split(scan, Far(1, ("a",)), out=tmp_path / "k").keep
    assert keep is not None
    assert not keep.has_keys
    assert keep.rows_of(0).tolist() == [0]


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (Prune(("c",)), UsageError, "has no test set 'c'; it has a, b.2-x"),
        (Prune(()), UsageError, "no test set"),
        (Prune(("a", "a")), UsageError, "named twice"),
        (Prune(("a",), float("nan")), UsageError, "finite"),
        (Far(289, ("a",)), InputError, "cannot keep 289 rows: of 288 rows, 288 have scores"),
        (Near(1, ("c",)), UsageError, "has no test set 'c'"),
        (Rand(-1), UsageError, "cannot keep -1"),
    ],
)
def test_what_cannot_be_done(
    world: World, tmp_path: Path, rule: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        clipgap.split(world.folder / "scan", rule, out=tmp_path / "k")
    assert message in str(caught.value)
    assert not (tmp_path / "k").exists()


def test_a_scan_without_thresholds_cannot_prune(world: World) -> None:
    scan = clipgap.scan(world.train, {"a": world.paths["a"]}, k=1)
    with pytest.raises(UsageError, match="without thresholds"):
        clipgap.split(scan, Prune(("a",)))
    bare = clipgap.scan(world.train, {"a": world.paths["a"]}, k=1, train_table=False)
    with pytest.raises(InputError, match="no-train-table"):
        clipgap.split(bare, Far(1, ("a",)))


def test_a_keep_list_of_another_store(world: World, tmp_path: Path) -> None:
    other = make_world(tmp_path / "other", seed=9)
    scan = clipgap.scan(other.train, {"a": other.paths["a"]}, k=1)
    clipgap.split(scan, Rand(3), out=tmp_path / "k")
    with pytest.raises(InputError) as error:
        clipgap.split(world.folder / "scan", Rand(3), within=tmp_path / "k")
    assert "is of another store" in str(error.value)
    assert "fingerprint" in str(error.value)


def test_more_than_there_is_within_a_keep_list(world: World, tmp_path: Path) -> None:
    clipgap.split(world.folder / "scan", Rand(30), out=tmp_path / "k")
    with pytest.raises(InputError, match="30 have scores and lie within"):
        clipgap.split(world.folder / "scan", Far(31, ("a",)), within=tmp_path / "k")


def test_outputs_are_kept_replaced_and_guarded(world: World, tmp_path: Path) -> None:
    scan, out = world.folder / "scan", tmp_path / "k"
    clipgap.split(scan, Rand(30), out=out)
    before = tree(out)
    with pytest.raises(InputError, match="already holds a finished keep-list"):
        clipgap.split(scan, Rand(30), out=out)
    again = clipgap.split(scan, Rand(30), out=out, resume=True)
    assert again.already_complete
    assert again.sizes["kept"] == 30
    with pytest.raises(ResumeError, match="rule n: was 30, is 31"):
        clipgap.split(scan, Rand(31), out=out, resume=True)
    assert tree(out) == before
    manifest = open_keep(out).manifest
    with (
        pytest.raises(RuntimeError),
        KeepWriter(
            out, manifest["store"], manifest["rule"], manifest["scans"], How(overwrite=True)
        ) as writer,
    ):
        writer.add(0, np.zeros(manifest["store"]["shards"][0]["rows"], np.bool_))
        raise RuntimeError
    with pytest.raises(InputError, match="unfinished keep-list"):
        clipgap.split(scan, Rand(30), out=out)
    assert not clipgap.split(scan, Rand(30), out=out, resume=True).already_complete
    assert tree(out) == before
    bitmap = out / "bitmap" / "part-00000.npy"
    for damage in (lambda: flip_bit(bitmap, -1), bitmap.unlink, lambda: bitmap.write_bytes(b"")):
        damage()
        assert not clipgap.split(scan, Rand(30), out=out, resume=True).already_complete
        assert tree(out) == before
    assert clipgap.split(scan, Rand(31), out=out, overwrite=True).sizes["kept"] == 31
    with pytest.raises(UsageError, match="both input and output"):
        clipgap.split(scan, Rand(3), within=out, out=out, overwrite=True)
    with pytest.raises(InputError, match="not a clipgap keep-list"):
        clipgap.split(scan, Rand(3), out=world.train, overwrite=True)


def test_a_damaged_scan_is_named(world: World, tmp_path: Path) -> None:
    import shutil

    scan = Path(shutil.copytree(world.folder / "scan", tmp_path / "scan"))
    part = scan / "train" / "part-00002.parquet"
    (scan / "train" / "part-00000.parquet").replace(part)
    shutil.copy(world.folder / "scan" / "train" / "part-00000.parquet", scan / "train")
    with pytest.raises(InputError, match=r"part-00002.parquet is damaged: it has .* bytes, not"):
        clipgap.split(scan, Prune(("a",)), out=tmp_path / "k")
    sign(scan, "train/part-00002.parquet")
    with pytest.raises(InputError, match=r"part-00002.parquet has 90 rows.*133 rows"):
        clipgap.split(scan, Prune(("a",)), out=tmp_path / "k", overwrite=True)
    assert not (tmp_path / "k" / "manifest.json").exists()
    part.write_bytes(b"PAR1 nothing PAR1")
    sign(scan, "train/part-00002.parquet")
    with pytest.raises(InputError, match=r"part-00002.parquet is damaged: it does not end"):
        clipgap.split(scan, Prune(("a",)))


def test_looking_for_a_cut_is_not_yet_work(world: World, tmp_path: Path) -> None:
    """Whoever watches saves the settings when it works: when the folder is there for them."""
    seen: list[tuple[str, bool, bool]] = []
    clipgap.split(
        world.folder / "scan",
        Rand(9),
        out=tmp_path / "keep",
        on_progress=lambda now: seen.append(
            (now.stage, now.works, (tmp_path / "keep" / ".progress" / "plan.json").exists())
        ),
    )
    assert {stage for stage, *_ in seen} >= {"finding the cut", "writing"}
    assert all(there for _, works, there in seen if works)
    assert {works for stage, works, _ in seen if stage == "finding the cut"} == {False}
