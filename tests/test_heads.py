"""Heads: fitted to the minimum, exact in their scores, honest about their precision."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import clipgap
from clipgap.__main__ import main
from clipgap.domains.api import described_head, shares_of
from clipgap.domains.fitting import fit
from clipgap.domains.labelled import PARTS, Labelled, deal
from clipgap.domains.precision import Scored
from clipgap.errors import InputError, ResumeError, UsageError
from clipgap.files.documents import MANIFEST, SUM, checksum, encode
from clipgap.files.sums import FileSum
from clipgap.heads.heads import (
    COUNTS,
    DOMAIN_COLUMNS,
    HEADS,
    LABELS,
    WEIGHTS,
    Head,
    Heads,
    open_heads,
    read_tensors,
    require_model,
    write_tensors,
)
from clipgap.intervals import lower_bound, trials_for
from clipgap.kernels import cpu
from clipgap.store.opening import open_store
from tests.test_verify import failures, next_float32, tamper
from tests.worlds import tree

MODEL = "a-model/its-weights"


def planted(n: int, seed: int, dim: int = 8) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Rows around three directions that overlap, with their labels."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, n, p=[0.5, 0.2, 0.3])
    centres = np.eye(3, dim) * 1.2
    rows = centres[labels] + random.normal(size=(n, dim)) * 0.4
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16), labels


def write_world(folder: Path, n: int = 400, seed: int = 1) -> Path:
    """A store of two shards and a table of labels."""
    folder.mkdir(exist_ok=True)
    rows, labels = planted(n, seed)
    half = n // 2
    (folder / "store").mkdir()
    np.save(folder / "store" / "0.npy", rows[:half])
    np.save(folder / "store" / "1.npy", rows[half:])
    table = {
        "shard": np.arange(n) // half,
        "row": np.arange(n) % half,
        "domain": np.array(LABELS)[labels],
        "class": np.array(["axe", "bed"])[np.arange(n) % 3 % 2],
    }
    pq.write_table(pa.table(table), folder / "labels.parquet")
    return folder


def fitted(folder: Path, out: str | None = "heads", **more: Any) -> Any:
    more = {"precision": 0.9, "model": MODEL, **more}
    out_ = None if out is None else folder / out
    return clipgap.fit_heads(
        str(folder / "store"), str(folder / "labels.parquet"), out=out_, **more
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_world(tmp_path_factory.mktemp("heads"))
    fitted(folder)
    return folder


# --- bounds


def test_clopper_and_pearson() -> None:
    assert trials_for(0.98) == 149
    for failures_, enough in ((0, 149), (1, 236), (5, 523)):
        assert lower_bound(enough - failures_, enough) >= 0.98
        assert lower_bound(enough - 1 - failures_, enough - 1) < 0.98
    assert lower_bound(149, 149) == pytest.approx(0.05 ** (1 / 149), abs=1e-12)
    assert lower_bound(0, 5) == 0.0
    assert lower_bound(1, 5) == pytest.approx(1 - 0.95 ** (1 / 5), abs=1e-12)
    # 20 of 1,000 wrong: at the bound, no more than 20 wrong has a chance of 5 %.
    bound = lower_bound(980, 1000)
    chance = sum(
        np.exp(np.log(np.arange(1001 - k, 1001)).sum() - np.log(np.arange(1, k + 1)).sum())
        * (1 - bound) ** k
        * bound ** (1000 - k)
        for k in range(21)
    )
    assert chance == pytest.approx(0.05, rel=1e-9)


# --- fitting and scores


def test_a_head_is_the_minimum() -> None:
    """The same as by many small steps downhill, which know nothing of second derivatives."""
    rows, labels = planted(300, 3)
    penalty, mine = 0.01, labels == 0
    head = fit("natural", rows, mine, penalty)
    x, sign = rows.astype(np.float64), np.where(mine, 1.0, -1.0)
    w, b = np.zeros(8), 0.0
    for _ in range(20_000):
        wrong = sign / (1 + np.exp(sign * (x @ w + b)))
        w -= 2.0 * (penalty * w - x.T @ wrong / len(x))
        b += 2.0 * wrong.mean()
    assert head.weight == pytest.approx(w, abs=1e-6)
    assert head.bias == pytest.approx(b, abs=1e-6)


def test_rows_that_can_be_parted_have_a_minimum_too() -> None:
    rows, labels = planted(60, 4)
    x = np.concatenate([rows, -rows])
    head = fit("natural", x, np.arange(120) < 60, 1e-6)
    again = fit("natural", x[::-1].copy(), np.arange(120) >= 60, 1e-6)
    assert np.isfinite(head.weight).all()
    assert head.weight == pytest.approx(again.weight, rel=1e-4)
    del labels


@given(scale=st.sampled_from([0.0, 1e-9, 0.3, 7.0, 63.9, 1e4]), seed=st.integers(0, 99))
def test_scores_are_exact_in_any_order(scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    weight, bias = random.normal(size=33) * scale, float(random.normal() * scale)
    head = Head.rounded("natural", weight, bias)
    assert head.is_exact
    assert head.weight == pytest.approx(weight, abs=max(scale, 1) * 1e-6)
    rows = random.normal(size=(5, 33))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    scores = head.scores(rows)
    order = random.permutation(33)
    other = Head("natural", head.weight[order], head.bias)
    assert np.array_equal(scores, other.scores(rows[:, order]))
    for row, score in zip(rows, scores, strict=True):
        terms = (Fraction(float(a)) * Fraction(b) for a, b in zip(row, head.weight, strict=True))
        assert Fraction(score) == sum(terms) + Fraction(head.bias)
    finer = Head("natural", head.weight + 2.0**-40, head.bias)
    assert not finer.is_exact


# --- parts


@given(st.integers(0, 90), st.sampled_from([0.1, 0.5, 0.75, 0.9]), st.integers(0, 60))
def test_every_stretch_has_its_share_of_each_part(rows: int, share: float, start: int) -> None:
    part = deal(rows, share)
    stretch = part[start:]
    for number, of in enumerate((share, (1 - share) / 2, (1 - share) / 2)):
        assert abs(np.count_nonzero(stretch == number) - of * len(stretch)) < 2


def test_parts_are_even_and_follow_keys_alone(world: Path, tmp_path: Path) -> None:
    counts = fitted(world, None).manifest["parts"]
    labels = pq.read_table(world / "labels.parquet").to_pylist()
    for label in LABELS:
        there = sum(row["domain"] == label for row in labels)
        shares = [counts[part][label] for part in PARTS]
        assert sum(shares) == there
        assert abs(shares[0] - there / 2) < 2
        assert abs(shares[1] - shares[2]) < 3
    other = fitted(world, None, train_share=0.75).manifest["parts"]
    assert sum(other["train"].values()) == 300


# --- thresholds


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=25),
    st.sampled_from([0.5, 0.8, 0.98, 1.0]),
)
def test_thresholds_by_brute_force(rows: list[tuple[int, int]], wanted: float) -> None:
    scores = np.array([score for score, _ in rows], np.float64)
    labels = np.array([label for _, label in rows])
    good = []
    for threshold in set(scores.tolist()):
        accepted = [label for score, label in rows if score >= threshold]
        if Fraction(accepted.count(2), len(accepted)) >= Fraction(str(wanted)):
            good.append(threshold)
    part = Scored("rendition", scores, labels)
    if not good:
        with pytest.raises(InputError, match="no threshold of the head 'rendition'"):
            part.lowest(wanted)
        return
    threshold = part.lowest(wanted)
    assert threshold == min(good)
    accepted = [label for score, label in rows if score >= threshold]
    found = part.at(threshold, wanted, None)
    assert found["accepted"] == len(accepted)
    assert found["wrong"] == sum(label != 2 for label in accepted)
    assert [row["threshold"] for row in part.curve(None)] == sorted(set(scores), reverse=True)


def test_precision_where_labels_are_as_common_as_declared() -> None:
    """Natural rows 8 of 10 accepted, ambiguous 1 of 4, renditions 1 of 2."""
    labels = np.repeat([0, 1, 2], [10, 4, 2])
    scores = np.zeros(16)
    scores[[*range(8), 10, 14]] = 1.0
    part = Scored("natural", scores, labels)
    there = shares_of(("natural=0.25", "rendition=0.5", "ambiguous=0.25"))
    found = part.at(1.0, 0.98, there)
    assert found["precision"] == 0.8
    assert found["volume_at_prevalence"] == pytest.approx(0.25 * 0.8 + 0.25 * 0.25 + 0.5 * 0.5)
    assert found["precision_at_prevalence"] == pytest.approx(0.2 / 0.5125)
    assert "even without an error it takes 149 accepted rows" in found["doubt"]
    same = part.at(1.0, 0.98, {"natural": 10 / 16, "ambiguous": 4 / 16, "rendition": 2 / 16})
    assert same["precision_at_prevalence"] == pytest.approx(0.8)


def test_the_bound_holds_as_often_as_it_says() -> None:
    """Over 200 draws the true precision lies below a 95 % bound in about ten of them."""
    all_rows, all_labels = planted(40_000, 999)
    below = near = 0
    for seed in range(200):
        rows, labels = planted(600, seed)
        labelled = Labelled(rows, labels, deal(600, 0.5))
        head = fit("natural", *_of(labelled, 0), 0.001)
        said = described_head(head, labelled, 0.95, None)
        accepted = all_labels[head.scores(all_rows) >= said["thresholds"]["strict"]]
        true = np.count_nonzero(accepted == 0) / len(accepted)
        below += true < said["found"]["strict"]["precision_at_least"]
        near += abs(true - 0.95) < 0.05
    assert below <= 19  # of ten expected, three standard deviations more
    assert near >= 190


def _of(labelled: Labelled, label: int) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    rows, labels = labelled.of("train")
    return rows, labels == label


# --- on disk


def test_fitted_heads(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heads = clipgap.open_heads(world / "heads")
    assert heads.model == MODEL
    assert heads.manifest["heads"]["rendition"]["rest"] == ["natural", "ambiguous"]
    content = (world / "heads" / WEIGHTS).read_bytes()
    size = int.from_bytes(content[:8], "little")
    about = json.loads(content[8 : 8 + size])["__metadata__"]
    assert about["natural"] == "accepts natural; the rest is ambiguous, rendition"
    assert (about["model"], about["normalisation"], size % 8) == (MODEL, "unit", 0)
    fitted(world, "again", threads=1)
    assert tree(world / "again") == tree(world / "heads")
    assert fitted(world, "again", resume=True).already_complete
    assert clipgap.verify(world / "heads").ok
    call = ["domains", "fit", str(world / "store"), "--labels", str(world / "labels.parquet")]
    call += ["--model", MODEL, "--precision", "0.9", "-o", str(world / "again"), "--overwrite"]
    assert main(call) == 0
    printed = capsys.readouterr().out
    assert "strict" in printed
    assert "The natural head, strict: a precision of 0.9 is not shown" in printed or (
        heads.manifest["heads"]["natural"]["found"]["strict"]["doubt"] is None
    )
    assert tree(world / "again") == tree(world / "heads")
    assert main([*call, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"] == heads.manifest["parts"]


def test_heads_refuse_other_embeddings(world: Path, tmp_path: Path) -> None:
    heads = open_heads(world / "heads")
    store = open_store(str(world / "store"))
    require_model(heads, store, MODEL)
    with pytest.raises(InputError, match="are heads for embeddings of a-model/its-weights"):
        require_model(heads, store, "another")
    with pytest.raises(InputError, match="does not tell which model"):
        require_model(heads, store, None)
    np.save(tmp_path / "wide.npy", np.eye(9, dtype=np.float16))
    with pytest.raises(InputError, match="for 8 dimensions"):
        require_model(heads, open_store(str(tmp_path / "wide.npy")), MODEL)


def mend(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest, and give it its checksum again."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_bytes())
    change(manifest)
    manifest[SUM] = checksum(manifest)
    path.write_bytes(encode(manifest))


@pytest.mark.parametrize("rows", [0, 1, 7, 600])
@pytest.mark.parametrize("dim", [3, 8, 33])
def test_scores_of_both_heads_are_those_of_each(
    rows: int, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every instruction set of this machine, on any number of threads, and without a library."""
    random = np.random.default_rng(rows)
    x = random.normal(size=(rows, dim))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    each = [Head.rounded(name, random.normal(size=dim) * 3, -0.7) for name in HEADS]
    heads = Heads(Path("heads"), {}, {head.name: head for head in each})
    right = np.stack([head.scores(x) for head in each], axis=1)
    for isa, supported in (cpu.instruction_sets() if cpu.is_built() else {}).items():
        if supported:
            monkeypatch.setenv("CLIPGAP_CPU_ISA", isa)
            assert np.array_equal(heads.scores(x, 1), right)
            assert np.array_equal(heads.scores(x, 3), right)
    monkeypatch.setattr(cpu, "is_built", lambda: False)
    assert np.array_equal(heads.scores(x), right)


