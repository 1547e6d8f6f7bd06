"""`clipgap dedup` from arguments to exit code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.keep.lists import open_keep
from tests.test_cli_commands import call
from tests.test_dedup import DATA

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
