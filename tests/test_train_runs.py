"""Runs of one rank in this process: stopped anywhere, fed with everything that is bad."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import clipgap
from clipgap.__main__ import main
from clipgap.clip.eval.contenders import load_classifier
from clipgap.clip.train import checkpoints, driver
from clipgap.clip.train.api import how_to_train, run_train
from clipgap.clip.train.labels import as_planned, read_class_labels
from clipgap.clip.train.options import Place, TrainOptions
from clipgap.clip.train.order import Position
from clipgap.clip.train.plan import Ranks, plan_train
from clipgap.errors import InputError, Interrupted, ResumeError, UsageError
from clipgap.files.sums import FileSum
from clipgap.runs.lock import PROGRESS
from tests.clip_worlds import Picture, encoded, pictures, render, write_shards, write_tar
from tests.faults import LyingFile
from tests.shards import member, tar_bytes, write_keep
from tests.train_worlds import (
    AfterBatches,
    TrainWorld,
    launch_here,
    losses,
    make_train_world,
    options,
    planned,
    same,
    seen,
    train_here,
    weights,
)
from tests.worlds import edited_manifest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainWorld, set[tuple[str, str]]]:
    return make_train_world(tmp_path_factory.mktemp("train"))


@pytest.fixture
def world(made: tuple[TrainWorld, set[tuple[str, str]]]) -> TrainWorld:
    return made[0]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs need no other processes."""
    monkeypatch.setattr(driver, "launch", launch_here)


SETTINGS = [
    pytest.param({"accum_freq": 1, "workers": 0}, id="plain"),
    pytest.param({"accum_freq": 2, "workers": 2}, id="accumulating, two workers"),
    pytest.param({"objective": "classify", "model": None, "arch": "squeezenet1_1"}, id="classify"),
]


@pytest.mark.parametrize("changes", SETTINGS)
def test_stopped_anywhere_it_ends_the_same(
    world: TrainWorld,
    changes: dict[str, object],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clipgap.clip.train.classify._SIZE", 64)
    name = request.node.callspec.id
    changes = {"log_keys": True, "batch_size": 16, **changes}
    plan, place = planned(world, f"{name} undisturbed", **changes)
    undisturbed = train_here(plan, place)
    plan, place = planned(world, f"{name} stopped", **changes)
    for call in (3, 4):
        with pytest.raises(Interrupted, match="--resume latest"):
            train_here(plan, place, AfterBatches(call))
    assert [p.name for p in (place.folder / "checkpoints").glob("*_batch_*.pt")]
    stopped = train_here(plan, place)
    assert losses(stopped) == losses(undisturbed)
    assert seen(stopped) == seen(undisturbed)
    assert same(weights(stopped, "epoch_2.pt"), weights(undisturbed, "epoch_2.pt"))
    assert not list((place.folder / "checkpoints").glob("*_batch_*.pt"))


def test_a_reference_is_added_whole(world: TrainWorld, here: None) -> None:
    reference = world.folder / "reference"
    added = write_shards(reference, [9, 0, 4], seed=50)
    result = clipgap.train(
        world.shards,
        keep=world.keep,
        add_reference=reference,
        logs=world.folder / "logs",
        name="reference",
        model=str(world.config),
        epochs=1,
        batch_size=20,
        workers=0,
        device="cpu",
        log_keys=True,
    )
    assert result.manifest["counts"]["reference"] == 13
    assert result.manifest["counts"]["samples"] == 13 + 90
    keys = {key for _, key in seen(result.path)[0]}
    assert len(keys) == 103 and {p.key for inside in added for p in inside} <= keys


class Harmful:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._path,)