# --- in a scan


def scanned(folder: Path, out: Path, **more: Any) -> clipgap.ScanResult:
    tests = {"a": str(folder / "store" / "0.npy"), "b": str(folder / "store" / "1.npy")}
    more = {"heads": folder / "heads", "model": MODEL, "k": 2, **more}
    return clipgap.scan(str(folder / "store"), tests, out=out, **more)


def _with_bad_rows(world: Path, folder: Path) -> Path:
    """The same world; two rows of its store have no scores."""
    copied = Path(shutil.copytree(world, folder))
    rows = np.load(copied / "store" / "0.npy")
    rows[5], rows[6] = 0, np.nan
    np.save(copied / "store" / "0.npy", rows)
    return copied


def test_a_scan_says_what_labelling_says(world: Path, tmp_path: Path) -> None:
    folder = _with_bad_rows(world, tmp_path / "world")
    bad = {"bad_rows": "quarantine"}
    labelled = clipgap.label_domains(
        str(folder / "store"), folder / "heads", out=tmp_path / "domains", model=MODEL, **bad
    )
    columns = ["shard", "row", *HEADS, *DOMAIN_COLUMNS]
    parts = ("train/part-00000.parquet", "train/part-00001.parquet")
    said = pa.concat_tables(
        pq.read_table(tmp_path / "domains" / part, columns=columns) for part in parts
    )
    assert said["domain"].null_count == said["natural"].null_count == 2
    for name, how in (("scan", {"threads": 2}), ("slow", {"kernel": "numpy", "block_rows": 7})):
        result = scanned(folder, tmp_path / name, **bad, **how)
        assert result.train_table().select(columns).equals(said)
        counts = result.manifest["counts"]
        assert {key: counts[key] for key in COUNTS} == {
            key: labelled.manifest["counts"][key] for key in COUNTS
        }
    assert tree(tmp_path / "scan") == tree(tmp_path / "slow")
    assert clipgap.verify(tmp_path / "scan", full=True).ok
    bare = scanned(folder, tmp_path / "bare", train_table=False, **bad)
    assert bare.manifest["counts"] == counts


