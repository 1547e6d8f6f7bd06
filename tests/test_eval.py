"""`clipgap eval`, against a plain loop over the same images."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import clipgap
from clipgap.cli.main import main
from clipgap.clip.data import registry
from clipgap.clip.eval import plan as plan_module
from clipgap.clip.eval import run as run_module
from clipgap.clip.eval.contenders import zero_shot
from clipgap.clip.models import load
from clipgap.errors import InputError, Interrupted, ResumeError, UsageError
from tests.clip_worlds import (
    CLASSES,
    Picture,
    encoded,
    pictures,
    render,
    write_checkpoint,
    write_config,
    write_folder,
    write_shards,
    write_tar,
)
from tests.shards import member, tar_bytes

TEMPLATES = ("a picture of a {}", "a {}.")


@dataclasses.dataclass(frozen=True)
class World:
    """A tiny model, two checkpoints of it, a set as a folder and as shards."""

    root: Path
    config: Path
    first: Path
    second: Path
    folder: Path
    shards: Path
    made: Sequence[Picture]  # in the order of the shards
    names: Path
    prompts: Path

    def arguments(self, **changes: Any) -> dict[str, Any]:
        return {
            "checkpoints": [f"a={self.first}", f"b={self.second}"],
            "data": f"pics={self.folder}",
            "model": str(self.config),
            "classnames": str(self.names),
            "templates": str(self.prompts),
            "device": "cpu",
            "workers": 2,
            "batch_size": 7,
            **changes,
        }


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("eval")
    config = write_config(root)
    made = [picture for shard in write_shards(root / "shards", [9, 11]) for picture in shard]
    names, prompts = root / "names.txt", root / "prompts.txt"
    names.write_text("\n".join(CLASSES) + "\n")
    prompts.write_text("\n".join(TEMPLATES) + "\n")
    return World(
        root,
        config,
        write_checkpoint(config, root / "a.pt", steps=150, seed=1),
        write_checkpoint(config, root / "b.pt", seed=2),
        write_folder(root / "folder", made),
        root / "shards",
        made,
        names,
        prompts,
    )


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


def samples(out: Path, checkpoint: str, name: str = "pics") -> dict[str, list[Any]]:
    table = pq.read_table(out / "samples" / checkpoint / f"{name}.parquet")
    return {column: table[column].to_pylist() for column in table.column_names}


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


def test_images_are_decoded_once_for_all_checkpoints(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipgap.clip.eval import loading

    seen = []

    def counting(data: bytes, where: str) -> Any:
        seen.append(where)
        return decode(data, where)

    decode = loading.decode
    monkeypatch.setattr(loading, "decode", counting)
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


@pytest.mark.usefixtures("small_sets")
def test_incomplete_sets_are_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "n01498041").mkdir()
    with pytest.raises(InputError, match=r"199 of 200 class folders are missing.*data list"):
        clipgap.evaluate(out=tmp_path / "e", **world.arguments(data=f"imagenet-a={tmp_path}"))
    with pytest.raises(InputError, match=r"no such folder.*imagenet-a\.tar"):
        clipgap.evaluate(out=tmp_path / "e", **world.arguments(data="imagenet-a=nowhere"))


# --- classifiers ----------------------------------------------------------------------------


def write_classifier(path: Path, names: Sequence[str], **changes: Any) -> Path:
    import torchvision

    torch.manual_seed(3)
    module = torchvision.models.resnet18(num_classes=len(names))
    content = {
        "state_dict": module.state_dict(),
        "epoch": 1,
        "objective": "classify",
        "arch": "resnet18",
        "classes": list(names),
    }
    torch.save({**content, **changes}, path)
    return path


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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ["red circle"] * 2}, "none twice"),
        ({"classes": 7}, "does not name its classes"),
        ({"arch": "resnet1"}, "'resnet1', which torchvision does not have"),
        ({"arch": "resnet34"}, "another architecture than resnet34"),
        ({"classes": ["green square", "x"]}, "another architecture"),
        ({"classes": ["green square", "b", "c", "d"]}, "not trained on 3 of the 4"),
    ],
)
def test_bad_classifiers(world: World, tmp_path: Path, changes: Any, said: str) -> None:
    path = write_classifier(tmp_path / "net.pt", CLASSES, **changes)
    with pytest.raises(InputError, match=said):
        clipgap.evaluate(out=tmp_path / "e", **world.arguments(checkpoints=str(path)))


# --- resume ---------------------------------------------------------------------------------


def tree(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    }


def test_resume_keeps_finished_units_and_gives_the_same_files(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "TOGETHER", 1)
    arguments = world.arguments(data=[f"pics={world.folder}", f"tars={world.shards}"])
    clipgap.evaluate(out=tmp_path / "whole", **arguments)
    stop, seen = threading.Event(), []

    def watch(progress: clipgap.clip.eval.Progress) -> None:
        seen.append((progress.stage, progress.note))
        if progress.note == "tars" and progress.done > 20:
            stop.set()

    out = tmp_path / "cut"
    with pytest.raises(Interrupted, match="--resume"):
        clipgap.evaluate(out=out, **arguments, on_progress=watch, stop=stop)
    assert not (out / "manifest.json").exists()
    assert (out / "samples" / "a" / "pics.parquet").exists()
    assert not (out / "samples" / "a" / "tars.parquet").exists()
    with pytest.raises(InputError, match=r"unfinished evaluation\. Give --resume"):
        clipgap.evaluate(out=out, **arguments)
    with pytest.raises(ResumeError, match="seed"):
        clipgap.evaluate(out=out, **arguments, seed=3, resume=True)
    seen.clear()
    clipgap.evaluate(out=out, **arguments, on_progress=watch, resume=True)
    evaluated = [note for stage, note in seen if stage == "evaluating"]
    assert list(dict.fromkeys(evaluated)) == ["tars", "pics"]
    assert tree(out) == tree(tmp_path / "whole")
    assert clipgap.evaluate(out=out, **arguments, resume=True).already_complete


@pytest.mark.parametrize("name", ["samples/b/pics.parquet", "summary.parquet", "paired.parquet"])
def test_damaged_files_are_made_again(world: World, tmp_path: Path, name: str) -> None:
    out = tmp_path / "e"
    clipgap.evaluate(out=out, **world.arguments())
    before = tree(out)
    content = bytearray((out / name).read_bytes())
    content[len(content) // 2] ^= 1
    (out / name).write_bytes(content)
    result = clipgap.evaluate(out=out, **world.arguments(), resume=True)
    assert list(result.repaired) == [name]
    assert tree(out) == before


def test_changed_inputs_are_refused_on_resume(world: World, tmp_path: Path) -> None:
    out = tmp_path / "e"
    folder = write_folder(tmp_path / "pics", world.made[:6])
    clipgap.evaluate(out=out, **world.arguments(data=f"pics={folder}"))
    with pytest.raises(InputError, match="already holds a finished evaluation"):
        clipgap.evaluate(out=out, **world.arguments(data=f"pics={folder}"))
    write_folder(folder, pictures(1, seed=5))
    with pytest.raises(ResumeError, match="set pics identity"):
        clipgap.evaluate(out=out, **world.arguments(data=f"pics={folder}"), resume=True)
    clipgap.evaluate(out=out, **world.arguments(data=f"pics={folder}"), overwrite=True)
    assert len(samples(out, "a")["row"]) == 7


# --- bad input ------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG whose header claims a square of 60,000 pixels a side."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_bad_images_and_hostile_members_are_set_aside(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = world.made[:3]
    write_tar(tmp_path / "plain" / "0.tar", good)
    entries = []
    for picture in good:
        entries += [
            member(f"{picture.key}.jpg", picture.jpeg),
            member(f"{picture.key}.cls", str(picture.label).encode()),
        ]
    evil = [
        member("../../x.jpg", good[0].jpeg),
        member("bomb.png", bomb()),
        member("bomb.cls", b"0"),
        member("cut.jpg", good[0].jpeg[:200]),
        member("cut.cls", b"1"),
        member("code.pyd", pickle.dumps(print)),
        member("code.cls", b"1"),
    ]
    (tmp_path / "0.tar").write_bytes(tar_bytes([*entries[:2], *evil, *entries[2:]]))
    out = tmp_path / "e"
    command = ["eval", f"a={world.first}", "--data", f"pics={tmp_path / '0.tar'}"]
    command += ["--model", str(world.config), "--classnames", str(world.names)]
    command += ["--templates", str(world.prompts), "--device", "cpu", "-o", str(out)]
    assert main(command) == 4
    assert "Quarantined: 3 images" in capsys.readouterr().out
    assert samples(out, "a")["key"] == [picture.key for picture in good]
    assert samples(out, "a")["row"] == [0, 1, 2]
    listed = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert [row["name"] for row in listed] == ["../../x.jpg", "bomb", "cut"]
    assert "pixels" in listed[1]["reason"]
    assert main([*command, "--resume", "--allow-bad", "3"]) == 0


def test_hostile_and_foreign_checkpoints(world: World, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.pt"
    torch.save({"state_dict": {}, "extra": print}, hostile)
    with pytest.raises(InputError, match="refused, since it holds more than tensors"):
        clipgap.evaluate(out=tmp_path / "e", **world.arguments(checkpoints=str(hostile)))
    other = write_config(tmp_path, "wide-clip", embed_dim=24)
    foreign = write_checkpoint(other, tmp_path / "wide.pt")
    with pytest.raises(InputError, match="checkpoint of another architecture"):
        clipgap.evaluate(out=tmp_path / "e", **world.arguments(checkpoints=str(foreign)))
    with pytest.raises(InputError, match="no such checkpoint"):
        clipgap.evaluate(out=tmp_path / "e", **world.arguments(checkpoints="nowhere.pt"))
    state = torch.load(world.first, weights_only=True)
    state["state_dict"]["visual.ln_post.weight"].fill_(float("nan"))
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(InputError, match="logits that are no numbers"):
        clipgap.evaluate(
            out=tmp_path / "e", **world.arguments(checkpoints=str(tmp_path / "nan.pt"))
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": None}, "with --model"),
        ({"model": "timm:resnet18", "checkpoints": "x="}, "no text tower"),
        ({"data": "pics"}, "should be NAME=PATH"),
        ({"data": ["pics=x", "Pics=y"]}, "2 sets are called 'pics'"),
        ({"data": "a b=x"}, "cannot be the name of a set"),
        ({"checkpoints": ["x=", "x="]}, "2 checkpoints are called 'x'"),
        ({"checkpoints": []}, "no checkpoint given"),
        ({"data": []}, "no set given"),
        ({"data": "imagenet_sketch=x", "classnames": ()}, "did you mean 'imagenet-sketch'"),
        ({"templates": ()}, "prompts are missing"),
        ({"draws": 0}, "one draw"),
        ({"group_by": "pics=colour"}, "only sets with a table"),
        ({"group_by": "colour"}, "should be SET=COLUMN"),
        ({"batch_size": 0}, "must be 1 at least"),
    ],
)
def test_bad_calls(world: World, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        clipgap.evaluate(out=tmp_path / "e", **world.arguments(**changes))
    assert not (tmp_path / "e" / "manifest.json").exists()


def test_layouts_that_do_not_fit(world: World, tmp_path: Path) -> None:
    def evaluate(path: Path) -> None:
        clipgap.evaluate(out=tmp_path / "e", **world.arguments(data=f"pics={path}"))

    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no images"):
        evaluate(empty)
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "1.jpg").write_bytes(world.made[0].jpeg)
    with pytest.raises(InputError, match=r"1\.jpg is none of the 4 classes"):
        evaluate(flat)
    with pytest.raises(InputError, match="no such folder"):
        evaluate(tmp_path / "nowhere")
    rotten = tmp_path / "rotten" / CLASSES[0]
    rotten.mkdir(parents=True)
    (rotten / "1.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="no sample that can be evaluated"):
        evaluate(rotten.parent)
    shard = tmp_path / "0.tar"
    for label, said in ((b"4", "none of the 4 classes"), (None, "has no .cls member")):
        entries = [member("k.jpg", world.made[0].jpeg)]
        entries += [member("k.cls", label)] if label else []
        shard.write_bytes(tar_bytes(entries))
        with pytest.raises(InputError, match=said):
            evaluate(shard)


@pytest.mark.parametrize(
    ("names", "prompts", "said"),
    [
        ("one", "a {}", "names 1 classes"),
        ("x\ny\nx", "a {}", "class 'x' is named 2 times"),
        ("x\t\ny", "a {}", "a folder or a name is missing"),
        ("x\ny", "", "holds no prompt"),
        ("x\ny", "a photo", "should hold {} once"),
        ("x\ny", "a {0.__class__}", "should hold {} once"),
        ("x\ny", "a {} {}", "should hold {} once"),
        ("x\ny", "a {", "should hold {} once"),
    ],
)
def test_bad_lists(world: World, tmp_path: Path, names: str, prompts: str, said: str) -> None:
    (tmp_path / "names").write_text(names)
    (tmp_path / "prompts").write_text(prompts)
    changes = {"classnames": str(tmp_path / "names"), "templates": str(tmp_path / "prompts")}
    with pytest.raises(InputError, match=said):
        clipgap.evaluate(out=tmp_path / "e", **world.arguments(**changes))


def test_folders_may_be_called_otherwise_than_classes(world: World, tmp_path: Path) -> None:
    (tmp_path / "data" / "f0").mkdir(parents=True)
    (tmp_path / "data" / "f0" / "1.jpg").write_bytes(world.made[0].jpeg)
    (tmp_path / "names").write_text("f1\tgreen square\nf0\tred circle\n")
    changes = {"classnames": str(tmp_path / "names"), "data": f"pics={tmp_path / 'data'}"}
    result = clipgap.evaluate(out=tmp_path / "e", **world.arguments(**changes))
    assert samples(tmp_path / "e", "a")["label"] == [1]
    assert result.manifest["sets"][0]["classes"] == ["green square", "red circle"]


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