def test_what_cannot_be_used_is_set_aside(
    tmp_path: Path, world: TrainWorld, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hostile members never reach a decoder; bad samples are listed; the exit code says so."""
    proof = tmp_path / "was here"
    harm = pickle.dumps(Harmful(proof))
    good = pictures(20, seed=60)
    entries = [
        entry
        for picture in good
        for entry in (
            *(member(f"{picture.key}.{e}", harm) for e in ("pyd", "pkl", "pth", "pickle")),
            member(f"{picture.key}.jpg", picture.jpeg),
            member(f"{picture.key}.txt", picture.caption.encode()),
        )
    ]
    image = good[0].jpeg
    entries += [
        *(member("garbage.jpg", b"\xff\xd8 no image"), member("garbage.txt", b"a")),
        *(member("cut.jpg", image[:-100]), member("cut.txt", b"a")),
        member("mute.jpg", image),
        member("blind.txt", b"a caption"),
        *(member("latin.jpg", image), member("latin.txt", b"\xe9\xff")),
        *(member("../../escaped.jpg", image), member("../../escaped.txt", b"a")),
        *(member("bomb.png", _bomb()), member("bomb.txt", b"a")),
    ]
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "0.tar").write_bytes(tar_bytes(entries))
    whole = tar_bytes(e for p in pictures(8, seed=61) for e in _entries(p))
    (shards / "1.tar").write_bytes(whole[: len(whole) * 2 // 3])
    command = [
        *("train", f"--train-data={shards}", f"--logs={tmp_path / 'logs'}", "--name=bad"),
        *(f"--model={world.config}", "--epochs=2", "--batch-size=4", "--workers=0"),
        *("--device=cpu", "--log-keys", "--json"),
    ]
    assert main(command) == 4
    folder = tmp_path / "logs" / "bad"
    noted = pq.read_table(folder / "quarantine.parquet").to_pylist()
    reasons = {Path(line["name"]).name: line["reason"] for line in noted if line["name"]}
    wanted = {
        "garbage": "not an image",
        "cut": "decoded",
        "mute": "no caption",
        "blind": "no image",
        "latin": "UTF-8",
        "escaped.jpg": "outside",
        "bomb": "pixels",
    }
    for name, reason in wanted.items():
        assert reason in reasons[name], (name, reasons)
    assert any(line["what"] == "shard" and line["shard"].endswith("1.tar") for line in noted)
    assert json.loads(capsys.readouterr().out)["counts"]["quarantined"] == len(noted)
    used = {key for samples in seen(folder).values() for _, key in samples}
    assert {p.key for p in good} <= used and not used & wanted.keys()
    assert not proof.exists()


def _entries(picture: Picture) -> list[tuple[object, bytes]]:
    caption = member(f"{picture.key}.txt", picture.caption.encode())
    return [member(f"{picture.key}.jpg", picture.jpeg), caption]


def _bomb() -> bytes:
    """A PNG whose header claims 60,000 × 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def test_the_latest_checkpoint_is_a_whole_one(tmp_path: Path) -> None:
    folder = tmp_path / checkpoints.FOLDER
    folder.mkdir()
    for position in (Position(1), Position(2), Position(2, 7), Position(10)):
        content = {"state_dict": {"a": torch.arange(1000)}}
        checkpoints.save(tmp_path, position, content)
    assert checkpoints.latest(tmp_path) == folder / "epoch_10.pt"
    whole = (folder / "epoch_10.pt").read_bytes()
    for bad in (whole[:-1], whole[: len(whole) // 2], b"", _flipped(whole)):
        (folder / "epoch_10.pt").write_bytes(bad)
        assert checkpoints.latest(tmp_path) == folder / "epoch_2_batch_7.pt"
    (folder / "epoch_2_batch_7.pt").unlink()
    (folder / "tmp.pt").write_bytes(whole)
    (folder / ".epoch_11.pt.0.clipgap-tmp").write_bytes(whole)
    assert checkpoints.latest(tmp_path) == folder / "epoch_2.pt"


def test_a_checkpoint_is_what_was_written_while_its_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / checkpoints.FOLDER
    for name in (folder, tmp_path / PROGRESS):
        name.mkdir()
    for epoch in (1, 2):
        checkpoints.save(tmp_path, Position(epoch), {"a": epoch})
    two = folder / "epoch_2.pt"
    assert checkpoints.noted_sums(tmp_path)[two.name] == FileSum.of(two)
    shutil.copy(folder / "epoch_1.pt", two)
    assert checkpoints.latest(tmp_path) == folder / "epoch_1.pt", "whole, but not what was written"

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode: LyingFile(path, mode))
        checkpoints.save(tmp_path, Position(2), {"a": 2})
    assert checkpoints.latest(tmp_path) == folder / "epoch_1.pt"
    lied = checkpoints.noted_sums(tmp_path)[two.name]
    checkpoints.save(tmp_path, Position(2), {"a": 2})
    assert lied == FileSum.of(two)


def _flipped(content: bytes) -> bytes:
    at = content.index(torch.arange(500, 510).numpy().tobytes())
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_a_failed_save_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "epoch_1.pt"
    with checkpoints.saved_whole():
        torch.save({"epoch": 1}, path)

        def fail(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("clipgap.files.atomic.sync_file", fail)
        with pytest.raises(InputError, match="No space left"):
            torch.save({"epoch": 2}, path)
    assert torch.load(path) == {"epoch": 1} and len(list(tmp_path.iterdir())) == 1


class TestRefused:
    def test_nothing_kept(self, world: TrainWorld) -> None:
        keys = {f"{i:05d}": ["a"] for i in range(4)}
        empty = write_keep(world.folder / "empty", keys, set())
        with pytest.raises(InputError, match=r"holds no sample that .*empty keeps"):
            planned(world, "x", {"keep": empty})

    def test_fewer_samples_than_a_step(self, world: TrainWorld) -> None:
        with pytest.raises(InputError, match=r"90 samples are fewer than one step.*64 samples"):
            planned(world, "x", batch_size=64, devices=2)

    def test_a_global_batch_that_does_not_divide(self, world: TrainWorld) -> None:
        with pytest.raises(UsageError, match=r"--global-batch 15 and --global-batch 18"):
            planned(world, "x", batch_size=None, global_batch=16, devices=3)

    def test_a_keep_list_of_other_shards(self, world: TrainWorld) -> None:
        keep = write_keep(world.folder / "other", {"00000": ["a"], "x": ["b"]}, {("00000", 0)})
        with pytest.raises(InputError, match=r"does not fit these shards"):
            planned(world, "x", {"keep": keep})

    def test_a_checkpoint_that_would_run_code(
        self, world: TrainWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        torch.save({"state_dict": Harmful(tmp_path / "was here")}, tmp_path / "hostile.pt")
        with pytest.raises(InputError, match=r"hostile\.pt: refused"):
            planned(world, "x", pretrained=str(tmp_path / "hostile.pt"))
        assert not (tmp_path / "was here").exists()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model": "ViT-B-33"}, r"no model 'ViT-B-33'; did you mean ViT-B-32"),
            ({"model": None}, r"--model is missing"),
            ({"model": "none.json"}, r"no such model configuration"),
            ({"objective": "segment"}, r"choose one of: clip, classify"),
            ({"recipe": "vit"}, r"there is vit-b-32-paper"),
            ({"epochs": 0}, r"epochs is 0; it must be at least 1"),
            ({"workers": -1}, r"workers is -1; it cannot be negative"),
            ({"arch": "resnet18"}, r"--arch has no meaning with --objective clip"),
            ({"objective": "classify"}, r"--model has no meaning with --objective classify"),
            ({"objective": "classify", "model": None}, r"--arch is missing"),
            ({"objective": "classify", "model": None, "arch": "resnet1"}, r"did you mean resnet1"),
            ({"arguments": ("--unknown", "3")}, r"unrecognized arguments: --unknown 3"),
            ({"arguments": ("--opt",)}, r"expected one argument"),
            ({"arguments": ("--train-data=x",)}, r"use --train-data instead"),
            ({"arguments": ("--batch-size", "7")}, r"--batch-size after --: give it before"),
            ({"precision": "fp8"}, r"invalid choice: 'fp8'"),
            ({"device": "tpu"}, r"tpu"),
        ],
    )
    def test_options(self, world: TrainWorld, changes: dict[str, object], message: str) -> None:
        with pytest.raises((UsageError, InputError), match=message):
            planned(world, "x", **changes)

    def test_folders(self, world: TrainWorld, here: None) -> None:
        plan, place = planned(world, "settings", epochs=1, batch_size=45)
        with pytest.raises(Interrupted):
            train_here(plan, place, AfterBatches(2))
        command = [
            *("train", f"--train-data={world.shards}", f"--keep={world.keep}"),
            *(f"--model={world.config}", f"--logs={place.logs}", "--name=settings", "--epochs=1"),
            *("--workers=0", "--device=cpu", "--lr=0.003", "--warmup=2", "--log-every-n-steps=1"),
        ]
        assert main([*command, "--batch-size=45"]) == 3
        changed = plan_train(place, options(world, epochs=1, batch_size=30))
        latest = how_to_train("latest")
        with pytest.raises(ResumeError, match=r"batches: batch: was 45, is 30"):
            run_train(changed, place.folder, latest)
        with pytest.raises(UsageError, match=r"give 'latest'"):
            how_to_train("epoch_1.pt")
        assert main([*command, "--batch-size=45", "--resume=latest"]) == 0
        checkpoint = place.folder / "checkpoints" / "epoch_1.pt"
        checkpoint.write_bytes(checkpoint.read_bytes() + b"!")
        with pytest.raises(InputError, match=r"epoch_1\.pt is damaged"):
            run_train(plan, place.folder, latest)

    def test_a_stranger_in_the_way(self, world: TrainWorld) -> None:
        with pytest.raises(UsageError, match="becomes the name of a folder"):
            world.place("a/b")


def test_dry_run_says_it_all(world: TrainWorld, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        *("train", f"--train-data={world.shards}", f"--keep={world.keep}", "--logs=l", "--name=n"),
        *(f"--model={world.config}", "--epochs=3", "--global-batch=32", "--batch-size=4"),
        *("--devices=2", "--device=cpu", "--dry-run", "--json"),
    ]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["samples"], said["world_size"], said["accum_freq"]) == (90, 2, 4)
    assert said["steps"] == 9 and said["global_batch"] == 32
    assert said["command"][-1].endswith("l/n") and not Path("l").exists()


def test_the_recipe_of_the_paper() -> None:
    resolved = TrainOptions(recipe="vit-b-32-paper", epochs=2).resolved()
    assert (resolved.model, resolved.epochs) == ("ViT-B-32", 2)
    assert resolved.global_batch == 33_600


def test_ranks_of_other_launchers() -> None:
    torchrun = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    assert Ranks.of_environment(torchrun) == Ranks(True, 3, 1, 4)
    slurm = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}
    assert Ranks.of_environment(slurm) == Ranks(True, 5, 1, 8)
    for alone in ({"SLURM_NNODES": "1"}, {"MASTER_ADDR": "localhost"}, {"LOCAL_WORLD_SIZE": "8"}):
        assert Ranks.of_environment({**slurm, **alone}) == Ranks(True, 5, 1, 8, together=True)
    for apart in ({"SLURM_NNODES": "2"}, {"MASTER_ADDR": "node1"}, {"LOCAL_WORLD_SIZE": "4"}):
        assert not Ranks.of_environment({**slurm, **apart}).together
    assert not Ranks.of_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}).launched
    assert not Ranks.of_environment({}).launched