def test_what_a_scan_says_is_composed_and_drawn_by(world: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world, tmp_path / "world"))
    store = str(folder / "store")
    clipgap.label_domains(store, folder / "heads", out=folder / "domains", model=MODEL)
    scanned(folder, folder / "scan")
    for labels in ("domains", "scan/train"):
        (folder / "mix.toml").write_text(
            f'[pool]\nstore = "store"\nlabels = ["{labels}"]\n[mixes.few]\nrule = "counts"\n'
            "parts = { natural = 30, rendition = 20 }\n"
        )
        clipgap.mix(folder / "mix.toml", out=folder / f"by-{labels[:4]}")
    kept = [tree(folder / name / "keep") for name in ("by-doma", "by-scan")]
    assert kept[0] == kept[1]
    by_label, by_scan = (
        [replace(each, name="", path=folder) for each in clipgap.composition(path, keep=keep)]
        for path, keep in (
            (folder / "domains", folder / "by-doma"),
            (folder / "scan", folder / "by-scan"),
        )
    )
    assert by_label == by_scan
    scanned(folder, folder / "bare", train_table=False)
    with pytest.raises(InputError, match="made without a training table"):
        clipgap.composition(folder / "bare", keep=folder / "by-doma")
    scanned(folder, folder / "plain", heads=None, model=None)
    with pytest.raises(InputError, match="is a scan without heads"):
        clipgap.composition(folder / "plain")


