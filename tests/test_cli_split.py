"""`clipgap split` from arguments to exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.keep.lists import open_keep
from tests.test_cli_commands import SETS, call, data  # noqa: F401

PRUNE = ["--prune", "a", "--prune", "b"]


@pytest.fixture
def scan(data: Path, capsys: pytest.CaptureFixture[str]) -> str:  # noqa: F811
    call(capsys, "gap", "ref.npy", *SETS, "-o", "gap")
    call(capsys, "scan", "train", *SETS, "--gap", "gap", "-o", "scan")
    return "scan"


def test_pruning_from_the_command_line(scan: str, capsys: pytest.CaptureFixture[str]) -> None:
    planned = call(capsys, "split", scan, *PRUNE, "--dry-run")
    assert not Path("k").exists()
    found = call(capsys, "split", scan, *PRUNE, "-o", "k")
    assert found["sizes"] == planned["sizes"]
    table = clipgap.open_scan(scan).train_table()
    pruned = [table[f"pruned_{name}"].to_numpy() for name in "ab"]
    assert open_keep("k").kept == found["sizes"]["kept"] == (~(pruned[0] | pruned[1])).sum()
    assert found["sizes"]["by_set"]["a"]["also_by"]["b"] == (pruned[0] & pruned[1]).sum()
    assert call(capsys, "split", "--config", "k.toml", "--resume")["already_complete"] is True


def test_what_people_read(scan: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["split", scan, *PRUNE, "-o", "k"]) == 0
    out = capsys.readouterr().out
    for words in ("100  rows of the store", "kept (", "also by b", "by no other", "verify k"):
        assert words in out
    assert main(["split", scan, "--prune", "a", "-o", "alone"]) == 0
    assert "by no other" not in capsys.readouterr().out
    assert main(["split", scan, "--far", "7", "--by", "a", "--within", "k", "-o", "f"]) == 0
    out = capsys.readouterr().out
    assert "outside of --within" in out
    assert "cut at similarity" in out


@pytest.mark.parametrize(
    "arguments",
    [
        "--near 20 --by a",
        "--far 20 --by b",
        "--core 20 --by a --by b",
        "--rand 20 --seed 5",
    ],
)
def test_exact_sizes(scan: str, capsys: pytest.CaptureFixture[str], arguments: str) -> None:
    found = call(capsys, "split", scan, *arguments.split(), "-o", "k")
    assert found["rule"]["name"] == arguments.split()[0][2:]
    assert open_keep("k").kept == 20


def test_keep_lists_combine(scan: str, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in "12":
        call(capsys, "split", scan, "--rand", "50", "--seed", seed, "-o", f"r{seed}")
    masks = [np.concatenate([open_keep(f"r{n}").bits(s) for s in range(3)]) for n in (1, 2)]
    expected = {
        "union": masks[0] | masks[1],
        "intersection": masks[0] & masks[1],
        "difference": masks[0] & ~masks[1],
    }
    for operation, mask in expected.items():
        found = call(capsys, "split", "r1", "r2", f"--{operation}", "-o", operation)
        kept = np.concatenate([open_keep(operation).bits(shard) for shard in range(3)])
        np.testing.assert_array_equal(kept, mask)
        assert found["sizes"]["kept"] == mask.sum()


def test_labels_and_reference(scan: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("labels.csv").write_text("key,x\nno-such-key,1\n")
    found = call(capsys, "split", scan, "--where", "x=1", "--labels", "labels.csv", "-o", "w")
    assert found["sizes"]["unlabelled"] == 100  # this store has no keys
    joined = ["--with-reference", "ref.npy", "--caption", "a photo"]
    call(capsys, "split", scan, *PRUNE, *joined, "-o", "k")
    assert open_keep("k").reference().num_rows == 30


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("-o k", 2, "exactly one of"),
        ("--rand 3 --prune a -o k", 2, "--rand and --prune"),
        ("--prune a", 2, "--out is missing"),
        ("--near 3 -o k", 2, "--near needs --by"),
        ("--below 0.3 -o k", 2, "--below needs --by"),
        ("--below 2 --by a -o k", 2, "must lie between -1 and 1"),
        ("--rand 3 --by a -o k", 2, "--by does nothing with --rand"),
        ("--rand 3 --offset 1 -o k", 2, "--offset does nothing"),
        ("--prune a --seed 1 -o k", 2, "--seed does nothing"),
        ("--prune a --labels l -o k", 2, "--labels does nothing"),
        ("--where x=1 -o k", 2, "--where needs --labels"),
        ("--prune a --reference-classes c -o k", 2, "without --with-reference"),
        ("--prune nope -o k", 2, "has no test set 'nope'"),
        ("--rand 101 -o k", 3, "cannot keep 101 rows"),
        ("--prune a --within gap -o k", 3, "not the document of a clipgap keep-list"),
        ("--prune a -o train", 3, "not a clipgap keep-list"),
        ("--union -o k", 2, "at least two"),
    ],
)
def test_calls_that_are_refused(
    scan: str, capsys: pytest.CaptureFixture[str], arguments: str, code: int, message: str
) -> None:
    error: Any = call(capsys, "split", scan, *arguments.split(), code=code)["error"]
    assert message in error
    assert not Path("k").exists()
    assert json.loads(Path("scan/manifest.json").read_bytes())["kind"] == "scan"
