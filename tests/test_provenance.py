"""Stores of different models never meet without a word, and a gap is of the reference set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipgap
from clipgap.cli.main import main
from clipgap.errors import InputError
from clipgap.files.documents import MANIFEST, Form, write_document
from clipgap.select.reference import Reference
from clipgap.select.rules import Prune
from clipgap.store.opening import open_store
from clipgap.store.provenance import EMBED
from clipgap.store.writer import StoreWriter
from tests.stores import unit_rows
from tests.worlds import flip_bit

BASE = {
    "model": "ViT-B-32",
    "config_sha256": None,
    "pretrained": "openai",
    "checkpoint_sha256": None,
    "preprocess": {"size": 224, "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
}
OTHERS = {
    "model": ({"model": "ViT-L-14"}, "model of {first}: ViT-B-32; of {second}: ViT-L-14"),
    "weights": (
        {"pretrained": "laion2b"},
        "weights of {first}: openai; of {second}: laion2b",
    ),
    "checkpoint": (
        {"pretrained": "openai", "checkpoint_sha256": "ab" * 32},
        "weights of {first}: openai; of {second}: openai (SHA-256 abababababab…)",
    ),
    "configuration": (
        {"config_sha256": "cd" * 32},
        "model of {first}: ViT-B-32; of {second}: ViT-B-32 (SHA-256 cdcdcdcdcdcd…)",
    ),
    "normalisation": (
        {"preprocess": {**BASE["preprocess"], "mean": [0.5, 0.5, 0.5]}},  # type: ignore[dict-item]
        "preprocessing of {first}: mean [0.48, 0.46, 0.41]; of {second}: mean [0.5, 0.5, 0.5]",
    ),
}

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a store as `clipgap embed` leaves one; of no known model with `made_by=None`."""

    def make(name: str, rows: int = 20, *, made_by: Any = BASE, **changes: Any) -> Path:
        folder = tmp_path / name
        with StoreWriter(folder, 12) as writer:
            writer.add(
                unit_rows(rows, seed=sum(name.encode())), [f"{name}{i}" for i in range(rows)]
            )
        if made_by is not None:
            said = {**made_by, **changes}
            preprocess = said.pop("preprocess")
            form = Form(EMBED, "store of embeddings")
            write_document(folder / MANIFEST, form, {"model": said, "preprocess": preprocess})
        return folder

    return make


def scan_of(train: Any, tests: dict[str, Any], **options: Any) -> tuple[Any, list[str]]:
    notes: list[str] = []
    result = clipgap.scan(
        train, tests, on_progress=lambda now: notes.append(now.note), kernel="numpy", **options
    )
    return result, [note for note in notes if note]


@pytest.mark.parametrize("other", OTHERS)
def test_stores_of_two_models_are_refused_by_name(make: Make, other: str) -> None:
    changes, words = OTHERS[other]
    train, test = make("train"), make("test", 5, **changes)
    with pytest.raises(InputError) as caught:
        clipgap.scan(train, {"val": test})
    first, second = f"training store {train}", f"test set 'val' ({test})"
    assert words.format(first=first, second=second) in str(caught.value)
    assert "--mixed-models" in str(caught.value)
    result, notes = scan_of(train, {"val": test}, mixed_models=True)
    assert result.manifest["inputs"]["mixed_models"] is True
    assert len(notes) == 1 and "stores of different models meet" in notes[0]


def test_stores_of_one_model_meet_in_silence(make: Make) -> None:
    result, notes = scan_of(make("train"), {"val": make("test", 5)})
    assert notes == [] and "mixed_models" not in result.manifest["inputs"]
    assert result.manifest["inputs"]["train"]["models"] == [BASE]
    assert result.manifest["inputs"]["tests"][0]["models"] == [BASE]


def test_a_checkpoint_is_known_by_its_content_and_a_name_by_what_it_means(make: Make) -> None:
    trained = {"checkpoint_sha256": "ab" * 32}
    tests = {"val": make("test", 5, pretrained="renamed.pt", **trained)}
    assert scan_of(make("train", pretrained="epoch_9.pt", **trained), tests)[1] == []
    quick = make("quick", made_by={**BASE, "model": "ViT-B-32-quickgelu"})
    assert scan_of(quick, {"val": make("plain", 5)})[1] == []


def test_that_nobody_knows_the_model_is_said_once(make: Make, tmp_path: Path) -> None:
    train, known, unknown = make("train"), make("known", 5), make("unknown", 5, made_by=None)
    _, notes = scan_of(train, {"a": known, "b": unknown})
    assert len(notes) == 1
    assert f"nothing says which model embedded test set 'b' ({unknown})" in notes[0]
    _, notes = scan_of(np.ones((3, 4), np.float16), {"a": np.ones((2, 4), np.float16)})
    assert len(notes) == 1 and "which model embedded training store <array> and test" in notes[0]


def test_parts_of_a_joined_store_meet_too(make: Make) -> None:
    joined = f"{make('one')}::{make('two', pretrained='laion2b')}"
    with pytest.raises(InputError, match="embedded in different ways"):
        clipgap.scan(joined, {"val": make("test", 5)})


