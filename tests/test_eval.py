"""`clipgap eval`, against a plain loop over the same images."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import clipgap
from clipgap.__main__ import main
from clipgap.clip.data.parts import link_part
from clipgap.clip.data.registry import registry
from clipgap.clip.eval import plan as plan_module
from clipgap.clip.eval.contenders import zero_shot
from clipgap.clip.models import load
from clipgap.errors import InputError
from tests.clip_worlds import (
    CLASSES,
    Picture,
    encoded,
    render,
    write_folder,
    write_tar,
)
from tests.eval_worlds import TEMPLATES, World, make_world, samples, write_classifier


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("eval"), steps=150)


def plain_loop(
    world: World, checkpoint: Path, made: Sequence[Picture]
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels by open_clip's functions alone, one image at a time."""
    import open_clip

    open_clip.add_model_config(world.config)
    model, _, preprocess = open_clip.create_model_and_transforms(
        world.config.stem, pretrained=str(checkpoint), weights_only=True
    )
    model.eval()
    classifier = open_clip.build_zero_shot_classifier(
        model, open_clip.get_tokenizer(world.config.stem), CLASSES, TEMPLATES
    )
    logits = []
    with torch.no_grad():
        for picture in made:
            image = preprocess(Image.open(io.BytesIO(picture.jpeg)))[None]
            logits.append((100.0 * model(image=image)[0] @ classifier)[0])
    return torch.stack(logits).numpy(), np.array([picture.label for picture in made])


def by_path(made: Sequence[Picture]) -> list[Picture]:
    return sorted(made, key=lambda picture: f"{CLASSES[picture.label]}/{picture.key}.jpg")


# --- what comes out -------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["folder", "shards"])
def test_equals_a_plain_loop(world: World, tmp_path: Path, layout: str) -> None:
    made = by_path(world.made) if layout == "folder" else world.made
    path = world.folder if layout == "folder" else world.shards
    result = clipgap.evaluate(out=tmp_path / "e", **world.arguments(data=f"pics={path}"))
    right = {}
    for name, checkpoint in (("a", world.first), ("b", world.second)):
        logits, labels = plain_loop(world, checkpoint, made)
        found = samples(tmp_path / "e", name)
        assert found["row"] == list(range(len(made)))
        assert [Path(key).stem for key in found["key"]] == [picture.key for picture in made]
        assert found["label"] == labels.tolist()
        assert found["prediction"] == logits.argmax(axis=1).tolist()
        others = logits.copy()
        others[np.arange(len(made)), labels] = -np.inf
        margin = logits[np.arange(len(made)), labels] - others.max(axis=1)
        # One image at a time or seven: matrix products round differently.
        assert np.allclose(found["margin"], margin, rtol=0, atol=1e-4)
        right[name] = logits.argmax(axis=1) == labels
        assert found["correct"] == right[name].tolist()
        assert all(found["correct5"])
    assert right["a"].tolist() != right["b"].tolist()

    rows = result.summary.to_pylist()
    assert [(r["checkpoint"], r["set"], r["group"], r["metric"]) for r in rows] == [
        ("a", "pics", None, "top1"),
        ("b", "pics", None, "top1"),
    ]
    assert [r["correct"] for r in rows] == [right["a"].sum(), right["b"].sum()]
    (pair,) = result.paired.to_pylist()
    assert (pair["first"], pair["second"]) == ("a", "b")
    assert pair["difference"] == pytest.approx(right["a"].mean() - right["b"].mean())
    assert pair["low"] <= pair["difference"] <= pair["high"]
    manifest = json.loads((tmp_path / "e" / "manifest.json").read_text())
    assert manifest["kind"] == "eval"
    assert [each["name"] for each in manifest["checkpoints"]] == ["a", "b"]
    assert manifest["sets"][0]["samples"] == len(made)
    assert manifest["sets"][0]["templates"] == list(TEMPLATES)