def test_one_of_the_ranks_that_torchrun_started(
    world: TrainWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.train_worlds import quiet

    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    command = [
        *("train", f"--train-data={world.shards}", f"--logs={world.folder / 'logs'}"),
        *("--name=launched", f"--model={world.config}", "--epochs=1", "--batch-size=56"),
        *("--workers=0", "--device=cpu", "--json"),
    ]
    with quiet():
        assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["samples"] == 112


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "MASTER_ADDR and MASTER_PORT must be set"),
        ({"MASTER_ADDR": "localhost"}, "MASTER_PORT must be set"),
        ({"MASTER_ADDR": "localhost", "MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
        ({"MASTER_ADDR": "localhost", "MASTER_PORT": "70000"}, "MASTER_PORT is '70000'"),
    ],
)
def test_where_ranks_find_each_other_must_be_known(
    world: TrainWorld,
    environment: dict[str, str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", **environment}.items():
        monkeypatch.setenv(name, value)
    command = [
        *("train", f"--train-data={world.shards}", f"--logs={world.folder / 'logs'}"),
        *("--name=lost", f"--model={world.config}", "--epochs=1", "--batch-size=8"),
        *("--workers=0", "--device=cpu"),
    ]
    assert main(command) == 2
    assert named in capsys.readouterr().err


def test_validation_data_are_read_with_the_same_care(world: TrainWorld, tmp_path: Path) -> None:
    write_tar(tmp_path / "val" / "0.tar", pictures(10, seed=70))
    arguments = (f"--val-data={tmp_path / 'val'}", "--report-to=tensorboard")
    plan, place = planned(world, "val", epochs=1, batch_size=45, arguments=arguments)
    folder = train_here(plan, place)
    found = json.loads((folder / "checkpoints" / "results.jsonl").read_text())
    assert found["num_samples"] == 10 and found["clip_val_loss"] > 0
    assert list((folder / "tensorboard").iterdir())


def test_classes_in_folders_and_keep_lists_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: None
) -> None:
    monkeypatch.setattr("clipgap.clip.train.classify._SIZE", 64)
    paths = []
    for label, name in enumerate(("b", "a")):
        for seed in range(10):
            path = tmp_path / "images" / name / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(render(label, seed), "PNG"))
            paths.append(f"{name}/{seed}.png")
    keep = write_keep(tmp_path / "keep", {"s": sorted(paths)}, {("s", row) for row in range(7)})
    given = {
        "train_data": str(tmp_path / "images"),
        "logs": tmp_path / "logs",
        "name": "n",
        "keep": keep,
    }
    place = Place(**given)
    what = TrainOptions(
        objective="classify",
        arch="squeezenet1_1",
        epochs=1,
        batch_size=7,
        workers=0,
        warmup=3,
        device="cpu",
        log_keys=True,
    )
    plan = plan_train(place, what)
    assert plan.samples == 7 and plan.classes == ("a", "b")
    folder = run_train(plan, place.folder, how_to_train(None)).path
    assert {key for _, key in seen(folder)[0]} == set(sorted(paths)[:7])
    content = torch.load(folder / "checkpoints" / "epoch_1.pt", weights_only=True)
    assert (content["objective"], content["arch"]) == ("classify", "squeezenet1_1")
    assert content["classes"] == ["a", "b"] and content["epoch"] == 1
    assert clipgap.verify(folder).ok
    for name, value in {"lr": 0.3, "wd": 0.1, "warmup": 2, "arch": "squeezenet1_0"}.items():
        with edited_manifest(folder) as manifest:
            was, manifest["plan"]["options"][name] = manifest["plan"]["options"][name], value
        (said,) = [check.detail for check in clipgap.verify(folder).checks if not check.ok]
        assert "by the plan" in said, name
        with edited_manifest(folder) as manifest:
            manifest["plan"]["options"][name] = was


