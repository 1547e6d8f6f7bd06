"""The demo, small: what was planted is known, so what it reports can be checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clipgap import demo, open_scan, open_store
from clipgap.cli.main import main
from clipgap.demo import Outcome, Sizes, TestKind, make_data, prepare, run_demo
from clipgap.errors import InputError

SMALL = Sizes(
    web=400,
    reference=100,
    tests=(TestKind("val", 40, 20, likeness=1.0), TestKind("sketch", 30, 15, likeness=0.7)),
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_demo(tmp_path_factory.mktemp("demo") / "out", lambda progress: None, SMALL)


def test_the_outcome_is_what_was_planted(outcome: Outcome) -> None:
    assert outcome.as_expected
    assert outcome.rows == 400 + 100 + 20 + 15
    assert (outcome.reference_rows, outcome.reference_pruned) == (100, 0)
    assert 0 < outcome.reference_ties <= 100
    assert [found.planted for found in outcome.sets] == [20, 15]
    assert all(0 < found.nearer == found.found for found in outcome.sets)
    table = open_scan(outcome.folder / "scan").train_table()
    either = table["pruned_val"].to_numpy() | table["pruned_sketch"].to_numpy()
    assert outcome.pruned == either.sum()
    ties = (table["margin_val"].to_numpy() == 0) | (table["margin_sketch"].to_numpy() == 0)
    keys = np.array(table["key"].to_pylist())
    assert outcome.reference_ties == sum(ties & np.char.startswith(keys, "reference-"))


def test_a_wrong_scan_would_show(outcome: Outcome) -> None:
    first, *rest = outcome.sets
    for broken in (
        {"sets": (demo.SetOutcome(**{**vars(first), "found": first.nearer - 1}), *rest)},
        {"reference_pruned": 1},
    ):
        assert not Outcome(**{**vars(outcome), **broken}).as_expected


def test_keys_say_where_a_training_row_comes_from(tmp_path: Path) -> None:
    made = make_data(tmp_path, SMALL)
    train = open_store(tmp_path / "train")
    assert (train.format, len(train.shards), train.rows) == ("clip-retrieval", 4, 535)
    reference = open_store(tmp_path / "reference").read(0, 0, 100)
    own = made.origin == "reference"
    np.testing.assert_array_equal(made.rows[own], reference[made.number[own]])
    first = train.keys(0, 0, 8)
    assert first is not None
    assert first[7].as_py() == f"{made.origin[7]}-{made.number[7]:06d}"


def test_it_replaces_its_own_folder_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train").write_text("precious")
    with pytest.raises(InputError, match="left alone"):
        prepare(tmp_path / "mine")
    assert (tmp_path / "mine" / "train").read_text() == "precious"
    with pytest.raises(InputError, match="is a file"):
        prepare(tmp_path / "mine" / "train")

    prepare(tmp_path / "ours")
    (tmp_path / "ours" / "scan").mkdir()
    (tmp_path / "ours" / "notes.txt").write_text("kept")
    prepare(tmp_path / "ours")
    assert not (tmp_path / "ours" / "scan").exists()
    assert (tmp_path / "ours" / "notes.txt").exists()


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "Sizes", lambda: SMALL)
    assert main(["demo"]) == 0
    said = capsys.readouterr().out
    assert "535 rows scanned" in said
    for path in ("train", "test/val.parquet", "test/sketch.parquet", "manifest.json"):
        assert f"clipgap-demo/scan/{path} " in said
        assert (tmp_path / "clipgap-demo" / "scan" / path).exists()
    assert main(["demo", "--json", "-o", "clipgap-demo"]) == 0
    assert json.loads(capsys.readouterr().out)["as_expected"] is True
