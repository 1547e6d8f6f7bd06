"""`emulate` against a dense emulation in NumPy, and its arithmetic against its definition."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import clipgap
from clipgap.__main__ import main
from clipgap.errors import InputError, UsageError
from clipgap.keep.lists import open_keep
from clipgap.runs.how import Progress
from clipgap.select.rules import Prune
from clipgap.verify import emulate as emulation
from clipgap.verify.rounding import Arithmetic
from tests.thorough import examples
from tests.worlds import edited_manifest, thresholds

D = 24
SHARDS = (70, 0, 50)
KINDS = ("float32", "tf32", "float16")


def fine_rows(n: int, seed: int) -> NDArray[np.float32]:
    """Float32 rows in a cone, finer than float16; norms within what a scan takes as they are."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(n, D)) + 1.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training rows of which many are the reference's own, rounded to float16, or one step off."""
    folder = tmp_path_factory.mktemp("emulate")
    reference = fine_rows(60, 1)
    (folder / "train").mkdir()
    for shard, n in enumerate(SHARDS):
        rows = fine_rows(n, 10 + shard).astype(np.float16)
        rows[::3] = reference[: len(rows[::3])].astype(np.float16)
        rows[1::3] = rows[::3][: len(rows[1::3])]
        rows[1::3, 0] = np.nextafter(rows[1::3, 0], np.float16(2))
        np.save(folder / "train" / f"{shard:05d}.npy", rows)
    np.save(folder / "ref.npy", reference)
    tests = {"a": folder / "a.npy", "b": folder / "b.npy"}
    for seed, path in enumerate(tests.values()):
        np.save(path, fine_rows(25, 30 + seed))
    clipgap.gap(folder / "ref.npy", tests, k=60, out=folder / "gap")
    clipgap.scan(folder / "train", tests, gap=folder / "gap", k=1, out=folder / "scan")
    return folder


def rounded(kind: str, rows: NDArray[Any]) -> NDArray[np.float64]:
    """By definition: float16, or float32 with the last 13 bits rounded away."""
    if kind == "float16":
        return rows.astype(np.float16).astype(np.float64)
    single = rows.astype(np.float32)
    if kind == "tf32":
        mantissa, exponent = np.frexp(single.astype(np.float64))
        return np.ldexp(np.rint(mantissa * 2**11), exponent - 11)
    return single.astype(np.float64)


def dense(folder: Path, kind: str, candidates: int) -> dict[str, Any]:
    """All scores at once, lists by sorting: the shortcuts as they would be written down."""
    result = np.float16 if kind == "float16" else np.float32
    reference = np.load(folder / "ref.npy")
    shards = [np.load(folder / "train" / f"{s:05d}.npy") for s in range(len(SHARDS))]
    x = np.concatenate(shards)
    masks, sets = [], {}
    for name in "ab":
        t = np.load(folder / f"{name}.npy")
        t16, r16 = t.astype(np.float16), reference.astype(np.float16)
        tau = thresholds(r16, t16)
        exact = (x.astype(np.float64) @ t16.astype(np.float64).T > tau).any(axis=1)
        rough_tau = (rounded(kind, reference) @ rounded(kind, t).T).astype(result).max(axis=0)
        above, found, full, start = [], [], 0, 0
        for rows in shards:
            scores = (rounded(kind, rows) @ rounded(kind, t).T).astype(result)
            over = scores > rough_tau
            listed = np.zeros_like(over)
            for point in range(len(t)):
                best = np.argsort(-scores[:, point].astype(np.float64), kind="stable")[:candidates]
                listed[best, point] = True
                full += bool((over & ~listed)[:, point].any())
            above.append(over.any(axis=1))
            found.append((over & listed).any(axis=1))
            start += len(rows)
        mask = exact, np.concatenate(above), np.concatenate(found)
        masks.append(mask)
        sets[name] = {**counts(*mask), "full_lists": full}
        sets[name]["tau_lower"] = int((rough_tau.astype(np.float64) < tau).sum())
        sets[name]["tau_higher"] = int((rough_tau.astype(np.float64) > tau).sum())
    joint = [np.any(part, axis=0) for part in zip(*masks, strict=True)]
    return {**sets, "any": counts(*joint)}


