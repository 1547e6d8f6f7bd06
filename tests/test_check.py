"""`clipgap check`: from images or embeddings to what leaks, in one command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipgap.__main__ import main
from clipgap.files.documents import Form, write_document
from clipgap.keep.lists import open_keep
from clipgap.store.provenance import EMBED
from clipgap.store.writer import StoreWriter
from tests.clip_worlds import render
from tests.worlds import unit_rows

TOWER = """
import numpy, torch

def tower():
    return torch.nn.Flatten(), lambda image: torch.from_numpy(
        numpy.asarray(image.resize((4, 4)), numpy.float32).copy() - 127
    )
"""


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two of three test images lie in the training set, one as it is and one as a JPEG."""
    monkeypatch.chdir(tmp_path)
    Path("tower.py").write_text(TOWER)
    for folder, seeds in {"train": range(10, 15), "val": range(3), "photos": range(20, 24)}.items():
        Path(folder).mkdir()
        for seed in seeds:
            render(seed % 4, seed).save(f"{folder}/{seed}.png")
    render(0, 0).save("train/same.png")
    render(1, 1).save("train/again.jpg", quality=95)
    Path("train/same.txt").write_text("the same image <again>")
    contents = [Path(f"val/{seed}.png").read_bytes() for seed in range(3)]
    rows = pa.array([{"bytes": content, "path": None} for content in contents])
    pq.write_table(pa.table({"image": rows, "text": ["a test image"] * 3}), "val.parquet")
    return tmp_path


def test_from_images_to_a_page(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The test set as the Hugging Face hub has it."""
    against = ["--against", "val=val.parquet", "--model", "tower.py:tower", "--above", ".99"]
    call = ["check", "train", *against]
    assert main([*call, "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert "tower.py:tower, its own weights (as named)" in planned
    assert "train (train): 7 images" in planned and "val (val.parquet): 3 images" in planned
    assert "images/s in a first batch here" in planned and "[stages.embed-train]" in planned
    assert not Path("clipgap-check").exists()

    assert main([*call, "-o", "out"]) == 0
    said = capsys.readouterr()
    assert said.err.index("Images are embedded by tower.py:tower") < said.err.index("[1/6]")
    assert "2 test images have a training image more similar than 0.99" in said.out
    assert "Without 2 training images, 5 are left" in said.out
    kept = open_keep("out/keep")
    assert {"same.png", "again.jpg"}.isdisjoint(kept.keys(0).to_pylist()) and kept.kept == 5
    page = json.loads(Path("out/report/manifest.json").read_bytes())["gallery"]["pictures"]
    assert page["found"] == page["wanted"] > 0 and not page["problems"]
    shown = "".join(file.read_text() for file in Path("out/report").rglob("*.js"))
    assert "the same image" in shown and "val/0" in shown

    assert main([*call, "-o", "out"]) == 0
    again = capsys.readouterr()
    assert "Nothing to do" in again.out and "Images are embedded" not in again.err
    settings = ["--set", "train=train", "--set", "val=val.parquet"]
    assert main(["run", "out/.study/recipe.toml", *settings, "-o", "out"]) == 0
    assert "Nothing to do" in capsys.readouterr().out


def test_stores_are_taken_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a reference its similarities are the limits, and no model is asked for.

    The test set is one of two columns of a table.
    """
    monkeypatch.chdir(tmp_path)
    tests, reference = unit_rows(6, 16, 1), unit_rows(9, 16, 2)
    columns = {"a": list(unit_rows(6, 16, 4)), "b": list(tests)}
    pq.write_table(pa.table(columns), "val.parquet")
    np.save("reference.npy", reference)
    np.save("train.npy", np.concatenate([unit_rows(9, 16, 3), tests[:2]]))
    against = ["--against", "val=val.parquet?array=b", "--reference", "reference.npy"]
    call = ["check", "train.npy", *against]
    assert main([*call, "-o", "out"]) == 0
    said = capsys.readouterr()
    near, far = (np.load(f"{name}.npy").astype(np.float64) for name in ("train", "reference"))
    scores, limits = near @ tests.astype(np.float64).T, (far @ tests.astype(np.float64).T).max(0)
    leaked, pruned = (scores.max(0) > limits).sum(), (scores > limits).any(axis=1).sum()
    assert f"{leaked} test images have a training image nearer than any reference" in said.out
    assert open_keep("out/keep").sizes["removed"] == pruned >= 2
    assert "embedded by" not in said.err


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        ("train --against val", 2, "write it as NAME=IMAGES"),
        ("train --against scan=val", 2, "cannot be called that"),
        ("train --against a=val --against a=val", 2, "given twice"),
        ("train --against val=val --above .9 --reference photos", 2, "--above does nothing"),
        ("train --against val=nowhere", 3, "nowhere: there is no such file or folder"),
        ("train --against val=val --model ViT-B-33 --pretrained x", 2, "did you mean ViT-B-32"),
        ("rows.npy --against val=rows.npy --model ViT-B-32", 2, "embedded already"),
        ("rows.npy --against val=val", 2, "nothing says which model embedded rows.npy"),
        ("made --against val=val", 2, "weights from a file of yours"),
    ],
)
def test_calls_that_are_refused_leave_nothing(
    images: Path, capsys: pytest.CaptureFixture[str], call: str, code: int, message: str
) -> None:
    np.save("rows.npy", unit_rows(3, 48, 0))
    with StoreWriter("made", 48) as writer:
        writer.add(unit_rows(3, 48, 0))
    mine = {"model": "m", "config_sha256": None, "pretrained": "w", "checkpoint_sha256": "0" * 64}
    form = Form(EMBED, "store of embeddings")
    write_document(Path("made/manifest.json"), form, {"model": mine, "preprocess": {}})
    assert main(["check", *call.split(), "-o", "out"]) == code
    assert message in capsys.readouterr().err
    assert not Path("out").exists()
