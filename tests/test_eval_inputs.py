"""What `clipgap eval` refuses or sets aside, and what it says then."""

from __future__ import annotations

import pickle
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import clipgap
from clipgap.__main__ import main
from clipgap.clip.eval import work as work_module
from clipgap.clip.eval.plan import plan_evaluation
from clipgap.clip.train.api import KIND as TRAINING
from clipgap.errors import InputError, UsageError
from clipgap.files.documents import MANIFEST, write_document
from tests.clip_worlds import (
    CLASSES,
    write_checkpoint,
    write_config,
    write_tar,
)
from tests.eval_worlds import World, make_world, samples, write_classifier
from tests.shards import member, tar_bytes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("eval"))


def test_what_a_training_noted_stands_in_the_evaluation(world: World, tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    checkpoint = tmp_path / "run/checkpoints/epoch_1.pt"
    shutil.copy(world.first, checkpoint)
    machine = {"device": "1 process", "cpu": "a cpu", "cores": 2, "memory_gib": 7.8}
    said = {}
    for missing in (None, 0, 3):
        if missing is not None:
            counts = {"samples": 5, "steps": 1, "quarantined": 0, "missing": missing}
            document = {
                "plan": {"batches": {"batches": 1}, "options": {"seed": 7}},
                "counts": counts,
                "checkpoint": {"path": "checkpoints/epoch_1.pt", "sha256": "", "size": 0},
                "final_loss": None,
                "files": {},
                **({"machine": machine} if missing else {}),
            }
            write_document(tmp_path / "run" / MANIFEST, TRAINING.form, document)
        names = ("data", "model", "classnames", "templates")
        given = {name: world.arguments()[name] for name in names}
        given["data"] = [given["data"]]
        plan = plan_evaluation([str(checkpoint)], **given)
        entry = plan.describe()["checkpoints"][0]
        said[missing] = {name: entry[name] for name in ("missing", "trained") if name in entry}
    assert said == {None: {}, 0: {}, 3: {"missing": 3, "trained": {"seed": 7, **machine}}}


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
    assert "Quarantined: 4 units" in capsys.readouterr().out
    assert samples(out, "a")["key"] == [picture.key for picture in good]
    assert samples(out, "a")["row"] == [0, 1, 2]
    listed = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert [row["name"] for row in listed] == ["../../x.jpg", "code", "bomb", "cut"]
    assert "pixels" in listed[2]["reason"]
    assert main([*command, "--resume", "--allow-bad", "4"]) == 0


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
        ({"draws": 0}, "draws is 0; it must be at least 1"),
        ({"group_by": "pics=colour"}, "only sets with a table"),
        ({"group_by": "colour"}, "should be SET=COLUMN"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
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


def test_too_little_memory_is_said(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 2.00 TiB")

    monkeypatch.setattr(work_module, "score", full)
    with pytest.raises(InputError, match="cpu has not enough memory for 2 checkpoints"):
        clipgap.evaluate(out=tmp_path / "e", **world.arguments())