def counts(exact: Any, above: Any, found: Any) -> dict[str, int]:
    return {
        "exact": int(exact.sum()),
        "emulated": int(found.sum()),
        "missed_by_list": int((exact & above & ~found).sum()),
        "missed_by_rounding": int((exact & ~above).sum()),
        "wrong": int((found & ~exact).sum()),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("candidates", [1, 2, 5, 20_000])
def test_shortcuts_equal_a_dense_emulation(
    made: Path, monkeypatch: pytest.MonkeyPatch, kind: str, candidates: int
) -> None:
    for name, value in {"_ROWS": 7, "_COLUMNS": 9, "_PAIRS": 40}.items():
        monkeypatch.setattr(emulation, name, value)
    found = clipgap.emulate(made / "scan", candidates=candidates, arithmetic=kind)
    expected = dense(made, kind, candidates)
    for one in (*found.sets, found.any):
        wanted = expected[one.name]
        assert {name: getattr(one, name) for name in wanted} == wanted
        assert one.tau_unsure == 0
        missed = one.missed_by_list + one.missed_by_rounding
        assert one.exact - missed == one.emulated - one.wrong


def test_the_data_shows_every_kind_of_harm(made: Path) -> None:
    """Else the test above would compare zeros."""
    few = clipgap.emulate(made / "scan", candidates=1, arithmetic="float32")
    assert few.any.missed_by_list > 0
    assert all(one.full_lists > 0 for one in few.sets)
    rough = clipgap.emulate(made / "scan", arithmetic="float16")
    assert rough.any.missed_by_rounding > 0
    plain = clipgap.emulate(made / "scan")
    # Reference rows in the training set: by definition at their threshold, with rounding above it.
    assert plain.any.wrong > 0
    assert any(one.tau_lower and one.tau_higher for one in plain.sets)


def joined_maxima(lists: list[Any], garbage: float) -> Any:
    """Thresholds as clip-ood's combine_sims.py takes them, of memory that held `garbage`.

    From a description of its behaviour at 0f7b418: a buffer for six lists of n candidates a point.
    """
    n = lists[0].shape[1]
    buffer, end = np.full((len(lists[0]), 6 * n), garbage) - 10, 0
    for scores in lists:
        buffer[:, end : end + n] = scores
        end += n
        if end == 6 * n:
            best = -np.sort(-buffer, axis=1)[:, :n]
            buffer, end = np.full_like(buffer, garbage) - 10, n
            buffer[:, :n] = best
    return buffer.max(axis=1)  # NaN if there is one, as torch's topk has it


@pytest.mark.parametrize("files", [1, 2, 5, 6, 7, 11])
def test_what_hangs_on_memory_that_nothing_filled(made: Path, tmp_path: Path, files: int) -> None:
    reference = np.load(made / "ref.npy")
    (tmp_path / "ref").mkdir()
    for number, rows in enumerate(np.array_split(reference, files)):
        np.save(tmp_path / "ref" / f"{number:05d}.npy", rows)
    tests = {"a": made / "a.npy"}
    gap = clipgap.gap(tmp_path / "ref", tests, k=60, out=tmp_path / "gap")
    scan = clipgap.scan(made / "train", tests, gap=gap, k=1, out=tmp_path / "scan")
    found = clipgap.emulate(scan, candidates=3, undefined=True)
    plain = clipgap.emulate(scan, candidates=3)
    assert plain.any.undefined == plain.unfilled == 0
    assert plain.any.emulated == found.any.emulated == found.any.undefined > 0
    right = reference.astype(np.float64) @ np.load(made / "a.npy").T.astype(np.float64)
    best = [-np.sort(-scores, axis=0)[:3] for scores in np.array_split(right, files)]
    lists = [np.pad(one, ((0, 3 - len(one)), (0, 0)), constant_values=-10).T for one in best]
    assert np.array_equal(joined_maxima(lists, 0.0), right.max(axis=0))
    for garbage in (12.0, float("nan"), float("inf")):  # no score exceeds such a threshold
        assert not (right > joined_maxima(lists, garbage)).any()
    last = found.unfilled // 3
    assert last == {1: 5, 2: 4, 5: 1, 6: 5, 7: 4, 11: 5}[files]


def test_short_lists_of_the_gap_are_reported(made: Path, tmp_path: Path) -> None:
    tests = {"a": made / "a.npy", "b": made / "b.npy"}
    clipgap.gap(made / "ref.npy", tests, k=1, out=tmp_path / "gap")
    clipgap.scan(made / "train", tests, gap=tmp_path / "gap", k=1, out=tmp_path / "scan")
    found = clipgap.emulate(tmp_path / "scan", arithmetic="tf32")
    assert [one.tau_unsure for one in found.sets] == [25, 25]


@given(st.floats(-2, 2, width=32))
@examples(200)
def test_tf32_is_rounding_to_eleven_bits(value: float) -> None:
    if value and abs(value) < 2.0**-100:
        return  # tf32 has subnormal numbers as well, but no embedding does
    number = np.array([[value]], np.float32)
    assert Arithmetic.named("tf32").rounded(number)[0, 0] == rounded("tf32", number)[0, 0]


def test_what_cannot_be_emulated(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown arithmetic 'int4'"):
        clipgap.emulate(made / "scan", arithmetic="int4")
    with pytest.raises(UsageError, match="at least 1"):
        clipgap.emulate(made / "scan", candidates=0)
    with pytest.raises(UsageError, match="without a gap"):
        clipgap.emulate(clipgap.scan(made / "train", {"a": made / "a.npy"}, k=1))
    other = tmp_path / "other"
    shutil.copytree(made / "train", other)
    np.save(other / "00002.npy", fine_rows(50, 77).astype(np.float16))
    with pytest.raises(InputError, match="no longer those of"):
        clipgap.emulate(made / "scan", train=other)


@pytest.mark.parametrize("candidates", [1, 20_000])
def test_what_the_shortcuts_keep(made: Path, tmp_path: Path, candidates: int) -> None:
    """As a keep-list; verify makes it again, and the points with full lists have names."""
    out = tmp_path / "keep"
    seen: list[Progress] = []
    found = clipgap.emulate(made / "scan", out=out, candidates=candidates, on_progress=seen.append)
    emulating = [one for one in seen if one.stage == "emulating"]
    assert emulating[-1].done == emulating[-1].total == sum(SHARDS)
    assert emulating[-1].seconds_left is not None
    keep = open_keep(out)
    assert keep.rows - keep.kept == found.any.emulated
    assert keep.manifest["rule"]["candidates"] == candidates
    assert clipgap.verify(out).ok
    for one in found.sets:
        assert sum(point.lists for point in one.full) == one.full_lists
        assert bool(one.full) == (candidates == 1)
    exact = clipgap.split(made / "scan", Prune(("a", "b")), out=tmp_path / "exact").keep
    differing = [
        np.count_nonzero(exact.bits(shard) != keep.bits(shard)) for shard in range(len(SHARDS))
    ]
    missed = found.any.missed_by_list + found.any.missed_by_rounding
    assert sum(differing) == missed + found.any.wrong
    again = clipgap.emulate(made / "scan", out=out, candidates=candidates, resume=True)
    assert again == replace(found, already_complete=True)
    with pytest.raises(InputError, match="candidates"):
        clipgap.emulate(made / "scan", out=out, candidates=7, resume=True)
    with edited_manifest(out) as manifest:
        manifest["rule"]["candidates"] = 1 if candidates > 1 else 20_000
    assert not clipgap.verify(out).ok


def test_from_the_command_line(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emulate", str(made / "scan"), "--candidates", "2"]) == 0
    printed = capsys.readouterr().out
    assert "lists of 2 a shard" in printed
    assert "missed: list full" in printed
    assert main(["emulate", str(made / "scan"), "--candidates", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["any"]["missed_by_list"] == dense(made, "float32", 2)["any"]["missed_by_list"]
    assert main(["emulate", str(made / "scan"), "--undefined"]) == 0
    assert "that nothing filled" in capsys.readouterr().out
    assert main(["emulate", str(made / "scan"), "--arithmetic", "x"]) == 2
    out = made / "kept"
    assert main(["emulate", str(made / "scan"), "--candidates", "2", "-o", str(out)]) == 0
    assert "candidates = 2" in (made / "kept.toml").read_text(), "a folder's settings lie beside it"