def test_a_scan_refuses_heads_of_other_embeddings(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, words in (
        ({"model": "another"}, "are heads for embeddings of a-model/its-weights"),
        ({"model": None}, "does not tell which model"),
        ({"heads": tmp_path}, "is not a finished folder of heads"),
    ):
        with pytest.raises(InputError, match=words):
            scanned(world, tmp_path / "scan", **more)
    with pytest.raises(UsageError, match="is said for heads"):
        scanned(world, tmp_path / "scan", heads=None)
    assert not (tmp_path / "scan").exists()
    scanned(world, tmp_path / "scan")
    fitted(world, tmp_path / "other", seed=1)
    with pytest.raises(ResumeError, match="heads manifest_sha256"):
        scanned(world, tmp_path / "scan", heads=tmp_path / "other", resume=True)
    call = ["scan", str(world / "store"), "--test", f"a={world / 'store' / '0.npy'}"]
    call += ["--heads", str(world / "heads"), "--model", MODEL]
    assert main([*call, "--dry-run"]) == 0
    assert f"heads  {world / 'heads'}" in capsys.readouterr().out.replace("\n", "")
    assert main([*call, "-o", str(tmp_path / "cli")]) == 0
    assert "domain_strict" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("column", "lie", "check", "words"),
    [
        ("natural", next_float32, "training rows", "row 4: natural is"),
        ("domain", lambda x: "sketch", "histograms and counts", "domain is none of natural, am"),
        ("domain", lambda x: LABELS[LABELS.index(x) - 1], "histograms and counts", "domain"),
    ],
)
def test_a_lie_of_a_scan_about_domains_is_found(
    world: Path, tmp_path: Path, column: str, lie: Callable[[Any], Any], check: str, words: str
) -> None:
    scanned(world, tmp_path / "scan")
    part = "train/part-00001.parquet"
    tamper(tmp_path / "scan", part, column, lambda v: v.__setitem__(4, lie(v[4])))
    assert words in failures(clipgap.verify(tmp_path / "scan", sample=400))[check]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("natural.bias"), "has no head 'natural'"),
        (lambda tensors: tensors.update({"natural.weight": np.ones(7)}), "of 8 dimensions"),
        (lambda tensors: tensors["natural.weight"].__iadd__(1e-13), "finer than exact scores"),
        (lambda tensors: tensors["natural.weight"].fill(np.nan), "finer than exact scores"),
        (lambda tensors: tensors["natural.weight"].fill(1e200), "finer than exact scores"),
    ],
)
def test_weights_that_cannot_be_used(
    world: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    folder = Path(shutil.copytree(world / "heads", tmp_path / "heads"))
    tensors = read_tensors((folder / WEIGHTS).read_bytes(), "weights")
    change(tensors)
    content = write_tensors(tensors, {})
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        open_heads(folder)
    mend(folder, lambda said: said["files"].update({WEIGHTS: vars(FileSum.of_bytes(content))}))
    with pytest.raises(InputError, match=words):
        open_heads(folder)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\x09" + bytes(7) + b"[1, 2, 3]", b"\xff" * 90),
        b"\x00\x00\x01" + bytes(5) + b"[" * (1 << 16),
    ],
)
def test_files_that_are_no_safetensors(content: bytes) -> None:
    with pytest.raises(InputError, match="is not a file of safetensors"):
        read_tensors(content, "it")