def labelled(folder: Path, rows: Sequence[tuple[str, str | None]]) -> Path:
    path = folder / "labels.csv"
    path.write_text("".join(f"{key},{name or ''}\n" for key, name in (("key", "class"), *rows)))
    return path


def test_one_label_space_for_shards_of_several_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: None
) -> None:
    """Classes come from a table; a set is told apart among those of its own, by subsets too."""
    monkeypatch.setattr("clipgap.clip.train.classify._SIZE", 64)
    made = pictures(12)  # of captions, not of classes
    joint = ("axe", "bed", "hen", "kite")  # bed and hen are of both sets, kite of the other
    named = [(p.key, joint[n % 3]) for n, p in enumerate(made)]
    given = {
        "train_data": str(write_tar(tmp_path / "0.tar", made)),
        "logs": tmp_path / "logs",
        "name": "joint",
        "labels": labelled(tmp_path, [*named[1:], ("elsewhere", "kite")]),
    }
    what: dict[str, Any] = {"objective": "classify", "arch": "squeezenet1_1", "epochs": 1}
    what |= {"batch_size": 11, "workers": 0, "device": "cpu", "log_keys": True}
    place = Place(**given)
    plan = plan_train(place, TrainOptions(**what))
    assert plan.classes == joint  # whatever is kept of them
    result = run_train(plan, place.folder, how_to_train(None))
    assert result.quarantined == 1  # without a label
    assert clipgap.verify(result.path).ok
    content = torch.load(result.checkpoint, weights_only=True)
    assert content["classes"] == list(joint)

    for name in ("bed", "hen"):
        for seed in range(2):
            path = tmp_path / "set" / name / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(render(1, seed), "PNG"))
    (tmp_path / "names.txt").write_text("bed\nhen\n")
    (tmp_path / "prompts.txt").write_text("a {}\n")
    (tmp_path / "subsets.toml").write_text('[queried]\nclasses = ["hen"]\n')
    found = clipgap.evaluate(
        f"joint={result.checkpoint}",
        f"set={tmp_path / 'set'}",
        tmp_path / "eval",
        classnames=str(tmp_path / "names.txt"),
        templates=str(tmp_path / "prompts.txt"),
        subsets=f"set={tmp_path / 'subsets.toml'}",
        device="cpu",
        workers=1,
    )
    net = load_classifier(result.checkpoint, "cpu", "fp32")
    images = [
        Image.open(path).convert("RGB")
        for name in ("bed", "hen")
        for path in sorted((tmp_path / "set" / name).iterdir())
    ]
    logits = net.logits(torch.stack([net.preprocess(image) for image in images]))
    own = logits[:, 1:3].argmax(dim=1).tolist()  # bed and hen, of the four
    assert found.samples("joint", "set")["prediction"].to_pylist() == own
    queried = next(row for row in found.subsets.to_pylist() if row["subset"] == "queried")
    assert queried["accuracy"] == np.mean(np.array(own[2:]) == 1)

    with (tmp_path / "labels.csv").open("a") as file:
        file.write("more,axe\n")
    assert "labels" in " ".join(check.detail for check in clipgap.verify(result.path).checks)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("a", "axe"), ("a", "bed")], "'a' has labels that contradict each other"),
        ([("a", "axe"), ("b", "axe")], "all labels are 'axe'"),
        ([("a", "axe"), ("b", None)], "the row of 'b' has no key or no class"),
        ([], "holds no labels"),
    ],
)
def test_labels_that_cannot_be(
    tmp_path: Path, rows: Sequence[tuple[str, str | None]], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_class_labels(labelled(tmp_path, rows))


def test_labels_that_changed_since_the_plan(tmp_path: Path) -> None:
    """Each rank reads them again, and must find what the plan was made by."""
    table = labelled(tmp_path, [("a", "axe"), ("b", "bed")])
    cited = {"path": str(table), "sha256": read_class_labels(table).sha256}
    assert as_planned(cited, read_class_labels) == read_class_labels(table)
    labelled(tmp_path, [("a", "axe"), ("b", "bee")])
    with pytest.raises(InputError, match="was changed since the run was begun"):
        as_planned(cited, read_class_labels)
    assert as_planned(None, read_class_labels) is None


def test_a_keep_list_by_uid(world: TrainWorld, tmp_path: Path) -> None:
    """DataComp's: uids stand in each .json, and shards of the list have names of their own."""
    uids = [f"{i:032x}" for i in range(50)]
    entries = [
        entry
        for picture, uid in zip(pictures(50), uids, strict=True)
        for entry in (
            member(f"{picture.key}.jpg", picture.jpeg),
            member(f"{picture.key}.txt", picture.caption.encode()),
            member(f"{picture.key}.json", json.dumps({"uid": uid}).encode()),
        )
    ]
    (tmp_path / "00000000.tar").write_bytes(tar_bytes(entries))
    keep = write_keep(tmp_path / "keep", {"0a1b": uids}, {("0a1b", row) for row in range(0, 50, 2)})
    change = {"train_data": str(tmp_path / "00000000.tar"), "keep": keep}
    plan, place = planned(world, "uids", change, epochs=1, batch_size=5, log_keys=True)
    assert (plan.samples, plan.missing, plan.options.match) == (25, 0, "uid")
    train_here(plan, place)
    lines = (place.folder / "keys" / "rank-0.jsonl").read_text().splitlines()
    seen = [key for line in lines for _, key in json.loads(line)["samples"]]
    assert sorted(seen) == [f"{i:09d}" for i in range(0, 50, 2)]


@pytest.mark.parametrize("by", ["shard", "key"])
def test_kept_samples_that_no_shard_holds(world: TrainWorld, tmp_path: Path, by: str) -> None:
    keys = [picture.key for picture in pictures(30)]
    name = "00000" if by == "shard" else "img_emb_0"
    store = {name: [*keys, "gone-0", "gone-1"]}
    keep = write_keep(tmp_path / "keep", store, {(name, row) for row in range(32)})
    change = {"train_data": str(world.tar(0)), "keep": keep}
    with pytest.raises(InputError, match=r"2 of its samples are in none of .*'gone-0', 'gone-1'"):
        planned(world, "missing", change)
    plan, _ = planned(world, "missing", change, allow_missing=True, epochs=1)
    assert (plan.samples, plan.missing) == (30, 2)
