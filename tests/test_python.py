"""The Python face: results that say what they are, tables that others read, and wrong arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import clipgap
from clipgap.errors import UsageError
from clipgap.scan.result import ScanResult
from clipgap.select.rules import Near, Prune


def rows(seed: int, n: int) -> Any:
    made = np.random.default_rng(seed).normal(size=(n, 12))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> ScanResult:
    folder = tmp_path_factory.mktemp("python")
    tests = {"val": rows(1, 20), "sketch": rows(2, 30)}
    gap = clipgap.gap(rows(3, 10), {"val": tests["val"]}, out=folder / "gap")
    return clipgap.scan(rows(4, 300), tests, gap=gap, out=folder / "scan")


def test_a_scan_says_what_it_is(scan: ScanResult) -> None:
    pruned = scan.manifest["counts"]["pruned_by_any"]
    text = f"<scan {scan.path}: 300 rows against val 20, sketch 30; {pruned:,} pruned>"
    assert repr(scan) == text
    page = scan._repr_html_()
    assert f"<td>val</td><td>20</td><td>{pruned}</td>" in page
    assert "<td>sketch</td><td>30</td><td>–</td>" in page
    assert page.count("<scan") == 0  # escaped
    page = clipgap.split(scan, prune=["val"])._repr_html_()
    assert "&lt;split prune" in page and f"<td>val</td><td>{pruned}</td>" in page


def test_the_rows_that_a_set_prunes(scan: ScanResult) -> None:
    whole = scan.train_table().to_pylist()
    found = scan.pruned("val").to_pylist()
    names = ("shard", "row", "key", "sim_val", "margin_val", "witness_val")
    assert found == [{name: row[name] for name in names} for row in whole if row["pruned_val"]]
    assert 0 < len(found) < 300
    with pytest.raises(UsageError, match="prunes nothing for 'sketch'"):
        scan.pruned("sketch")
    with pytest.raises(UsageError, match="no test set 'nope'"):
        scan.pruned("nope")


def test_tables_go_to_others(scan: ScanResult) -> None:
    whole = scan.train_table()
    assert pa.table(scan.train()).equals(whole)  # by Arrow's stream, as Polars and DuckDB read it
    assert scan.train().to_pandas().equals(whole.to_pandas())
    assert scan.train().count_rows() == 300
    memory = clipgap.scan(rows(4, 300), {"val": rows(1, 20)})
    assert len(memory.train().to_pandas()) == 300


def test_a_rule_is_named(scan: ScanResult, tmp_path: Path) -> None:
    assert clipgap.split(scan, prune=["val"]).sizes == clipgap.split(scan, Prune(("val",))).sizes
    made = clipgap.split(scan, near=100, by=["sketch"], out=tmp_path / "near")
    assert made.sizes == clipgap.split(scan, Near(100, ("sketch",))).sizes
    assert repr(made) == f"<split near: 100 of 300 rows kept; {tmp_path / 'near'}>"
    for verified in (made, made.keep, tmp_path / "near", str(tmp_path / "near")):
        with pytest.raises(UsageError, match="does nothing for a split"):
            clipgap.verify(verified, full=True)
    tests = {"val": rows(1, 20), "sketch": rows(2, 30)}
    assert clipgap.verify(scan, train=rows(4, 300), tests=tests).ok


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: clipgap.scan(rows(4, 3), [rows(1, 2)]), "tests is a list; give stores by name"),
        (lambda s: clipgap.scan(rows(4, 3), {"v": rows(1, 2)}, k="3"), "k is '3'; it must be a wh"),
        (lambda s: clipgap.split(s, "prune"), "'prune' is no rule"),
        (lambda s: clipgap.split(s), "give exactly one of"),
        (lambda s: clipgap.split(s, prune=["val"], rand=3), "give exactly one of"),
        (lambda s: clipgap.split(s, Prune(("val",)), rand=3), "rand is given beside a rule"),
        (lambda s: clipgap.split(s, union=True), "union is of keep-lists: clipgap.combine"),
        (lambda s: clipgap.split(s, prune=["val"], offset="x"), "offset is 'x'; it must be a num"),
        (lambda s: clipgap.verify(3), "3 lies in no folder"),
        (lambda s: clipgap.verify(clipgap.scan(rows(4, 3), {"v": rows(1, 2)})), "in no folder"),
    ],
)
def test_wrong_arguments_get_a_sentence(
    scan: ScanResult, call: Callable[[ScanResult], Any], message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        call(scan)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_notebook_shows_how_far_a_run_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line of its own that is told anew; outside of notebooks nothing is shown."""
    shown: list[str] = []

    class Line:
        def update(self, content: dict[str, str], *, raw: bool) -> None:
            shown[-1] = content["text/plain"]

    def display(content: dict[str, str], *, raw: bool, display_id: bool) -> Line:
        shown.append(content["text/plain"])
        return Line()

    ipython = ModuleType("IPython")
    shell = SimpleNamespace(kernel=None)
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    ipython.display = SimpleNamespace(display=display)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)  # type: ignore[attr-defined]
    monkeypatch.setattr("clipgap.runs.how._NotebookLine.EVERY", 0)
    clipgap.scan(rows(4, 300), {"val": rows(1, 20)})
    assert len(shown) == 1 and "300 of 300 rows" in shown[0]
    assert "nothing says which model" in capsys.readouterr().out
    del shell.kernel  # IPython in a terminal
    clipgap.scan(rows(4, 300), {"val": rows(1, 20)})
    assert len(shown) == 1
