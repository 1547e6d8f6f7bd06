"""Compositions: counts as anybody counts them, and estimates that hold as often as they say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.domains.composition import PAPER, estimate
from clipgap.errors import InputError
from clipgap.heads.heads import DOMAIN_COLUMNS, LABELS
from tests.test_heads import MODEL, fitted, mend, planted, write_world
from tests.test_verify import failures


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with labels, heads, domains, and a keep-list drawn by them."""
    folder = write_world(tmp_path_factory.mktemp("composition"))
    fitted(folder)
    store = str(folder / "store")
    clipgap.label_domains(store, folder / "heads", out=folder / "domains", model=MODEL)
    (folder / "mix.toml").write_text(
        '[pool]\nstore = "store"\nlabels = ["domains"]\n[mixes.few]\nrule = "counts"\n'
        "parts = { natural = 30, rendition = 20 }\n"
    )
    clipgap.mix(folder / "mix.toml", out=folder / "few")
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    parts = sorted((folder / "domains" / "train").glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_stores_and_keep_lists_are_counted(world: Path) -> None:
    rows = rows_of(world)
    kept = {
        (row["shard"], row["row"])
        for part in sorted((world / "few" / "keep").glob("*.parquet"))
        for row in pq.read_table(part).to_pylist()
    }
    assert len(kept) == 50
    whole, few = clipgap.composition(world / "domains", keep=world / "few")
    for found, mine in ((whole, rows), (few, [r for r in rows if (r["shard"], r["row"]) in kept])):
        assert (found.rows, found.without) == (len(mine), 0)
        for column, point in DOMAIN_COLUMNS.items():
            counts = {label: sum(row[column] == label for row in mine) for label in LABELS}
            assert found.said[point] == counts
    assert few.said["default"] == {"natural": 30, "ambiguous": 0, "rendition": 20}
    assert few.truly is not None and few.truly["ambiguous"].high > 0.01  # heads err
    assert (whole.name, few.name) == ("domains", "few")


def test_the_clean_rows_of_a_store_as_a_keep_list(world: Path) -> None:
    (world / "clean.toml").write_text(
        '[pool]\nstore = "store"\nlabels = ["domains"]\ndomain = "domain_strict"\n'
        '[task]\nnatural = "natural"\n[mixes.clean]\nrule = "natural-only"\n'
    )
    clipgap.mix(world / "clean.toml", out=world / "clean")
    kept = [
        (row["shard"], row["row"])
        for part in sorted((world / "clean" / "keep").glob("*.parquet"))
        for row in pq.read_table(part).to_pylist()
    ]
    clean = [row for row in rows_of(world) if row["domain_strict"] == "natural"]
    assert kept == [(row["shard"], row["row"]) for row in clean]


def test_what_is_truly_there_lies_within(world: Path) -> None:
    """Of the rows that were planted; one draw, the coverage is tested below."""
    _, labels = planted(400, 1)
    found = clipgap.composition(world / "domains")[0].truly
    assert found is not None
    for place, label in enumerate(LABELS):
        assert found[label].low <= (labels == place).mean() <= found[label].high
        assert found[label].low <= found[label].value <= found[label].high


RATES = np.zeros((3, 3, 3))  # label, said by default, said strictly
RATES[0, 0] = [0.55, 0.30, 0.00]
RATES[0, 1:, 1] = [0.14, 0.01]
RATES[1, 0] = [0.02, 0.13, 0.00]
RATES[1, 1:, 1] = [0.75, 0.08]
RATES[1, 2, 2] = 0.02
RATES[2, :2, 1] = [0.02, 0.18]
RATES[2, 2] = [0.00, 0.30, 0.50]


def as_said(counts: np.ndarray[Any, Any]) -> dict[str, dict[str, int]]:
    return {
        label: dict(zip(LABELS, row, strict=True))
        for label, row in zip(LABELS, counts.reshape(3, 3).tolist(), strict=True)
    }


@pytest.mark.parametrize("kept", ["all", "natural", "strictly rendition"])
def test_intervals_hold_as_often_as_they_say(kept: str) -> None:
    """Heads that err at known rates, tested on few rows, over many stores and what is kept of them.

    A keep-list that heads drew is the hard case: heads say that all of it is of one domain.
    """
    random = np.random.default_rng(4)
    held, stores = 0, 80
    for _ in range(stores):
        tested = [random.multinomial(n, RATES[i].ravel()) for i, n in enumerate((400, 300, 150))]
        rows = random.multinomial(20_000, random.dirichlet([4, 3, 1]))
        said = np.array([random.multinomial(n, RATES[i].ravel()) for i, n in enumerate(rows)])
        mine = said.reshape(3, 3, 3).copy()
        if kept == "natural":
            mine[:, 1:] = 0
        elif kept == "strictly rendition":
            mine[:, :, :2] = 0
        found = estimate(
            as_said(mine.sum(axis=0)),
            as_said(said.sum(axis=0)),
            dict(zip(LABELS, map(as_said, tested), strict=True)),
        )
        assert found is not None
        truly = mine.sum(axis=(1, 2)) / mine.sum()
        held += sum(
            found[label].low <= truly[i] <= found[label].high for i, label in enumerate(LABELS)
        )
    assert held >= 0.9 * 3 * stores  # nominally 0.95, of draws that are not independent


def test_nothing_is_estimated_from_nothing() -> None:
    some, none = as_said(np.ones(9, int)), as_said(np.zeros(9, int))
    assert estimate(none, some, dict.fromkeys(LABELS, some)) is None
    assert estimate(some, some, {**dict.fromkeys(LABELS, some), "ambiguous": none}) is None


def test_the_shares_of_the_paper_are_beside(world: Path, capsys: Any) -> None:
    for shares in PAPER.values():
        for row in shares.values():
            assert sum(row) == pytest.approx(1, abs=2e-4)
    call = ["domains", "composition", f"LAION_200M={world / 'domains'}", "--keep"]
    assert main([*call, str(world / "few"), "--json"]) == 0
    laion, few = json.loads(capsys.readouterr().out)["sets"]
    assert laion["paper"]["strict"]["natural"] == 0.2840
    assert few["paper"] is None
    assert main([*call, str(world / "few")]) == 0
    shown = capsys.readouterr().out
    assert "60.74 %" in shown and "paper, strict" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_heads_and_stores_must_agree(world: Path, tmp_path: Path) -> None:
    fitted(world, out="others", seed=3)
    store = str(world / "store")
    clipgap.label_domains(store, world / "others", out=tmp_path / "others", model=MODEL)
    with pytest.raises(InputError, match="Label both by the same"):
        clipgap.composition([world / "domains", tmp_path / "others"])
    with pytest.raises(InputError, match="of the store of several"):
        clipgap.composition({"a": world / "domains", "b": world / "domains"}, keep=world / "few")
    other = write_world(tmp_path / "other", n=200)
    clipgap.label_domains(str(other / "store"), world / "heads", out=other / "domains", model=MODEL)
    with pytest.raises(InputError, match="of the store of none"):
        clipgap.composition(other / "domains", keep=world / "few")


def test_damage_is_refused(world: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world / "domains", tmp_path / "domains"))
    part = folder / "train" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"part-00001\.parquet is damaged"):
        clipgap.composition(folder, keep=world / "few")
    mend(folder, lambda said: said["counts"]["both"].pop("natural"))
    with pytest.raises(InputError, match="manifest"):
        clipgap.composition(folder)
    with pytest.raises(InputError, match="manifest"):
        clipgap.composition(world / "heads")


def test_a_confusion_that_is_wrong_is_found(world: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world / "domains", tmp_path / "domains"))

    def change(said: dict[str, Any]) -> None:
        said["inputs"]["heads"]["confusion"]["natural"]["natural"]["rendition"] += 1

    mend(folder, change)
    assert "confusion of the heads" in failures(clipgap.verify(folder))["rows"]
