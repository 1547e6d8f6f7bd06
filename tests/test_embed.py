"""`embed`: rows equal a plain loop over open_clip's own model, in order, under their keys."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import clipgap
from clipgap.__main__ import main
from clipgap.clip.embed.api import EmbedResult, embed, plan_embed
from clipgap.clip.embed.options import EmbedOptions
from clipgap.clip.models import LoadedModel
from clipgap.errors import InputError, Interrupted, ResumeError, UsageError
from clipgap.runs.executors import Here
from clipgap.runs.units import Event, Work
from clipgap.select.rules import Rand
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
from tests.test_images import png_of
from tests.toy_executor import toy
from tests.worlds import tree

COUNTS = [5, 1, 9]


@dataclass(frozen=True)
class World:
    folder: Path
    config: str
    checkpoint: str
    made: list[list[Picture]]

    @property
    def shards(self) -> Path:
        return self.folder / "shards"

    def embed(self, data: str | Path, out: Path, **options: Any) -> EmbedResult:
        return embed(data, self.config, self.checkpoint, out=out, device="cpu", **options)

    def rows(self, made: Sequence[Picture]) -> NDArray[np.float16]:
        """What the store should hold: open_clip alone, Pillow, and float64 at the end."""
        import open_clip

        open_clip.add_model_config(Path(self.config))
        model, _, preprocess = open_clip.create_model_and_transforms(
            Path(self.config).stem, pretrained=self.checkpoint
        )
        images = [
            preprocess(Image.open(io.BytesIO(picture.jpeg)).convert("RGB")) for picture in made
        ]
        with torch.no_grad():
            features = model.eval().encode_image(torch.stack(images)).double().numpy()
        norms = np.sqrt((features**2).sum(axis=1, keepdims=True))
        rows: NDArray[np.float16] = (features / norms).astype(np.float16)
        return rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    config = write_config(folder)
    checkpoint = write_checkpoint(config, folder / "tiny.pt")
    return World(folder, str(config), str(checkpoint), write_shards(folder / "shards", COUNTS))


@pytest.fixture(scope="module")
def whole(world: World) -> Path:
    """An undisturbed run."""
    world.embed(world.shards, world.folder / "whole", batch_size=4, captions=True)
    return world.folder / "whole"


def stored(store: Path, shard: str) -> NDArray[np.float16]:
    rows: NDArray[np.float16] = np.load(store / "embeddings" / f"{shard}.npy")
    return rows


def quarantine(store: Path) -> list[dict[str, Any]]:
    return pq.read_table(store / "quarantine.parquet").to_pylist()


def test_rows_equal_a_plain_loop(world: World, whole: Path) -> None:
    for shard, made in enumerate(world.made):
        assert np.array_equal(stored(whole, f"{shard:05d}"), world.rows(made))


def test_keys_captions_and_order(world: World, whole: Path) -> None:
    store = clipgap.open_store(whole)
    assert (store.format, store.rows, store.dim) == ("clipgap", sum(COUNTS), 16)
    for shard, made in enumerate(world.made):
        table = pq.read_table(whole / "keys" / f"{shard:05d}.parquet")
        assert table["key"].to_pylist() == [picture.key for picture in made]
        assert table["caption"].to_pylist() == [picture.caption for picture in made]
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["counts"] == {
        "shards": 3,
        "images": 15,
        "problems": 0,
        "without_caption": 0,
    }
    assert manifest["model"]["checkpoint_sha256"] and manifest["preprocess"]["size"] == [32, 32]
    assert not (whole / "quarantine.parquet").exists() and not (whole / ".progress").exists()


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_batches_do_not_matter_on_a_cpu(
    world: World, whole: Path, size: int, tmp_path: Path
) -> None:
    world.embed(world.shards, tmp_path / "out", batch_size=size, captions=True)
    assert tree(tmp_path / "out" / "embeddings") == tree(whole / "embeddings")
    assert tree(tmp_path / "out" / "keys") == tree(whole / "keys")


def test_two_workers_make_the_same_store(world: World, whole: Path, tmp_path: Path) -> None:
    world.embed(world.shards, tmp_path / "out", batch_size=4, captions=True, workers=2)
    assert tree(tmp_path / "out") == tree(whole)


def test_a_worker_tells_what_is_wrong(world: World, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"garbage")
    shard, out = world.shards / "00000.tar", tmp_path / "out"  # one shard: one process
    with pytest.raises(InputError, match=r"bad\.pt: not a checkpoint"):
        embed(shard, world.config, str(tmp_path / "bad.pt"), out=out, workers=2)


@pytest.mark.parametrize("kind", ["shards", "folder"])
def test_units_can_be_done_anywhere_and_twice(
    world: World, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipgap.clip.embed.sources.FOLDER_UNIT", 4)
    data = f"{world.shards}/{{00000..00001}}.tar"
    if kind == "folder":
        data = str(write_folder(tmp_path / "images", pictures(6)))
    # Of all models these are there first: a worker is a process that imports nothing but torch.
    options: dict[str, Any] = {"model": "torchvision:resnet18", "pretrained": "", "device": "cpu"}
    embed(data, out=tmp_path / "here", **options)
    embed(data, out=tmp_path / "anywhere", executor=toy, **options)
    assert tree(tmp_path / "anywhere") == tree(tmp_path / "here")


@pytest.mark.parametrize(
    "name", ["{00000..00002}.tar", "0000?.tar", "00000.tar::{folder}/00001.tar::{folder}/00002.tar"]
)
def test_every_way_to_name_shards(world: World, whole: Path, name: str, tmp_path: Path) -> None:
    data = f"{world.shards}/{name.replace('{folder}', str(world.shards))}"
    world.embed(data, tmp_path / "out", batch_size=4, captions=True)
    assert tree(tmp_path / "out") == tree(whole)


@pytest.mark.parametrize("flat", [False, True])
def test_folder_of_images(world: World, flat: bool, tmp_path: Path) -> None:
    made = pictures(6, seed=7)
    if flat:
        (tmp_path / "images").mkdir()
        for picture in made:
            (tmp_path / "images" / f"{picture.key}.JPEG").write_bytes(picture.jpeg)
        paths = {f"{picture.key}.JPEG": picture for picture in made}
    else:
        write_folder(tmp_path / "images", made)
        paths = {f"{CLASSES[picture.label]}/{picture.key}.jpg": picture for picture in made}
    (tmp_path / "images" / "labels.txt").write_text("no image")
    (tmp_path / "images" / ".hidden.jpg").write_bytes(b"no image")
    result = world.embed(tmp_path / "images", tmp_path / "out")
    assert result.problems == 0
    keys = pq.read_table(tmp_path / "out" / "keys" / "00000.parquet")["key"].to_pylist()
    assert keys == sorted(paths)
    wanted = world.rows([paths[key] for key in keys])
    assert np.array_equal(stored(tmp_path / "out", "00000"), wanted)


def test_a_large_folder_becomes_several_shards(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipgap.clip.embed.sources.FOLDER_UNIT", 4)
    write_folder(tmp_path / "images", pictures(10))
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images")
    world.embed(tmp_path / "images", tmp_path / "out")
    assert [entry.rows for entry in clipgap.open_store(tmp_path / "out").shards] == [4, 4, 2]


def test_rows_are_called_by_a_field(world: World, whole: Path, tmp_path: Path) -> None:
    """The first shard has a table, the others only .json; the sample of one says nothing."""
    shards, uids = tmp_path / "in", [f"{n:032x}" for n in range(sum(COUNTS))]
    rows = iter(uids)
    for shard, made in enumerate(world.made):
        said = {picture.key: next(rows) for picture in made}
        entries = []
        for picture in made:
            note = json.dumps({"uid": said[picture.key]} if said[picture.key] != uids[6] else {})
            entries.append(member(f"{picture.key}.jpg", picture.jpeg))
            entries += [member(f"{picture.key}.json", note.encode())] if shard else []
        shards.mkdir(exist_ok=True)
        (shards / f"{shard:05d}.tar").write_bytes(tar_bytes(entries))
        if shard == 0:
            listed = pa.table({"key": list(said), "uid": list(said.values())})
            pq.write_table(listed, shards / "00000.parquet")
    result = world.embed(shards, tmp_path / "out", match="uid")
    store = clipgap.open_store(result.path)
    keys = [store.keys(n, 0, entry.rows).to_pylist() for n, entry in enumerate(store.shards)]
    assert keys == [uids[:5], uids[5:6], uids[7:]]
    assert np.array_equal(stored(result.path, "00000"), stored(whole, "00000"))
    assert np.array_equal(stored(result.path, "00002"), stored(whole, "00002")[1:])
    (aside,) = quarantine(result.path)
    assert (aside["name"], "its uid" in aside["reason"]) == (world.made[2][0].key, True)
    assert main(["verify", str(result.path)]) == 0
    # What is split of it is found in the shards again, and DataComp's tools take it.
    clipgap.scan(result.path, {"same": result.path}, k=1, out=tmp_path / "scan")
    keep = tmp_path / "keep"
    clipgap.split(tmp_path / "scan", Rand(6, seed=1), out=keep)
    assert len(np.load(keep / "datacomp.npy")) == 6
    assert clipgap.filter_shards(shards, keep, tmp_path / "kept").kept == 6
    # The table beside a shard is an input.
    changed = pa.table({"key": list(said), "uid": list(said.values())}).slice(1)
    pq.write_table(changed, shards / "00000.parquet")
    with pytest.raises(ResumeError, match="shard 00000 table"):
        world.embed(shards, tmp_path / "out", match="uid", resume=True)


def test_a_field_that_is_nowhere(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--match uid.*\n.*00000\.tar"):
        world.embed(world.shards, tmp_path / "out", match="uid")
    with pytest.raises(UsageError, match="no fields"):
        world.embed(write_folder(tmp_path / "images", pictures(1)), tmp_path / "out", match="uid")
    assert not (tmp_path / "out").exists()


def test_how_many_there_are_is_what_shards_say(world: World, tmp_path: Path) -> None:
    """Images of one shard say little of those in others."""
    for path in sorted(world.shards.glob("*.tar")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        count = len(world.made[int(path.stem)])
        (tmp_path / f"{path.stem}_stats.json").write_text(json.dumps({"successes": count}))

    def images() -> int | None:
        options = EmbedOptions(device="cpu")
        return plan_embed(tmp_path, world.config, "", options=options).images

    assert images() == sum(COUNTS)
    (tmp_path / "00001_stats.json").write_text("{}")
    assert images() is None


def test_hugging_face_shards(world: World, tmp_path: Path) -> None:
    """Folders inside the archive, .webp and .png, .cls and .json beside them."""
    image = render(0, 1)
    entries = [
        member("data/s0.cls", b"0"),
        member("data/s0.webp", encoded(image, "WEBP", lossless=True)),
        member("data/s1.PNG", encoded(image, "PNG")),
        member("data/s1.json", b"{}"),
    ]
    (tmp_path / "0.tar").write_bytes(tar_bytes(entries))
    world.embed(tmp_path / "0.tar", tmp_path / "out", captions=True)
    table = pq.read_table(tmp_path / "out" / "keys" / "0.parquet").to_pydict()
    assert table == {"key": ["data/s0", "data/s1"], "caption": [None, None]}
    rows = stored(tmp_path / "out", "0")
    assert np.array_equal(rows[0], rows[1])


def test_bad_samples_are_set_aside_and_the_others_stay(world: World, tmp_path: Path) -> None:
    good = world.made[2]
    ran = tmp_path / "ran"
    bad = [
        member("cut.jpg", good[0].jpeg[:500]),
        member("bomb.png", png_of(50_000, 50_000)),
        member("words.txt", b"a caption alone"),
        member("code.pyd", f"import pathlib; pathlib.Path({str(ran)!r}).touch()".encode()),
        member("../../outside.jpg", good[0].jpeg),
        member("/etc/absolute.jpg", good[0].jpeg),
    ]
    entries: list[Any] = []
    for i, picture in enumerate(good):
        entries += [member(f"{picture.key}.jpg", picture.jpeg), *bad[i : i + 1]]
    (tmp_path / "0.tar").write_bytes(tar_bytes(entries))
    result = world.embed(tmp_path / "0.tar", tmp_path / "out", batch_size=4)
    assert np.array_equal(stored(tmp_path / "out", "0"), world.rows(good))
    lines = quarantine(tmp_path / "out")
    assert {line["name"]: line["what"] for line in lines} == {
        "cut": "sample",
        "bomb": "sample",
        "words": "sample",
        "code": "sample",
        "../../outside.jpg": "member",
        "/etc/absolute.jpg": "member",
    }
    assert result.problems == 6
    assert all(line["shard"] == str(tmp_path / "0.tar") and line["reason"] for line in lines)
    assert not ran.exists()


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "fewer"])
def test_damaged_shards_are_never_silently_short(world: World, damage: str, tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "in" / "0.tar", world.made[0])
    write_tar(tmp_path / "in" / "1.tar", world.made[1])
    content = shard.read_bytes()
    if damage == "truncated":
        shard.write_bytes(content[: content.index(world.made[0][2].key.encode() + b".jpg") + 900])
    elif damage == "garbage":
        shard.write_bytes(b"no archive" * 200)
    elif damage == "empty":
        shard.write_bytes(b"")
    else:
        (tmp_path / "in" / "0_stats.json").write_text('{"successes": 6}')
    command = ["embed", str(tmp_path / "in"), "--model", world.config, "--pretrained"]
    assert main([*command, world.checkpoint, "-o", str(tmp_path / "out"), "-q"]) == 4
    assert quarantine(tmp_path / "out")[0]["what"] == "shard"
    kept = {"truncated": 1, "garbage": 0, "empty": 0, "fewer": 5}[damage]
    assert np.array_equal(stored(tmp_path / "out", "0"), world.rows(world.made[0])[:kept])
    assert clipgap.open_store(tmp_path / "out").rows == kept + 1
    again = [*command, world.checkpoint, "-o", str(tmp_path / "two"), "-q", "--allow-bad", "2"]
    assert main(again) == 0


def test_unreadable_features_are_set_aside(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LoadedModel.image_features

    def overflowing(self: LoadedModel, batch: torch.Tensor) -> torch.Tensor:
        features = original(self, batch)
        if len(batch) > 2:
            features[1], features[2] = torch.inf, 0
        return features

    monkeypatch.setattr(LoadedModel, "image_features", overflowing)
    world.embed(world.shards / "00000.tar", tmp_path / "out")
    keys = [picture.key for picture in world.made[0]]
    assert [line["name"] for line in quarantine(tmp_path / "out")] == keys[1:3]
    assert len(stored(tmp_path / "out", "00000")) == 3


def test_nothing_to_embed(world: World, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"neither \.tar files nor"):
        world.embed(tmp_path / "none", tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        world.embed(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "0.tar").write_bytes(tar_bytes([member("a.txt", b"text")]))
    with pytest.raises(InputError, match=r"not one image could be embedded(.|\n)*has no image"):
        world.embed(tmp_path / "0.tar", tmp_path / "out")
    (tmp_path / "0.tar").write_bytes(tar_bytes([]))
    with pytest.raises(InputError, match="there are no samples"):
        world.embed(tmp_path / "0.tar", tmp_path / "out2")
    with pytest.raises(UsageError, match="has no captions"):
        write_folder(tmp_path / "images", pictures(1))
        world.embed(tmp_path / "images", tmp_path / "out3", captions=True)
    with pytest.raises(UsageError, match="commands are not run"):
        world.embed("pipe:cat x.tar", tmp_path / "out3")


class Stop(threading.Event):
    """Asks to stop when it has been looked at so often."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left = looks

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_stopped_anywhere_goes_on_to_the_same_store(
    world: World, whole: Path, tmp_path: Path
) -> None:
    stops = 0
    for looks in itertools.count():
        out = tmp_path / str(looks)
        options = {"batch_size": 4, "captions": True}
        try:
            world.embed(world.shards, out, stop=Stop(looks), **options)
        except Interrupted as error:
            assert "--resume goes on" in str(error)
            stops += 1
        else:
            break
        assert not (out / "store.json").exists()
        if any((out / "embeddings").iterdir()):
            with pytest.raises(InputError, match="unfinished"):
                world.embed(world.shards, out, **options)
        world.embed(world.shards, out, resume=True, **options)
        assert tree(out) == tree(whole)
    assert stops >= 5  # once a batch at least


