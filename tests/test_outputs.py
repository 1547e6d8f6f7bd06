"""A new output of a scan is one object; table, counts, resume and proof follow from it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import clipgap
from clipgap.errors import Interrupted
from clipgap.scan import tables
from clipgap.scan.counts import BINS, Totals
from clipgap.scan.outputs.base import Column, RowOutput, SetOutput, Values
from clipgap.scan.outputs.domain import Domain
from clipgap.scan.tables import SetColumns, TrainTable
from tests.test_verify import failures, next_float32, tamper
from tests.worlds import World, make_world, tree


class Norm(RowOutput):
    """The squared length of a row, and whether it is above that of a unit row."""

    columns = (
        Column("norm2", pa.float32(), "squared length", histogram=True, above="norm2_above"),
        Column("long", pa.bool_(), "whether it exceeds 1"),
    )

    def fill(self, rows: NDArray[np.float16]) -> Values:
        wide = rows.astype(np.float64)
        norm2 = np.einsum("nd,nd->n", wide, wide)
        return norm2, norm2 > 1

    def define(self, rows: NDArray[np.float16]) -> Values:
        norm2 = np.array([sum(float(x) ** 2 for x in row) for row in rows])
        return norm2, norm2 > 1

    def contradictions(self, values: Values) -> Iterator[tuple[NDArray[np.bool_], str]]:
        norm2, long = values
        yield long & (norm2 < 1), "{long} contradicts {norm2}"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "world", shards=(40, 0, 25))


@pytest.fixture
def with_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "OUTPUTS", (*tables.OUTPUTS, Norm()))


def scan(world: World, out: Path | None, **options: Any) -> clipgap.ScanResult:
    gap = clipgap.gap(world.reference, {"a": world.tests["a"]}, k=1)
    return clipgap.scan(
        world.train, world.test_paths, gap=gap, k=3, out=out, above=(0.5, 1.0), **options
    )


@pytest.mark.usefixtures("with_norm")
def test_an_output_on_rows_alone_is_in_every_table(world: World, tmp_path: Path) -> None:
    rows = world.rows.astype(np.float64)
    norm2 = (rows * rows).sum(axis=1)
    result = scan(world, tmp_path / "scan", block_rows=7)
    train = result.train_table()
    assert train.column_names[-2:] == ["norm2", "long"]
    assert np.array_equal(train["norm2"], norm2.astype(np.float32))
    assert np.array_equal(train["long"], norm2 > 1)
    assert result.manifest["counts"]["long"] == (norm2 > 1).sum()
    hist = [line for line in result.hist().to_pylist() if line["name"] == "train"]
    assert {line["kind"] for line in hist} == {"norm2", "norm2_above"}
    stored = norm2.astype(np.float32).astype(np.float64)
    for line in hist:
        below = line["high"] if line["kind"] == "norm2" else np.inf
        inside = (stored >= line["low"]) if line["kind"] == "norm2" else (stored > line["low"])
        assert line["count"] == (inside & (stored < below)).sum()
    assert clipgap.verify(tmp_path / "scan", full=True).ok
    plain = scan(world, None, kernel="numpy")
    assert plain.train_table().equals(train)
    assert plain.hist().equals(result.hist())


@pytest.mark.usefixtures("with_norm")
def test_it_survives_a_stop_and_a_row_set_aside(world: World, tmp_path: Path) -> None:
    world.shards[2][5] = 0
    np.save(world.train / "img_emb" / "img_emb_2.npy", world.shards[2])
    whole = scan(world, tmp_path / "whole")
    assert whole.train_table()["norm2"].null_count == 1

    class Stop:
        calls = itertools.count()

        def is_set(self) -> bool:
            return next(self.calls) >= 2

    with pytest.raises(Interrupted):
        scan(world, tmp_path / "scan", stop=Stop())
    assert not scan(world, tmp_path / "scan", resume=True).already_complete
    assert tree(tmp_path / "scan") == tree(tmp_path / "whole")


PART = "train/part-00002.parquet"


@pytest.mark.usefixtures("with_norm")
@pytest.mark.parametrize(
    ("name", "column", "lie", "check", "words"),
    [
        (
            PART,
            "norm2",
            next_float32,
            "training rows",
            "row 4: norm2 is",
        ),
        (PART, "norm2", lambda x: 0.25, "histograms and counts", "hist.parquet"),
        (PART, "long", lambda x: not x, "histograms and counts", "manifest.json: long: states"),
    ],
)
def test_a_lie_about_it_is_found(
    world: World,
    tmp_path: Path,
    name: str,
    column: str,
    lie: Callable[[Any], Any],
    check: str,
    words: str,
) -> None:
    out = tmp_path / "scan"
    scan(world, out)
    tamper(out, name, column, lambda values: values.__setitem__(4, lie(values[4])))
    assert words in failures(clipgap.verify(out))[check]


@pytest.mark.usefixtures("with_norm")
def test_a_wrong_way_of_filling_it_is_found(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: Norm, rows: NDArray[np.float16]) -> Values:
        norm2 = np.full(len(rows), 0.5)
        return norm2, norm2 > 1

    monkeypatch.setattr(Norm, "fill", wrong)
    scan(world, tmp_path / "scan")
    assert "norm2 is 0.5" in failures(clipgap.verify(tmp_path / "scan"))["training rows"]


def some_totals(table: TrainTable, seed: int) -> Totals:
    random = np.random.default_rng(seed)
    totals = Totals.zero(table)
    for _ in range(3):
        totals.add_rows(
            {
                f.name: random.normal(size=500) > 0
                if f.column.is_flag
                else random.normal(0.6, 0.1, 500).astype(f.column.dtype)
                for f in table.fields
            }
        )
    totals.of("rows")[:] += (1500, seed, 0)
    return totals


TABLE = TrainTable((SetColumns("a", True), SetColumns("b.2-x", False)), (0.5, 0.9))


def test_totals_add_up_in_any_order() -> None:
    found = []
    for order in itertools.permutations(range(3)):
        total = Totals.zero(TABLE)
        for seed in order:
            total.add(Totals.from_json(TABLE, some_totals(TABLE, seed).to_json()))
        found.append(total.counts.tolist())
    assert all(counts == found[0] for counts in found)
    assert sum(found[0]) > 4500


def test_totals_are_small_text() -> None:
    six = TrainTable(tuple(SetColumns(f"t{i}", True) for i in range(6)), (0.8, 0.9, 0.95))
    assert len(some_totals(six, 1).to_json()) < 2_500
    huge = Totals.zero(TABLE)
    huge.counts[:] = 2**62
    assert Totals.from_json(TABLE, huge.to_json()).counts.tolist() == huge.counts.tolist()


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "no base64!",
        "AAAA",
        Totals.zero(TrainTable((SetColumns("a", False),))).to_json(),
        Totals(TABLE, Totals.zero(TABLE).counts[:-1]).to_json(),
        Totals(TABLE, Totals.zero(TABLE).counts - 1).to_json(),
        some_totals(TABLE, 0).to_json()[:-40],
    ],
)
def test_text_that_is_not_of_these_totals_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="not the counts of"):
        Totals.from_json(TABLE, text)


def test_the_docs_list_every_column() -> None:
    """`docs/scan-tables.md` says of each column what its output says."""
    docs = (Path(__file__).parents[1] / "docs" / "scan-tables.md").read_text()
    stated = re.findall(r"\| `(\w+_NAME)` \| (\w+) \| (.+) \|", docs)
    assert stated == [
        (column.of("NAME"), column.dtype.name, column.meaning)
        for output in tables.OUTPUTS
        if isinstance(output, SetOutput)
        for column in output.columns
    ]
    for column in Domain.columns:
        name = "text" if column.words else column.dtype.name
        assert f"| `{column.stem}` | {name} | {column.meaning} |" in docs
    kinds = [
        column
        for output in tables.OUTPUTS
        for column in output.columns
        if column.histogram or column.above
    ]
    for column in kinds:
        assert f"`{column.stem}`" in docs
    assert BINS == 212