Lie = Callable[[dict[str, Any]], None]


def _lower(said: dict[str, Any]) -> None:
    said["heads"]["natural"]["thresholds"]["strict"] += 1e-9


def _surer(said: dict[str, Any]) -> None:
    said["heads"]["natural"]["found"]["strict"]["precision_at_least"] = 0.999


def _fewer(said: dict[str, Any]) -> None:
    said["heads"]["natural"]["found"]["strict"]["wrong"] += 1


def _recall(said: dict[str, Any]) -> None:
    said["heads"]["rendition"]["found"]["default"]["recall"] = 1.0


@pytest.mark.parametrize(
    ("lie", "check"),
    [(_lower, "counted again"), (_surer, "bounds"), (_fewer, "curve"), (_recall, "counted again")],
)
def test_a_lie_is_found(world: Path, tmp_path: Path, lie: Lie, check: str) -> None:
    folder = Path(shutil.copytree(world / "heads", tmp_path / "heads"))
    mend(folder, lie)
    if check != "counted again":
        assert check in failures(clipgap.verify(folder))
    else:
        assert list(failures(clipgap.verify(folder))) in ([check], ["curve"])


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lambda said: said["parts"]["train"].update(natural="7"), "parts 'train' 'natural' is '7'"),
        (lambda said: said["heads"]["natural"]["found"]["strict"].update(recall=[]), "recall is"),
        # Scores above the threshold are to be those of what a head is named for, of unit rows.
        (
            lambda said: said["heads"]["natural"].update(accepts="rendition"),
            "accepts is 'rendition'",
        ),
        (lambda said: said.update(normalisation="none"), "normalisation is 'none'"),
    ],
)
def test_what_is_printed_of_heads_has_its_type(
    world: Path, tmp_path: Path, lie: Lie, words: str
) -> None:
    folder = Path(shutil.copytree(world / "heads", tmp_path / "heads"))
    mend(folder, lie)
    with pytest.raises(InputError, match=words):
        open_heads(folder)