def test_datacomp_names_its_models_by_their_arrays(make: Make, tmp_path: Path) -> None:
    np.savez(tmp_path / "part.npz", l14_img=unit_rows(9), l14_txt=unit_rows(9))
    assert open_store(f"{tmp_path}/part.npz").models == (None,)  # by its only image array
    path = f"{tmp_path}/part.npz?array=l14_img"
    with pytest.raises(InputError, match=r"of training store .*ViT-L-14; of test set"):
        clipgap.scan(path, {"val": make("test", 5)})


def test_a_gap_of_another_model_is_refused(make: Make, tmp_path: Path) -> None:
    plain, known = make("plain", 5, made_by=None), make("train", 30)
    gap = clipgap.gap(make("ref", 10, made_by={**BASE, "model": "RN50"}), {"val": plain})
    with pytest.raises(InputError, match=r"of reference .*ref \(of <memory>\): RN50"):
        clipgap.scan(known, {"val": plain}, gap=gap)


def test_a_reference_and_a_report_of_two_models_are_refused(make: Make, tmp_path: Path) -> None:
    test, other = make("test", 5, made_by=None), make("ref", 10, pretrained="laion2b")
    train = make("train", 30)
    clipgap.gap(other, {"val": test}, out=tmp_path / "gap")
    mixed = {"mixed_models": True}
    clipgap.scan(train, {"val": test}, gap=tmp_path / "gap", out=tmp_path / "scan", **mixed)
    joined = Reference(other, caption="a photo")
    with pytest.raises(InputError, match=r"weights of training store .*openai; of reference"):
        clipgap.split(tmp_path / "scan", Prune(("val",)), reference=joined)
    made = clipgap.split(
        tmp_path / "scan", Prune(("val",)), reference=joined, out=tmp_path / "keep", **mixed
    )
    assert made.rule["reference"]["mixed_models"] is True

    sources = {"scans": tmp_path / "scan", "reference": tmp_path / "gap", "out": tmp_path / "page"}
    with pytest.raises(InputError, match=r"weights of scan .*openai; of gap .*laion2b"):
        clipgap.report(**sources)
    assert not (tmp_path / "page").exists()
    page = clipgap.report(**sources, **mixed)
    assert page.manifest["inputs"]["mixed_models"] is True
    assert "Stores of different models meet" in page.page.read_text()
    assert clipgap.verify(tmp_path / "scan").ok


def test_a_damaged_manifest_never_counts_as_none(make: Make) -> None:
    train = make("train")
    flip_bit(train / MANIFEST, 40)
    with pytest.raises(InputError, match=MANIFEST):
        open_store(train)


def test_the_command_line_has_the_option_and_exits_with_3(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["gap", str(make("ref")), "--test", f"val={make('test', 5, pretrained='x')}"]
    call += ["--out", str(tmp_path / "gap"), "-q"]
    assert main(call) == 3 and "weights of reference" in capsys.readouterr().err
    assert not (tmp_path / "gap").exists()
    assert main([*call, "--mixed-models"]) == 0
    manifest = json.loads((tmp_path / "gap" / MANIFEST).read_bytes())
    assert manifest["inputs"]["mixed_models"] is True


# --- of what a gap is made


def test_a_gap_of_the_training_store_itself_is_refused(make: Make, tmp_path: Path) -> None:
    train, test = make("train", 30), make("test", 5)
    for run in (clipgap.gap, clipgap.scan):
        with pytest.raises(InputError, match=r"is of .*train itself.*nothing would be pruned"):
            clipgap.scan(train, {"val": test}, gap=run(train, {"val": test}))
    whole = clipgap.gap(f"{train}::{make('more')}", {"val": test})
    with pytest.raises(InputError, match="itself"):
        clipgap.scan(train, {"val": test}, gap=whole)
    larger = clipgap.scan(
        f"{train}::{make('other')}", {"val": test}, gap=clipgap.gap(train, {"val": test})
    )
    assert larger.set_columns[0].has_gap


def test_a_gap_that_looks_swapped_is_noted(make: Make) -> None:
    large, small, test = make("large", 30), make("small", 10), make("test", 5)
    gap = clipgap.scan(large, {"val": test})
    _, notes = scan_of(small, {"val": test}, gap=gap)
    assert len(notes) == 2
    assert "made by `clipgap scan`, not by `clipgap gap`" in notes[0]
    assert "30 rows, more than the 10" in notes[1] and "swapped?" in notes[1]
    _, notes = scan_of(large, {"val": test}, gap=clipgap.gap(small, {"val": test}))
    assert notes == []


def test_a_gap_says_where_its_thresholds_lie(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [
        "gap",
        str(make("ref")),
        "--test",
        f"val={make('test', 5)}",
        "-o",
        str(tmp_path / "gap"),
    ]
    assert main(call) == 0
    tau = clipgap.open_scan(tmp_path / "gap").tau("val")
    low, middle, high = np.quantile(tau, (0.25, 0.5, 0.75))
    said = capsys.readouterr().out
    assert f"τ of val: quartiles {low:.3f}, {middle:.3f}, {high:.3f}" in said
