"""`clipgap dedup` from arguments to exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.errors import InputError, UsageError
from clipgap.keep.lists import open_keep
from clipgap.study.run import Study
from tests.test_cli_commands import call
from tests.test_dedup import DATA
from tests.worlds import edited_manifest, unit_rows

ROWS = DATA["crowd"]
WITHIN = ["--clusters", "4", "--iterations", "3"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPGAP_THREADS", "1")
    np.save("store.npy", ROWS)
    return tmp_path


def test_what_it_makes_is_what_the_api_makes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["dedup", "store.npy", "--epsilon", "0.05", "--epsilon", "0.2", *WITHIN]
    options = ["--mode", "chain", "--keep", "centroid-near", "--seed", "7", "--audit", "30"]
    found = call(capsys, *arguments, *options, "-o", "k-{epsilon}")
    same = clipgap.dedup(
        ROWS,
        [0.05, 0.2],
        clusters=4,
        iterations=3,
        mode="chain",
        keep="centroid-near",
        seed=7,
        audit=30,
    )
    assert found["clustering"] == same.clustering
    for one, expected in zip(found["lists"], same.lists, strict=True):
        assert one["rule"] == expected.rule
        assert one["audit"] == expected.audit
        keep = open_keep(one["out"])
        np.testing.assert_array_equal(keep.bits(0), expected.mask(0))
    again = call(capsys, "dedup", "--config", "k-all.toml", "--resume")
    assert again == {**found, "already_complete": True}


def test_what_people_read(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("store.npy", np.concatenate([ROWS, ROWS[:1] * 0]))
    arguments = ["dedup", "store.npy", "--epsilon", "0.05", *WITHIN, "--audit", "50"]
    assert main([*arguments, "-o", "k"]) == 4, "a row was set aside"
    out = capsys.readouterr().out
    for words in ("Clusters: 4, 0 of them empty", "removed", "set aside", "1 row", "Audit at ε"):
        assert words in out
    assert "Keep-list: k" in out
    assert main(["dedup", "store.npy", "--epsilon", "0.05", "--exact", "-o", "e"]) == 4
    assert "Clusters" not in capsys.readouterr().out


def test_a_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    plan = call(capsys, "dedup", "store.npy", "--epsilon", "0.05", *WITHIN, "--dry-run")
    assert plan["store"]["rows"] == len(ROWS)
    assert plan["operations"] > 2 * len(ROWS) * 4 * 12 * 3
    assert plan["expected"]["seconds"] > 0
    assert main(["dedup", "store.npy", "--epsilon", "0.05", "--exact", "--dry-run"]) == 0
    assert "all rows are compared with all" in capsys.readouterr().out
    assert sorted(path.name for path in Path().iterdir()) == ["store.npy"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--epsilon", "0.05", *WITHIN], 2, "--out is missing"),
        (["--epsilon", "2", *WITHIN, "-o", "k"], 2, "between 0 and 2"),
        (["--epsilon", "0.1", "-o", "k"], 2, "--exact"),
        (["--epsilon", "0.1", "--clusters", "151", "-o", "k"], 3, "more than the 150 rows"),
        (["--epsilon", "0.1", "--epsilon", "0.2", *WITHIN, "-o", "k"], 2, "{epsilon}"),
        (["--epsilon", "0.1", *WITHIN, "--memory", "0", "-o", "k"], 2, "memory is 0"),
        (["--epsilon", "0.1", *WITHIN, "--memory", "nan", "-o", "k"], 2, "memory is nan"),
        (["--epsilon", "0.1", *WITHIN, "--memory", "inf", "-o", "k"], 2, "memory is inf"),
        (["--epsilon", "0.1", *WITHIN, "--seed", "-5", "-o", "k"], 2, "seed is -5"),
        (["--epsilon", "0.1", *WITHIN, "--sample", "0", "-o", "k"], 2, "sample is 0"),
        (["--epsilon", "nan", *WITHIN, "-o", "k"], 2, "epsilon is nan"),
        (["--epsilon", "0.1", *WITHIN, "--kernel", "abacus", "-o", "k"], 2, "unknown kernel"),
        (["--epsilon", "0.1", *WITHIN, "-o", "store.npy"], 3, "store.npy is a file"),
        ([*WITHIN, "-o", "k"], 2, "--epsilon"),
    ],
)
def test_what_cannot_be_done(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dedup", "store.npy", *arguments]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("k").exists()
    assert not Path("k.work").exists()


def test_decontamination_takes_what_copies_connect(tmp_path: Path) -> None:
    """Planted: a copy of an evaluation row, a row like that copy alone, one like that one.

    Rows that are duplicates of each other, and like nothing that is evaluated, stay.
    """
    random = np.random.default_rng(3)
    rows = random.normal(size=(60, 48))

    def near(row: Any, seed: int) -> Any:
        return row + 0.4 * np.linalg.norm(row) * unit_rows(1, 48, seed)[0].astype(np.float64)

    evaluation = rows[:2].copy()
    rows[10] = near(evaluation[0], 1)
    rows[11] = near(rows[10], 2)
    rows[12] = near(rows[11], 3)
    rows[13] = near(evaluation[1], 4)  # alone
    rows[21] = near(rows[20], 5)  # of no evaluation
    rows[:2] = random.normal(size=(2, 48))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    (tmp_path / "train").mkdir()
    for shard, part in enumerate(np.split(rows.astype(np.float16), [25, 25])):
        np.save(tmp_path / "train" / f"{shard:05d}.npy", part)
    evaluation /= np.linalg.norm(evaluation, axis=1, keepdims=True)
    for n in range(2):
        np.save(tmp_path / f"{n}.npy", evaluation[n : n + 1].astype(np.float16))

    joined = f"{tmp_path / '0.npy'}::{tmp_path / '1.npy'}"
    places = {"train": str(tmp_path / "train"), "evaluation": joined}
    study = Study("decontaminate", tmp_path / "study", places)
    for step in study.plan().steps:
        assert main([*step.stage.command.words, *step.stage.arguments, "-q"]) == 0, step.call

    def gone(name: str) -> list[int]:
        keep = open_keep(tmp_path / "study" / name)
        return np.flatnonzero(np.concatenate([~keep.bits(s.index) for s in keep.shards])).tolist()

    exact = rows.astype(np.float16).astype(np.float64)
    assert (exact[[11, 12]] @ evaluation.T).max() < 0.9, "only copies lead to these"
    assert gone("away") == [10, 13]
    assert gone("clean") == [10, 11, 12, 13]
    with edited_manifest(tmp_path / "study" / "clean") as manifest:
        manifest["rule"]["epsilon"] = 0.02
    assert not clipgap.verify(tmp_path / "study" / "clean").ok


def test_tainted_rows_need_components_of_the_same_store(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", unit_rows(8, 6, 0))
    np.save(tmp_path / "b.npy", unit_rows(8, 6, 1))
    clipgap.dedup(tmp_path / "a.npy", 0.01, exact=True, out=tmp_path / "keep")
    options: dict[str, Any] = {"exact": True, "tainted": str(tmp_path / "keep")}
    with pytest.raises(UsageError, match="--mode components"):
        clipgap.dedup(tmp_path / "a.npy", 0.01, **options)
    with pytest.raises(InputError, match="is of another store than"):
        clipgap.dedup(tmp_path / "b.npy", 0.01, mode="components", **options)
