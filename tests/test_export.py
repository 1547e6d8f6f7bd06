"""Exports for viewers: items, neighbours and embeddings, against all scores of a small scan."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import clipgap
from clipgap.__main__ import main
from clipgap.errors import InputError, UsageError
from tests.clip_worlds import pictures
from tests.test_cli_commands import call
from tests.worlds import unit_rows

ROWS = unit_rows(23, 12, 1)
TESTS = {"val": unit_rows(6, 12, 2), "sketch": unit_rows(4, 12, 3)}
REFERENCE = unit_rows(30, 12, 4)
MOST = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    images = iter(pictures(len(ROWS) + sum(map(len, TESTS.values()))))
    stores = {"train": ROWS, "reference": REFERENCE, **TESTS}
    for name, rows in stores.items():
        with clipgap.StoreWriter(folder / name, 12) as writer:
            keys = [f"{name}-{row}.jpg" for row in range(len(rows))]
            cut = len(rows) // 3
            writer.add(rows[:cut], keys[:cut])
            writer.add(rows[cut:], keys[cut:])
        if name != "reference":
            (folder / f"{name}-images").mkdir()
            for key in keys:
                (folder / f"{name}-images" / key).write_bytes(next(images).jpeg)
    tests = {name: folder / name for name in TESTS}
    clipgap.gap(folder / "reference", {"val": tests["val"]}, out=folder / "gap")
    clipgap.scan(folder / "train", tests, gap=folder / "gap", k=5, out=folder / "scan")
    return folder


def expected() -> list[dict[str, Any]]:
    """From all scores: neighbours by (set, row), which are turned into items at the end."""
    wide = {name: rows.astype(np.float64) for name, rows in {"train": ROWS, **TESTS}.items()}
    pairs = []
    for name in TESTS:
        scores = wide[name] @ wide["train"].T
        for point, of in enumerate(scores):
            for row in np.argsort(-of, kind="stable")[:MOST]:
                pairs.append((of[row], name, point, int(row)))
    tau = (wide["val"] @ REFERENCE.astype(np.float64).T).max(axis=1)
    training = sorted({row for *_, row in pairs})
    order = [("train", row) for row in training]
    order += [(name, row) for name, rows in TESTS.items() for row in range(len(rows))]
    number = {one: item for item, one in enumerate(order)}
    items = []
    for name, row in order:
        near = [
            (score, number[test, point] if name == "train" else number["train", of], test, point)
            for score, test, point, of in pairs
            if (of == row if name == "train" else (test, point) == (name, row))
        ]
        near.sort(key=lambda one: (-one[0], one[1]))
        margins = [score - tau[point] for score, _, test, point in near if test == "val"]
        cut = len(ROWS) // 3
        items.append(
            {
                "set": name,
                "key": f"{name}-{row}.jpg",
                "shard": None if name != "train" else int(row >= cut),
                "row": row - cut * (row >= cut) if name == "train" else row,
                "similarity": near[0][0],
                "threshold": tau[row] if name == "val" else None,
                "margin": max(margins) if margins else None,
                "neighbors": {
                    "ids": [one[1] for one in near],
                    "distances": [1.0 - one[0] for one in near],
                },
            }
        )
    return items


def embedding_of(item: dict[str, Any]) -> NDArray[np.float16]:
    rows = ROWS if item["set"] == "train" else TESTS[item["set"]]
    return rows[int(item["key"].rpartition("-")[2].removesuffix(".jpg"))]


def test_atlas_has_true_neighbours(world: Path, tmp_path: Path) -> None:
    made = clipgap.export(world / "scan", to="atlas", out=tmp_path / "out", most=MOST)
    found = pq.read_table(tmp_path / "out" / "table.parquet")
    wanted = expected()
    assert found.select(list(wanted[0])).to_pylist() == wanted
    assert made.counts == {"train": len(wanted) - 10, "val": 6, "sketch": 4}
    rows = np.array([embedding_of(item) for item in wanted], np.float64)
    centred = rows - rows.mean(axis=0)
    _, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    at = np.column_stack([found["x"], found["y"]])
    np.testing.assert_allclose(np.linalg.norm(at, axis=0), sizes[:2], rtol=1e-5)
    assert clipgap.verify(tmp_path / "out").ok
    again = clipgap.export(world / "scan", to="atlas", out=tmp_path / "again", most=MOST)
    assert (again.path / "table.parquet").read_bytes() == (made.path / "table.parquet").read_bytes()


def test_spotlight_has_lists_and_embeddings(world: Path, tmp_path: Path) -> None:
    images = {"val": world / "val-images"}
    clipgap.export(world / "scan", to="spotlight", out=tmp_path / "out", most=MOST, images=images)
    found, wanted = pq.read_table(tmp_path / "out" / "table.parquet").to_pylist(), expected()
    for item, one in zip(found, wanted, strict=True):
        assert item["neighbor_ids"] == one["neighbors"]["ids"]
        assert item["neighbor_distances"] == one["neighbors"]["distances"]
        assert item["embedding"] == embedding_of(one).astype(np.float32).tolist()
        shown = (world / "val-images" / one["key"]).read_bytes() if one["set"] == "val" else None
        assert item["image"] == shown
    assert clipgap.verify(tmp_path / "out").ok


def test_images_are_not_all_held_in_memory(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row groups hold few bytes of them, or one image, and come out in order all the same."""
    monkeypatch.setattr(import_module("clipgap.verify.export"), "_BYTES", 2_000)
    images = {"val": world / "val-images", "train": world / "train-images"}
    clipgap.export(world / "scan", to="atlas", out=tmp_path / "out", most=MOST, images=images)
    found = pq.ParquetFile(tmp_path / "out" / "table.parquet")
    groups = [found.read_row_group(n)["image"].to_pylist() for n in range(found.num_row_groups)]
    assert len(groups) > 5
    assert all(len(one) == 1 or sum(len(c or b"") for c in one) <= 2_000 for one in groups)
    shown = [content for group in groups for content in group]
    for content, one in zip(shown, expected(), strict=True):
        file = world / f"{one['set']}-images" / one["key"]
        assert content == (file.read_bytes() if one["set"] in images else None)