# --- bad input


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"domain": ["natural", "photo"]}, "the domain 'photo' is none that heads know"),
        ({"domain": ["natural", "natural"]}, "all labels are 'natural'"),
        ({"domain": ["natural", "rendition"], "row": [0, 0]}, "labels that contradict"),
        ({"domain": ["natural", "rendition"], "row": [0, 999]}, "labels are of rows that"),
        ({"domain": ["natural", "ambiguous"]}, "no row of the training part is"),
    ],
)
def test_labels_that_cannot_be_used(
    tmp_path: Path, table: Mapping[str, list[Any]], words: str
) -> None:
    folder = write_world(tmp_path / "world", 40)
    full = {"shard": [0, 0], "row": [0, 1], **table}
    pq.write_table(pa.table(full), folder / "labels.parquet")
    with pytest.raises(InputError, match=words) as error:
        fitted(folder, precision=0.5)
    assert "labels.parquet" in str(error.value) or "training part" in words
    assert not (folder / "heads" / MANIFEST).exists()


def test_a_precision_out_of_reach(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "world", 80)
    table = pq.read_table(folder / "labels.parquet").to_pydict()
    table["domain"] = [LABELS[i % 3] for i in range(80)]
    pq.write_table(pa.table(table), folder / "labels.parquet")
    with pytest.raises(InputError, match=r"no threshold of the head .* label more rows"):
        fitted(folder, precision=1.0, train_share=0.3)


def test_a_labelled_row_that_is_no_embedding(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "world", 40)
    rows = np.load(folder / "store" / "1.npy")
    rows[3] = np.nan
    np.save(folder / "store" / "1.npy", rows)
    with pytest.raises(InputError, match="row 3 of 1 has a label, but is zero, NaN or infinite"):
        fitted(folder)


