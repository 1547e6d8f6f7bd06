"""Set algebra of keep-lists, splits by labels, and reference sets that join a split."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import clipgap
from clipgap.errors import InputError, UsageError
from clipgap.keep.lists import KeepList, open_keep
from clipgap.keep.writing import KeepWriter
from clipgap.select import algebra
from clipgap.select.algebra import combine
from clipgap.select.labels import Condition, Where
from clipgap.select.reference import Reference
from clipgap.select.rules import Rand
from clipgap.store.writer import StoreWriter
from tests.test_keep import store_of
from tests.worlds import unit_rows

SIZES = (40, 0, 9, 71)
ROWS = sum(SIZES)
Mask = NDArray[np.bool_]
masks = st.integers(0, 2**ROWS - 1).map(
    lambda bits: np.array([bits >> i & 1 for i in range(ROWS)], np.bool_)
)


def write(path: Path, mask: Mask) -> Path:
    with KeepWriter(path, store_of(*SIZES), {"name": "by hand"}) as keep:
        for shard, part in enumerate(np.split(mask, np.cumsum(SIZES)[:-1])):
            keys = [f"{shard}/{row}" for row in np.flatnonzero(part)]
            keep.add(shard, part, pa.array(keys, pa.string()))
    return path


def mask_of(keep: KeepList | None) -> Mask:
    """The rows of a keep-list by its bitmaps, which its tables must agree with."""
    assert keep is not None
    assert open_keep(keep.path).damaged() == []
    for shard in keep.shards:
        table = keep.table(shard.index)
        assert table["row"].to_pylist() == keep.rows_of(shard.index).tolist()
        expected = [f"{shard.index}/{row}" for row in keep.rows_of(shard.index)]
        assert table["key"].to_pylist() == expected
    return np.concatenate([keep.bits(shard.index) for shard in keep.shards])


@settings(max_examples=5)
@given(a=masks, b=masks, c=masks, step=st.sampled_from([1, 8, 64]))
def test_the_laws_of_sets(
    tmp_path_factory: pytest.TempPathFactory, a: Mask, b: Mask, c: Mask, step: int
) -> None:
    folder = tmp_path_factory.mktemp("sets")
    lists = [write(folder / name, mask) for name, mask in zip("abc", (a, b, c), strict=True)]
    numbers = iter(range(99))

    def made(operation: algebra.Operation, *keeps: Any) -> KeepList:
        split = combine(operation, keeps, out=folder / str(next(numbers)))
        assert split.keep is not None
        assert combine(operation, keeps).sizes == split.sizes
        return split.keep

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algebra, "_ROWS", step)
        union, common = made("union", *lists), made("intersection", *lists)
        np.testing.assert_array_equal(mask_of(union), a | b | c)
        np.testing.assert_array_equal(mask_of(common), a & b & c)
        np.testing.assert_array_equal(mask_of(made("difference", *lists)), a & ~b & ~c)
        # De Morgan within a: a − (b ∪ c) = (a − b) ∩ (a − c)
        left = made("difference", lists[0], made("union", *lists[1:]))
        right = made(
            "intersection",
            made("difference", lists[0], lists[1]),
            made("difference", lists[0], lists[2]),
        )
        np.testing.assert_array_equal(mask_of(left), mask_of(right))
        # Absorption: a ∪ (a ∩ b) = a
        absorbed = made("union", lists[0], made("intersection", *lists[:2]))
        np.testing.assert_array_equal(mask_of(absorbed), a)


def test_algebra_refuses(tmp_path: Path) -> None:
    mask = np.ones(ROWS, np.bool_)
    a, b = write(tmp_path / "a", mask), write(tmp_path / "b", ~mask)
    with KeepWriter(tmp_path / "c", store_of(*SIZES[:-1], 70), {}):
        pass
    with pytest.raises(InputError, match="rows: was 71, is 70"):
        combine("union", [a, tmp_path / "c"], out=tmp_path / "x")
    with pytest.raises(UsageError, match="at least two"):
        combine("union", [a], out=tmp_path / "x")
    with pytest.raises(UsageError, match="no operation"):
        combine("minus", [a, b])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="both input and output"):
        combine("union", [a, b], out=b, overwrite=True)
    with pytest.raises(InputError, match="not a finished keep-list"):
        combine("union", [a, tmp_path])


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan of 30 rows, whose keys begin with zeros."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = unit_rows(30, 8, 0)
    with StoreWriter(folder / "store", 8) as store:
        store.add(rows[:20], [f"{i:06d}" for i in range(20)])
        store.add(rows[20:], [f"{i:06d}" for i in range(20, 30)])
    clipgap.scan(folder / "store", {"a": unit_rows(3, 8, 1)}, k=1, out=folder / "scan")
    return folder


def kept_of(folder: Path, labels: Path, *conditions: str) -> tuple[list[int], dict[str, Any]]:
    rule = Where(str(labels), tuple(map(Condition.parse, conditions)))
    split = clipgap.split(folder / "scan", rule)
    mask = np.concatenate([split.mask(0), split.mask(1)])
    return np.flatnonzero(mask).tolist(), dict(split.sizes)


def test_labels_in_a_csv(labelled: Path, tmp_path: Path) -> None:
    lines = ["image_id,Eyeglasses,group"]
    lines += [f"{i:06d},{1 if i % 3 else -1},g{i % 2}" for i in range(29)]
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(lines) + "\n")
    found, sizes = kept_of(labelled, labels, "Eyeglasses=-1")
    assert found == list(range(0, 29, 3))
    assert sizes["unlabelled"] == 1
    assert kept_of(labelled, labels, "Eyeglasses=-1", "group=g0")[0] == list(range(0, 29, 6))
    assert kept_of(labelled, labels, "Eyeglasses!=-1")[0] == [i for i in range(29) if i % 3]
    assert kept_of(labelled, labels, "group=g0,g1")[0] == list(range(29))


def test_labels_in_a_parquet(labelled: Path, tmp_path: Path) -> None:
    values = [None if i == 4 else bool(i % 2) for i in range(30)]
    table = pa.table({"key": [f"{i:06d}" for i in range(30)], "hat": values})
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "l.parquet")
    assert kept_of(labelled, tmp_path / "l.parquet", "hat=true")[0] == list(range(1, 30, 2))
    # A missing label meets no condition.
    without = [i for i in range(0, 30, 2) if i != 4]
    assert kept_of(labelled, tmp_path / "l.parquet", "hat!=true")[0] == without


@pytest.mark.parametrize(
    ("content", "condition", "message"),
    [
        ("key,x\n000001,1\n000001,2\n", "x=1", "more than once with different labels"),
        ("name,x\n000001,1\n", "x=1", "no column of keys"),
        ("key,x\n000001,1\n", "y=1", "no column 'y'"),
        ("key,x\n", "x=1", "holds no labels"),
        ("key,x\n000001\n", "x=1", "cannot read"),
        ("key,x\n/x/000000,1\n", "x=1", "none of the first 20 keys of .*, take '/x/' off them"),
    ],
)
def test_labels_that_cannot_be_used(
    labelled: Path, tmp_path: Path, content: str, condition: str, message: str
) -> None:
    (tmp_path / "l.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        kept_of(labelled, tmp_path / "l.csv", condition)
    with pytest.raises(InputError, match="cannot read"):
        kept_of(labelled, tmp_path / "missing.csv", condition)


@pytest.mark.parametrize("text", ["x", "=1", "!=1", ""])
def test_conditions_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is no condition"):
        Condition.parse(text)


def test_a_reference_joins_with_captions(labelled: Path, tmp_path: Path) -> None:
    names = ["tench", "goldfish", "great white shark"]
    keys = [f"n{i:04d}_{i}" for i in range(7)]
    with StoreWriter(tmp_path / "ref", 8) as store:
        store.add(unit_rows(5, 8, 2), keys[:5])
        store.add(unit_rows(2, 8, 3), keys[5:])
    classes = {"key": list(reversed(keys)), "class": [names[i % 3] for i in reversed(range(7))]}
    pq.write_table(pa.table(classes), tmp_path / "classes.parquet")
    reference = Reference(tmp_path / "ref", str(tmp_path / "classes.parquet"))
    rule = Rand(10)
    split = clipgap.split(labelled / "scan", rule, out=tmp_path / "k", reference=reference)
    keep = open_keep(tmp_path / "k")
    table = keep.reference()
    assert table["key"].to_pylist() == keys
    assert table["shard"].to_pylist() == [0] * 5 + [1] * 2
    assert table["row"].to_pylist() == [0, 1, 2, 3, 4, 0, 1]
    assert table["caption"].to_pylist() == [f"a photo of a {names[i % 3]}" for i in range(7)]
    assert keep.manifest["rule"]["reference"]["caption"] == "a photo of a {class}"
    assert keep.damaged() == []
    plain = clipgap.split(labelled / "scan", rule, out=tmp_path / "plain")
    assert plain.keep is not None
    assert plain.keep.reference() is None
    for shard in range(2):
        np.testing.assert_array_equal(plain.mask(shard), split.mask(shard))
    fixed = Reference(tmp_path / "ref", caption="a photo")
    clipgap.split(labelled / "scan", rule, out=tmp_path / "k", reference=fixed, overwrite=True)
    assert set(open_keep(tmp_path / "k").reference()["caption"].to_pylist()) == {"a photo"}


def test_references_that_cannot_be_used(labelled: Path, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "ref", 8) as store:
        store.add(unit_rows(2, 8, 2), ["known", "unknown"])
    pq.write_table(pa.table({"key": ["known"], "class": ["tench"]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="class of 1 reference samples"):
        clipgap.split(
            labelled / "scan",
            Rand(1),
            out=tmp_path / "k",
            reference=Reference(tmp_path / "ref", str(tmp_path / "c.parquet")),
        )
    assert not (tmp_path / "k" / "manifest.json").exists()
    with pytest.raises(UsageError, match="needs to know the class"):
        Reference(tmp_path / "ref")
    with pytest.raises(UsageError, match="does not contain"):
        Reference(tmp_path / "ref", "c.parquet", "a photo")


def test_algebra_is_associative_over_many(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    parts = [random.random(ROWS) < 0.3 for _ in range(5)]
    lists = [write(tmp_path / str(i), mask) for i, mask in enumerate(parts)]
    union = combine("union", lists, out=tmp_path / "u").keep
    np.testing.assert_array_equal(mask_of(union), reduce(np.logical_or, parts))