def test_a_trained_model_beats_chance(world: World, tmp_path: Path) -> None:
    arguments = world.arguments(checkpoints=f"a={world.first}")
    result = clipgap.evaluate(out=tmp_path / "e", **arguments)
    assert result.summary["accuracy"][0].as_py() > 0.5  # of four classes


def test_the_classifier_is_open_clips_bit_for_bit(world: World) -> None:
    import open_clip

    loaded = load(str(world.config), str(world.first), "cpu")
    head = zero_shot(loaded, "a")
    for name in ("mnist", "imagenet-a"):
        classes = registry()[name].classes
        if name == "imagenet-a":  # open_clip's own list of functions as prompts, a part of it
            few = open_clip.OPENAI_IMAGENET_TEMPLATES[:3]
            classes = dataclasses.replace(
                classes, names=classes.names[:25], templates=classes.templates[:3]
            )
        else:
            few = classes.templates
        theirs = open_clip.build_zero_shot_classifier(
            loaded.clip, loaded.tokenizer, classes.names, few
        )
        assert torch.equal(head.weights(classes), theirs)


def test_rows_do_not_depend_on_batches_threads_or_company(world: World, tmp_path: Path) -> None:
    clipgap.evaluate(out=tmp_path / "x", **world.arguments())
    alone = world.arguments(checkpoints=f"b={world.second}", batch_size=64, workers=1)
    clipgap.evaluate(out=tmp_path / "y", **alone)
    together, single = samples(tmp_path / "x", "b"), samples(tmp_path / "y", "b")
    assert np.allclose(together.pop("margin"), single.pop("margin"), rtol=0, atol=1e-4)
    assert together == single


@pytest.mark.parametrize("layout", ["folder", "shards"])
def test_rows_are_those_of_embed(world: World, tmp_path: Path, layout: str) -> None:
    """Bad images included: neither has a row for them."""
    made = list(world.made[:6])
    made.insert(2, dataclasses.replace(made[0], key="broken", jpeg=b"no image"))
    made.insert(5, dataclasses.replace(made[1], key="cut", jpeg=made[1].jpeg[:300]))
    if layout == "folder":
        data = write_folder(tmp_path / "data", made)
        Image.new("RGB", (9, 9)).save(data / CLASSES[1] / "x.GIF")
        (data / CLASSES[0] / ".hidden.jpg").write_bytes(made[0].jpeg)
        (data / CLASSES[3]).mkdir(exist_ok=True)
        (data / CLASSES[3] / "linked").symlink_to(world.folder / CLASSES[2])
    else:
        write_tar(tmp_path / "data" / "10.tar", made[4:])
        write_tar(tmp_path / "data" / "9.tar", made[:4])
        data = tmp_path / "data"
    clipgap.evaluate(out=tmp_path / "e", **world.arguments(data=f"pics={data}"))
    clipgap.embed(data, str(world.config), str(world.first), out=tmp_path / "store", device="cpu")
    store = clipgap.open_store(str(tmp_path / "store"))
    keys = []
    for number, shard in enumerate(store.shards):
        keys += store.keys(number, 0, shard.rows).to_pylist()
    assert samples(tmp_path / "e", "a")["key"] == keys
    assert len(keys) == (12 if layout == "folder" else 6)


