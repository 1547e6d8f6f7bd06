"""Heads on a tower that is trained with them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.domains.tuning import named
from clipgap.errors import ClipgapError, InputError, UsageError
from clipgap.files.sums import FileSum
from clipgap.heads.heads import LABELS, open_heads
from clipgap.store.opening import open_store
from tests.clip_worlds import write_shards
from tests.test_verify import failures
from tests.worlds import edited_manifest

TOWER = """
import numpy, torch

class Pixels:
    def __call__(self, image):
        pixels = numpy.asarray(image.resize((4, 4)), "float32") / 255
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def __repr__(self):
        return "4 x 4"

def tower():
    layers = [torch.nn.Flatten(), torch.nn.Linear(48, 16), torch.nn.Tanh(), torch.nn.Linear(16, 8)]
    return torch.nn.Sequential(*layers), Pixels()
"""
QUICK = {"epochs": 6, "batch_size": 16, "lr": 0.3, "device": "cpu"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Circles are natural, lines renditions, the rest ambiguous: a store of an untrained tower."""
    folder = tmp_path_factory.mktemp("tuning")
    (folder / "mine.py").write_text(TOWER)
    shards = write_shards(folder / "images", [60, 40])
    kinds = ("natural", "ambiguous", "ambiguous", "rendition")
    labels = [(each.key, kinds[each.label]) for made in shards for each in made][:90]
    columns = dict(zip(("key", "domain"), map(list, zip(*labels, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "labels.parquet")
    clipgap.embed(
        str(folder / "images"), f"{folder}/mine.py:tower", out=folder / "store", device="cpu"
    )
    return folder


def tuned(folder: Path, out: Path | None, **more: Any) -> Any:
    given: dict[str, Any] = {
        "model": f"{folder}/mine.py:tower",
        "images": str(folder / "images"),
        "finetune": True,
        "precision": 0.5,
        "threads": 1,
        **QUICK,
    }
    return clipgap.fit_heads(
        str(folder / "store"), str(folder / "labels.parquet"), out=out, **{**given, **more}
    )


def test_a_trained_tower_and_its_heads(world: Path, tmp_path: Path) -> None:
    """The tower is another model, `embed` takes it, and heads are for its rows alone."""
    found = tuned(world, tmp_path / "heads")
    heads = open_heads(found.path)
    model, tower = f"{world}/mine.py:tower", tmp_path / "heads" / "tower.pt"
    made = clipgap.embed(
        str(world / "images"), model, str(tower), out=tmp_path / "tuned", device="cpu"
    )
    rows = np.concatenate(
        [open_store(made.path).read(shard, 0, n) for shard, n in ((0, 60), (1, 30))]
    )
    assert np.array_equal(np.load(tmp_path / "heads" / "rows.npy"), rows)
    assert heads.model == named(found.manifest["tuning"]["model"], FileSum.of(tower))

    labelled = clipgap.label_domains(str(made.path), found.path, out=tmp_path / "domains")
    assert labelled.manifest["counts"][
        "rows" if "rows" in labelled.manifest["counts"] else "domain"
    ]
    with pytest.raises(InputError, match=r"are heads for embeddings of mine\.py:tower/"):
        clipgap.label_domains(str(world / "store"), found.path, out=tmp_path / "other")
    assert failures(clipgap.verify(tmp_path / "heads")) == {}

    # It is better than the tower that it began with, where neither was trained.
    before = clipgap.fit_heads(
        str(world / "store"), str(world / "labels.parquet"), out=tmp_path / "before", precision=0.5
    )
    right = [
        sum(each["heads"][name]["found"]["default"]["by_label"][name] for name in each["heads"])
        for each in (before.manifest, found.manifest)
    ]
    wrong = [
        sum(head["found"]["default"]["wrong"] for head in each["heads"].values())
        for each in (before.manifest, found.manifest)
    ]
    assert right[1] - wrong[1] > right[0] - wrong[0]


def test_the_same_is_trained_again(world: Path, tmp_path: Path) -> None:
    first, again, other = (
        tuned(world, tmp_path / name, seed=seed).manifest["files"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again
    assert first["tower.pt"] != other["tower.pt"]
    assert tuned(world, tmp_path / "a", resume=True).already_complete
    with pytest.raises(ClipgapError, match="lr"):
        tuned(world, tmp_path / "a", lr=0.1, resume=True)


def test_what_verify_says_of_other_rows(world: Path, tmp_path: Path) -> None:
    found = tuned(world, tmp_path / "heads")
    rows = np.load(found.path / "rows.npy")
    np.save(found.path / "rows.npy", rows[::-1])
    assert "rows.npy" in failures(clipgap.verify(found.path))["checksums"]
    with edited_manifest(found.path) as manifest:
        manifest["files"]["rows.npy"] = asdict(FileSum.of(found.path / "rows.npy"))
    assert set(failures(clipgap.verify(found.path))) == {"counted again"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"images": None}, "--finetune needs the images"),
        ({"finetune": False}, "--images is about training a tower; give --finetune"),
        ({"finetune": False, "images": None, "epochs": 50, "lr": 0.01, "device": "auto"},
         "--batch-size is about training"),
        ({"model": None}, "--finetune needs the model that is trained"),
        ({"model": "RN50", "pretrained": ""}, "was embedded with mine.py:tower/"),
        ({"images": "fewer"}, "has no image of 30 of the 90 labelled rows"),
        ({"lr": 1e30}, "the loss is no longer finite; try a lower --lr"),
    ],
)  # fmt: skip
def test_trainings_that_cannot_be(
    world: Path, tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    if given.get("images") == "fewer":
        (tmp_path / "00000.tar").symlink_to(world / "images" / "00000.tar")
        given = {"images": str(tmp_path / "00000.tar")}
    with pytest.raises((InputError, UsageError), match=words):
        tuned(world, tmp_path / "heads", **given)


def test_torchscript_holds_its_weights(world: Path, tmp_path: Path) -> None:
    (tmp_path / "net.pt").touch()
    with pytest.raises(UsageError, match="is TorchScript, which holds its weights"):
        tuned(world, tmp_path / "heads", model=str(tmp_path / "net.pt"))


def test_the_command(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = [
        *("domains", "fit", str(world / "store"), "--labels", str(world / "labels.parquet")),
        *("--finetune", "--images", str(world / "images"), "--model", f"{world}/mine.py:tower"),
        *("--precision", "0.5", "--epochs", "1", "--device", "cpu"),
    ]
    assert main([*call, "--dry-run", "--json"]) == 0
    assert sum(json.loads(capsys.readouterr().out)["parts"]["train"].values()) == 45
    assert main([*call, "-o", str(tmp_path / "heads")]) == 0
    said = capsys.readouterr().out
    assert f"--pretrained`: {tmp_path / 'heads' / 'tower.pt'}" in said
    assert set(LABELS) <= set(said.replace(",", " ").split())