def test_points_of_one_key_have_the_same_image(world: Path, tmp_path: Path) -> None:
    rows = TESTS["val"][:2]
    with clipgap.StoreWriter(tmp_path / "twice", 12) as writer:
        writer.add(rows, ["val-0.jpg"] * 2)
    clipgap.scan(world / "train", {"twice": tmp_path / "twice"}, k=2, out=tmp_path / "scan")
    images = {"twice": world / "val-images", "train": world / "train-images"}
    out = tmp_path / "out"
    clipgap.export(tmp_path / "scan", to="fiftyone", out=out, images=images)
    samples = json.loads((out / "samples.json").read_text())["samples"]
    twice = [(out / one["filepath"]).read_bytes() for one in samples if one["set"] == "twice"]
    assert twice == [(world / "val-images" / "val-0.jpg").read_bytes()] * 2


def test_how_many_neighbours_there_are_is_proved(world: Path, tmp_path: Path) -> None:
    """Lists have five: whoever asks for more gets five, and the manifest says so."""
    out = tmp_path / "out"
    clipgap.export(world / "scan", to="atlas", out=out, most=8)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["most"] == 5 and clipgap.verify(out).ok
    again = clipgap.export(world / "scan", to="atlas", out=out, most=6, resume=True)
    assert again.already_complete


def test_fiftyone_has_samples_with_images(world: Path, tmp_path: Path) -> None:
    images = {name: world / f"{name}-images" for name in ("train", *TESTS)}
    out = tmp_path / "out"
    clipgap.export(world / "scan", to="fiftyone", out=out, most=MOST, images=images)
    document = json.loads((out / "samples.json").read_text())
    for number, (sample, one) in enumerate(zip(document["samples"], expected(), strict=True)):
        image = (world / f"{one['set']}-images" / one["key"]).read_bytes()
        assert (out / sample["filepath"]).read_bytes() == image
        assert sample["item"] == number and sample["tags"] == [one["set"]]
        assert sample["neighbors"] == one["neighbors"]["ids"]
        assert sample["distances"] == one["neighbors"]["distances"]
        assert sample["embedding"] == embedding_of(one).astype(np.float32).tolist()
        assert sample.keys() - {"filepath", "tags"} == document["sample_fields"].keys()
    assert clipgap.verify(out).ok


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"to": "umap"}, UsageError, "unknown viewer 'umap'"),
        ({"to": "fiftyone"}, UsageError, "give those of 'train'"),
        ({"to": "atlas", "images": {"web": "x"}}, UsageError, "has train, val, sketch"),
        ({"to": "atlas", "images": {"val": "sketch-images"}}, InputError, "for 6 of the 6 items"),
        ({"to": "atlas", "train": "reference"}, InputError, "was made from other stores"),
    ],
)
def test_what_cannot_be_exported(
    world: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    options = {name: world / of if name == "train" else of for name, of in options.items()}
    if "images" in options:
        options["images"] = {name: world / of for name, of in options["images"].items()}
    with pytest.raises(error, match=said):
        clipgap.export(world / "scan", out=tmp_path / "out", **options)
    assert not list(tmp_path.rglob("*.parquet"))


def test_rows_that_have_no_keys(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", ROWS)
    np.save(tmp_path / "val.npy", TESTS["val"])
    clipgap.scan(tmp_path / "train.npy", {"val": tmp_path / "val.npy"}, k=2, out=tmp_path / "scan")
    clipgap.export(tmp_path / "scan", to="atlas", out=tmp_path / "out")
    found = pq.read_table(tmp_path / "out" / "table.parquet")
    assert found["key"].null_count == found["margin"].null_count == len(found)
    assert clipgap.verify(tmp_path / "out").ok


def test_from_the_command_line(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(world / "scan"), "--to", "atlas", "-o", str(tmp_path / "out")]
    found = call(capsys, *command)
    assert found["counts"]["val"] == 6
    assert main([*command, "--resume"]) == 0
    said = capsys.readouterr().out
    assert "embedding-atlas" in said and "--image " not in said
    assert main(["verify", str(tmp_path / "out")]) == 0
    shown = ["--images", f"val={world / 'val-images'}", "-o", str(tmp_path / "shown")]
    assert main([*command[:4], *shown]) == 0
    assert "--neighbors neighbors --image image --pagerank similarity" in capsys.readouterr().out