def test_finished_shards_are_not_embedded_again(world: World, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        world.embed(world.shards, tmp_path / "out", batch_size=4, captions=True, stop=Stop(4))
    seen: list[str] = []

    def watched(work: Work, units: Sequence[Any], *asked: Any) -> Iterator[Event]:
        seen.extend(unit.name for unit in units)
        return Here()(work, units, *asked)

    options: dict[str, Any] = {"batch_size": 4, "captions": True, "executor": watched}
    world.embed(world.shards, tmp_path / "out", resume=True, **options)
    assert seen == ["00002"]
    assert tree(tmp_path / "out") == tree(whole)


def test_killed_before_any_rename(world: World, whole: Path, tmp_path: Path) -> None:
    """SIGKILL in a forked child before a file appears, every other one; then the same store."""
    options: dict[str, Any] = {"batch_size": 4, "captions": True}
    original, renames = os.replace, 0

    def killing(*arguments: Any) -> None:
        nonlocal renames
        renames += 1
        if renames == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        original(*arguments)

    for nth in itertools.count(1, 2):
        out = tmp_path / str(nth)
        if (child := os.fork()) == 0:
            try:
                os.replace = killing
                world.embed(world.shards, out, **options)
            finally:
                os._exit(0)
        if os.WIFEXITED(os.waitpid(child, 0)[1]):
            break
        made = {name for name in tree(out) if not Path(name).parts[0].startswith(".")}
        left = {name for name in made if not Path(name).name.startswith(".")}
        assert all(tree(out)[name] == tree(whole)[name] for name in left)
        assert ("manifest.json" in left) <= ("store.json" in left)
        world.embed(world.shards, out, resume=True, **options)
        assert tree(out) == tree(whole)
    assert nth > 3 * len(COUNTS)  # rows and keys of each shard, plan, catalogue and manifest


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals_leave_a_resumable_folder(
    world: World, whole: Path, number: int, code: int, tmp_path: Path
) -> None:
    original = LoadedModel.image_features

    def interrupted(self: LoadedModel, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > 1:  # not the one that tells the number of dimensions
            os.kill(os.getpid(), number)
            threading.Event().wait(0.3)  # a thread takes notice of the signal
        return original(self, batch)

    command = ["embed", str(world.shards), "--model", world.config, "--batch-size", "4", "-q"]
    command += ["--pretrained", world.checkpoint, "--captions", "-o", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoadedModel, "image_features", interrupted)
        assert main(command) == code
    assert main([*command, "--resume"]) == 0
    assert tree(tmp_path / "out") == tree(whole)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"captions": False}, "setting captions"),
        ({"batch_size": 5}, "setting batch_size"),
        ({"precision": "bf16"}, "setting precision"),
        ({"pretrained": ""}, "model's checkpoint_sha256"),
        ({"data": "00000.tar"}, "shards: were 3, are 1"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_resuming_something_else_is_refused(
    world: World, finished: bool, change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"batch_size": 4, "captions": True, "pretrained": world.checkpoint}
    options["out"] = tmp_path / "out"
    stop = None if finished else Stop(2)  # when the first shard is done
    try:
        embed(world.shards, world.config, **options, stop=stop)
    except Interrupted:
        assert not finished
    options = {**options, **change}
    data = world.shards / options.pop("data", "")
    with pytest.raises(ResumeError, match=named):
        embed(data, world.config, **options, resume=True)


def test_a_damaged_store_is_mended(world: World, whole: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 4, "captions": True}
    out = tmp_path / "out"
    world.embed(world.shards, out, **options)
    assert world.embed(world.shards, out, resume=True, **options).already_complete
    with pytest.raises(InputError, match="already holds a finished"):
        world.embed(world.shards, out, **options)
    for name in ("embeddings/00001.npy", "keys/00002.parquet", "store.json"):
        (out / name).write_bytes((out / name).read_bytes()[:-1])
        assert not world.embed(world.shards, out, resume=True, **options).already_complete
        assert tree(out) == tree(whole)


@pytest.mark.parametrize("kind", ["shards", "folder"])
def test_what_was_only_sampled_is_said(world: World, kind: str, tmp_path: Path) -> None:
    """A change that no digest shows, in inputs above 1 MiB of a store that is finished."""
    data = tmp_path / "in"
    if kind == "shards":
        changed = data / "0.tar"
        data.mkdir()
        entries = [member("a.jpg", world.made[0][0].jpeg), member("a.bin", bytes(3 << 20))]
        changed.write_bytes(tar_bytes(entries))
    else:
        changed = write_folder(data, world.made[0][:2]) / "large.png"
        changed.write_bytes(world.made[0][2].jpeg + bytes(3 << 20))
    said: list[str] = []
    out, watch = tmp_path / "out", lambda progress: said.append(progress.note)
    world.embed(data, out)
    assert world.embed(data, out, resume=True, on_progress=watch).already_complete
    assert not any(said)
    content = bytearray(changed.read_bytes())
    content[(1 << 20) + 300_000] ^= 1  # between two of the pieces that are compared
    changed.write_bytes(content)
    assert world.embed(data, out, resume=True, on_progress=watch).already_complete
    (note,) = filter(None, said)
    assert "only a sample was compared of" in note and str(data) in note


def test_overwriting_leaves_nothing_of_the_earlier_store(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    world.embed(world.shards, out)
    world.embed(world.shards / "00001.tar", out, overwrite=True)
    assert [path.name for path in (out / "embeddings").iterdir()] == ["00001.npy"]
    assert clipgap.open_store(out).rows == 1


def test_outputs_that_cannot_be(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="exclude each other"):
        world.embed(world.shards, tmp_path / "new", resume=True, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        world.embed(world.shards, tmp_path / "file")
    with pytest.raises(InputError, match="cannot make the folder"):
        world.embed(world.shards, tmp_path / "file" / "below")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_text("")
    with pytest.raises(InputError, match="not empty"):
        world.embed(world.shards, tmp_path / "full", overwrite=True)
    assert (tmp_path / "full" / "photo.jpg").exists()


def test_from_embeddings_back_to_shards(world: World, whole: Path, tmp_path: Path) -> None:
    """Names of shards and keys lead from a row of the store back to its sample."""
    clipgap.scan(whole, {"same": whole}, out=tmp_path / "scan", threads=1)
    kept = clipgap.split(tmp_path / "scan", Rand(7, seed=1), out=tmp_path / "keep").keep
    assert kept is not None
    keys = [key for shard in range(3) for key in kept.keys(shard).to_pylist()]
    samples = list(clipgap.kept_samples(str(world.shards), tmp_path / "keep"))
    assert [sample.key for sample in samples] == keys and len(keys) == 7


def test_command_line(
    world: World, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["embed", str(world.shards), "--model", world.config, "--pretrained"]
    command += [world.checkpoint, "--batch-size", "4", "--captions", "--device", "cpu"]
    assert main([*command, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["shards"], plan["workers"]) == (3, ["cpu"])
    assert main(command) == 2
    assert main([*command, "-o", str(tmp_path / "out"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["images"] == 15
    assert tree(tmp_path / "out") == tree(whole)
    assert (tmp_path / "out.toml").exists()
    assert main([*command, "-o", str(tmp_path / "out")]) == 3
    assert main([*command, "-o", str(tmp_path / "out"), "--resume"]) == 0
    assert "is already complete" in capsys.readouterr().out