def test_images_are_decoded_once_for_all_checkpoints(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipgap.clip.images import reading

    seen = []

    def counting(data: bytes, where: str) -> Any:
        seen.append(where)
        return decode(data, where)

    decode = reading.decode
    monkeypatch.setattr(reading, "decode", counting)
    clipgap.evaluate(out=tmp_path / "e", **world.arguments())
    assert len(seen) == len(set(seen)) == len(world.made)


# --- registered sets ------------------------------------------------------------------------


@pytest.fixture
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered sets with few images and one prompt."""
    known = {name: dataclasses.replace(entry, samples=4) for name, entry in registry().items()}
    monkeypatch.setattr(plan_module, "registry", lambda: known)


@pytest.mark.usefixtures("small_sets")
def test_waterbirds_by_group(world: World, tmp_path: Path) -> None:
    root = tmp_path / "birds"
    rows = [("z/1.jpg", 0, 0), ("b/1.jpg", 0, 1), ("a/1.jpg", 1, 0), ("a/0.jpg", 1, 1)]
    lines = ["img_id,img_filename,y,split,place"]
    for number, (path, label, place) in enumerate(rows):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encoded(render(number, 0)))
        lines.append(f"{number},{path},{label},{number % 2},{place}")
    (root / "metadata.csv").write_text("\n".join(lines))
    arguments = world.arguments(
        data=f"waterbirds={root}", checkpoints=f"a={world.first}", classnames=(), templates=()
    )
    result = clipgap.evaluate(out=tmp_path / "e", **arguments)
    found = samples(tmp_path / "e", "a", "waterbirds")
    assert found["key"] == ["a/0.jpg", "a/1.jpg", "b/1.jpg", "z/1.jpg"]
    assert found["label"] == [1, 1, 0, 0]
    assert found["group"] == [
        "waterbird on water",
        "waterbird on land",
        "landbird on water",
        "landbird on land",
    ]
    groups = {row["group"]: row for row in result.summary.to_pylist()}
    assert set(groups) == {None, *found["group"]}
    assert groups[None]["correct"] == sum(groups[g]["correct"] for g in found["group"])
    assert result.manifest["sets"][0]["groups"] == sorted(found["group"])
    clipgap.evaluate(out=tmp_path / "s", **{**arguments, "group_by": "waterbirds=split"})
    assert samples(tmp_path / "s", "a", "waterbirds")["group"] == [
        "split=1",
        "split=0",
        "split=1",
        "split=0",
    ]


@pytest.mark.usefixtures("small_sets")
def test_objectnet_without_border_and_other_classes(world: World, tmp_path: Path) -> None:
    """A red border decides nothing, and folders of other classes are left alone."""
    root = tmp_path / "images"
    keys = registry()["objectnet"].keys
    for key in (*keys, "aardvark"):
        (root / key).mkdir(parents=True)
    grey = Image.new("RGB", (60, 60), (90, 90, 90))
    bordered = Image.new("RGB", (64, 64), "red")
    bordered.paste(grey, (2, 2))
    for key, image in ((keys[0], bordered), (keys[1], bordered), ("aardvark", grey)):
        (root / key / "1.png").write_bytes(encoded(image, "PNG"))
    (root / keys[0] / "tiny.png").write_bytes(encoded(Image.new("RGB", (4, 4)), "PNG"))
    arguments = world.arguments(
        data=f"objectnet={root}", checkpoints=f"a={world.first}", classnames=()
    )
    arguments["templates"] = f"objectnet={world.prompts}"
    result = clipgap.evaluate(out=tmp_path / "e", **arguments)
    assert result.problems == 1  # of the tiny one nothing is left
    found = samples(tmp_path / "e", "a", "objectnet")
    assert found["key"] == [f"{keys[0]}/1.png", f"{keys[1]}/1.png"]
    assert found["label"] == [0, 1]
    loaded = load(str(world.config), str(world.first), "cpu")
    classes = dataclasses.replace(registry()["objectnet"].classes, templates=TEMPLATES)
    logits = zero_shot(loaded, "a").head(classes)(torch.stack([loaded.preprocess(grey)] * 2))
    assert found["prediction"] == [int(logits[0].argmax())] * 2
    metrics = [row["metric"] for row in result.summary.to_pylist()]
    assert metrics == ["top1", "top5"]
    link_part("objectnet", root, tmp_path / "part")
    clipgap.evaluate(out=tmp_path / "f", **{**arguments, "data": f"objectnet={tmp_path / 'part'}"})
    assert samples(tmp_path / "f", "a", "objectnet") == found


@pytest.mark.usefixtures("small_sets")
def test_incomplete_sets_are_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "n01498041").mkdir()
    with pytest.raises(InputError, match=r"199 of 200 class folders are missing.*data list"):
        clipgap.evaluate(out=tmp_path / "e", **world.arguments(data=f"imagenet-a={tmp_path}"))
    with pytest.raises(InputError, match=r"no such folder.*imagenet-a\.tar"):
        clipgap.evaluate(out=tmp_path / "e", **world.arguments(data="imagenet-a=nowhere"))


# --- classifiers ----------------------------------------------------------------------------


def test_classifiers_are_evaluated_over_their_own_classes(world: World, tmp_path: Path) -> None:
    import torchvision

    classes = [*reversed(CLASSES), "something else"]
    path = write_classifier(tmp_path / "net.pt", classes)
    few = write_folder(tmp_path / "few", world.made[:5])
    result = clipgap.evaluate(str(path), f"pics={few}", tmp_path / "e", device="cpu")
    found = samples(tmp_path / "e", "net")
    assert result.manifest["checkpoints"][0]["model"] is None

    module = torchvision.models.resnet18(num_classes=5)
    module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    module.eval()
    transform = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    made = by_path(world.made[:5])
    with torch.no_grad():
        logits = torch.stack(
            [module(transform(Image.open(io.BytesIO(p.jpeg)))[None])[0] for p in made]
        ).numpy()
    labels = [classes.index(CLASSES[picture.label]) for picture in made]
    assert found["label"] == labels
    assert found["prediction"] == logits.argmax(axis=1).tolist()

    # With class names given, labels are theirs, and other outputs do not count.
    arguments = world.arguments(checkpoints=[str(path), f"a={world.first}"], data=f"pics={few}")
    clipgap.evaluate(out=tmp_path / "mixed", **arguments)
    columns = [classes.index(name) for name in CLASSES]
    found = samples(tmp_path / "mixed", "net")
    assert found["label"] == [picture.label for picture in made]
    assert found["prediction"] == logits[:, columns].argmax(axis=1).tolist()
    assert samples(tmp_path / "mixed", "a")["key"] == found["key"]


def test_classifiers_of_numbered_classes(world: World, tmp_path: Path) -> None:
    """As trained on shards, where .cls members number the classes."""
    path = write_classifier(tmp_path / "net.pt", ["0", "1", "2", "3"])
    few = write_tar(tmp_path / "few.tar", world.made[:4])
    arguments = world.arguments(checkpoints=str(path), data=f"pics={few}")
    clipgap.evaluate(out=tmp_path / "named", **arguments)
    clipgap.evaluate(str(path), f"pics={few}", tmp_path / "plain", device="cpu")
    named, plain = samples(tmp_path / "named", "net"), samples(tmp_path / "plain", "net")
    assert named["label"] == plain["label"] == [picture.label for picture in world.made[:4]]
    assert named["prediction"] == plain["prediction"]


# --- the command ----------------------------------------------------------------------------


def test_command(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "e"
    command = ["eval", f"a={world.first}", str(world.second), "--data", f"pics={world.folder}"]
    command += ["--model", str(world.config), "--classnames", str(world.names)]
    command += ["--templates", str(world.prompts), "--device", "cpu"]
    assert main([*command, "--dry-run"]) == 0
    assert "pics             20 images, 4 classes, 2 prompts" in capsys.readouterr().out
    assert main(command) == 2
    assert "--out is missing" in capsys.readouterr().err
    assert main([*command, "-o", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["checkpoint"] for row in said["summary"]] == ["a", "b"]
    assert main([*command, "-o", str(out), "--resume"]) == 0
    text = capsys.readouterr().out
    assert "already complete" in text
    accuracy = said["summary"][0]
    assert f"{accuracy['accuracy']:.2%}" in text and f"{accuracy['low']:.2%}" in text
    assert "a − b" in text
    assert (tmp_path / "e.toml").exists()