@pytest.mark.parametrize(
    "given_",
    [("natural=0.5",), ("a=1",), ("natural=x",), ("natural",), ("natural=0.5",) * 3],
)
def test_prevalences_that_make_no_sense(given_: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--prevalence"):
        shares_of(given_)


def test_each_head_is_named_for_what_it_accepts(world: Path) -> None:
    rows, labels = planted(400, 1)
    heads = open_heads(world / "heads").heads
    for name in HEADS:
        scores = heads[name].scores(rows)
        mine = labels == LABELS.index(name)
        assert scores[mine].mean() > 0 > scores[~mine].mean()


# --- labels of a whole store


@pytest.fixture(scope="module")
def labelled(world: Path) -> Path:
    clipgap.label_domains(str(world / "store"), world / "heads", out=world / "domains", model=MODEL)
    return world


def test_every_row_has_its_scores_and_domains(labelled: Path) -> None:
    """As exact sums of fractions have them."""
    heads = open_heads(labelled / "heads")
    rows, _ = planted(400, 1)
    found = pa.concat_tables(
        [pq.read_table(labelled / "domains" / "train" / f"part-{n:05d}.parquet") for n in range(2)]
    ).to_pylist()
    assert [(row["shard"], row["row"]) for row in found] == [
        (i // 200, i % 200) for i in range(400)
    ]
    for row, said in zip(rows, found, strict=True):
        accepts = {}
        for name, head in heads.heads.items():
            terms = (
                Fraction(float(a)) * Fraction(b) for a, b in zip(row, head.weight, strict=True)
            )
            score = sum(terms) + Fraction(head.bias)
            assert said[name] == np.float32(float(score))
            for point in ("default", "strict"):
                accepts[name, point] = score >= Fraction(heads.threshold(name, point))
        for column, point in (("domain", "default"), ("domain_strict", "strict")):
            mine = [name for name in HEADS if accepts[name, point]]
            assert said[column] == (mine[0] if len(mine) == 1 else "ambiguous")
    counts = clipgap.label_domains(
        str(labelled / "store"), heads, out=labelled / "domains", model=MODEL, resume=True
    ).manifest["counts"]
    for column in ("domain", "domain_strict"):
        assert counts[column] == {
            label: sum(row[column] == label for row in found) for label in LABELS
        }
    assert clipgap.verify(labelled / "domains").ok


def test_bad_rows_have_no_domain(labelled: Path, tmp_path: Path) -> None:
    rows, _ = planted(9, 2)
    rows[3], rows[5] = np.nan, 0
    np.save(tmp_path / "bad.npy", rows)
    store, out = str(tmp_path / "bad.npy"), tmp_path / "domains"
    with pytest.raises(InputError, match="NaN or infinity"):
        clipgap.label_domains(store, labelled / "heads", out=out, model=MODEL)
    call = ["domains", "label", store, "--heads", str(labelled / "heads"), "--model", MODEL]
    assert main([*call, "-o", str(out), "--bad-rows", "quarantine"]) == 4
    table = pq.read_table(out / "train" / "part-00000.parquet")
    assert [table[name].is_null().to_pylist().count(True) for name in (*HEADS, "domain")] == [2] * 3
    assert clipgap.verify(out).ok


@pytest.mark.parametrize("column", ["natural", "rendition", "domain", "domain_strict", "row"])
def test_a_label_that_is_wrong_is_found(labelled: Path, tmp_path: Path, column: str) -> None:
    folder = Path(shutil.copytree(labelled / "domains", tmp_path / "domains"))
    name = "train/part-00001.parquet"
    table = pq.read_table(folder / name)
    values = table[column].to_pylist()
    values[7] = {"row": 8}.get(column) or ("photo" if column.startswith("domain") else 0.125)
    place = table.column_names.index(column)
    field = table.schema.field(place)
    changed = table.set_column(place, field, pa.array(values, field.type))
    pq.write_table(changed, folder / name)
    mend(folder, lambda said: said["files"].update({name: vars(FileSum.of(folder / name))}))
    assert f"row 7: {column} is" in failures(clipgap.verify(folder))["rows"]


def test_a_mix_is_drawn_by_them(labelled: Path) -> None:
    """From the labels as they lie in the folder; strict ones by the name of their column."""
    recipe = labelled / "mix.toml"
    counts = json.loads((labelled / "domains" / MANIFEST).read_bytes())["counts"]
    for column in ("domain", "domain_strict"):
        recipe.write_text(
            f'[pool]\nstore = "store"\nlabels = ["domains"]\ndomain = "{column}"\n'
            '[mixes.a]\nrule = "counts"\nparts = { natural = 30, rendition = 20 }\n'
        )
        found = clipgap.mix(recipe, out=labelled / column)
        before = {cell["domain"]: cell["before"] for cell in found.sizes["cells"]}
        assert before == counts[column]
        assert found.sizes["kept"] == 50
        assert clipgap.verify(labelled / column).ok
