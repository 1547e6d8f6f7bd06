"""`clipgap eval` stopped, resumed, damaged and changed."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import clipgap
from clipgap.clip.data.classes import Classes
from clipgap.clip.eval import work as work_module
from clipgap.errors import InputError, Interrupted, ResumeError, UsageError
from clipgap.runs.how import Progress
from tests.clip_worlds import CLASSES, pictures, write_folder, write_tar
from tests.eval_worlds import World, make_world, samples, write_classifier
from tests.toy_executor import toy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("eval"))


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
    monkeypatch.setattr(work_module, "TOGETHER", 1)
    arguments = world.arguments(data=[f"pics={world.folder}", f"tars={world.shards}"])
    clipgap.evaluate(out=tmp_path / "whole", **arguments)
    stop, seen = threading.Event(), []

    def watch(progress: Progress) -> None:
        seen.append((progress.stage, progress.at))
        if progress.at == "tars" and progress.done > 20:
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
    evaluated = [at for stage, at in seen if stage == "evaluating"]
    assert list(dict.fromkeys(evaluated)) == ["tars", "pics"]
    assert tree(out) == tree(tmp_path / "whole")
    assert clipgap.evaluate(out=out, **arguments, resume=True).already_complete


def test_units_can_be_done_anywhere_and_twice(world: World, tmp_path: Path) -> None:
    """Two checkpoints that need nothing but torch, on two sets."""
    broken = dataclasses.replace(world.made[0], key="broken", jpeg=b"no image")
    folder = write_folder(tmp_path / "pics", [*world.made[:4], broken])
    shard = write_tar(tmp_path / "0.tar", [*world.made[4:8], broken])
    nets = [str(write_classifier(tmp_path / f"{name}.pt", CLASSES)) for name in "ab"]
    arguments = world.arguments(checkpoints=nets, data=[f"pics={folder}", f"tars={shard}"])
    clipgap.evaluate(out=tmp_path / "here", **arguments)
    result = clipgap.evaluate(out=tmp_path / "anywhere", **arguments, executor=toy)
    assert tree(tmp_path / "anywhere") == tree(tmp_path / "here")
    assert result.problems == 2


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
    with pytest.raises(UsageError, match="exclude each other"):
        clipgap.evaluate(
            out=out, **world.arguments(data=f"pics={folder}"), resume=True, overwrite=True
        )
    write_folder(folder, pictures(1, seed=5))
    with pytest.raises(ResumeError, match="set pics identity"):
        clipgap.evaluate(out=out, **world.arguments(data=f"pics={folder}"), resume=True)
    clipgap.evaluate(out=out, **world.arguments(data=f"pics={folder}"), overwrite=True)
    assert len(samples(out, "a")["row"]) == 7


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("kind", ["label", "image"])
def test_content_that_changed_in_its_size_is_noticed(
    world: World, tmp_path: Path, kind: str, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another label in a shard, another image in a folder, with size and time as before."""
    monkeypatch.setattr(work_module, "TOGETHER", 1)
    if kind == "label":
        path = data = write_tar(tmp_path / "0.tar", world.made[:6])
        content = path.read_bytes()
        at = content.index(b"0" + bytes(511), content.index(b".cls"))
        changed = content[:at] + b"1" + content[at + 1 :]
    else:
        data = write_folder(tmp_path / "pics", world.made[:6])
        path = next(data.rglob("*.jpg"))
        content = path.read_bytes()
        changed = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
    arguments, out, stop = world.arguments(data=f"pics={data}"), tmp_path / "e", threading.Event()
    if finished:
        clipgap.evaluate(out=out, **arguments)
    else:

        def watch(progress: Progress) -> None:
            if (progress.stage, progress.at) == ("loading", "b"):
                stop.set()

        with pytest.raises(Interrupted):
            clipgap.evaluate(out=out, **arguments, on_progress=watch, stop=stop)
    times = path.stat()
    path.write_bytes(changed)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ResumeError, match="set pics identity"):
        clipgap.evaluate(out=out, **arguments, resume=True)


class Stopped(BaseException):
    """As a signal that nobody handles; killed processes are tested where files are written."""


class Colour:
    """A checkpoint that answers at once: by the mean colour of the image."""

    prepared_as = "mean colour"

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        return torch.tensor(image.resize((1, 1)).getpixel((0, 0)), dtype=torch.float32)

    def head(self, classes: Classes) -> Callable[[torch.Tensor], Any]:
        return lambda batch: batch[:, : len(classes)].numpy()


def test_stopped_at_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes, templates = tmp_path / "classes", tmp_path / "templates"
    classes.write_text("red circle\ngreen square\nblue triangle\n")
    templates.write_text("a {}")
    broken = dataclasses.replace(pictures(1)[0], key="broken", jpeg=b"no image")
    shards = [write_tar(tmp_path / f"{n}.tar", [*pictures(3, seed=n), broken]) for n in (0, 1)]
    for name in ("a", "b"):
        torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / f"{name}.pt")
    monkeypatch.setattr(work_module, "_load", lambda *_: Colour())
    monkeypatch.setattr(work_module, "TOGETHER", 1)

    def evaluate(out: Path, resume: bool = False) -> None:
        clipgap.evaluate(
            [str(tmp_path / "a.pt"), str(tmp_path / "b.pt")],
            [f"x={shards[0]}", f"y={shards[1]}"],
            out,
            model="RN50",
            classnames=str(classes),
            templates=str(templates),
            device="cpu",
            workers=1,
            resume=resume,
        )

    evaluate(tmp_path / "first")  # what is imported on the way may write, too
    calls, last = 0, 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == last:
                raise Stopped
            return original(*arguments, **options)

        return call

    for function in ("fsync", "replace", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(os, function, counted(getattr(os, function)))
    evaluate(tmp_path / "whole")
    writes, whole = calls, tree(tmp_path / "whole")
    assert writes > 50
    assert len(whole) == 8
    for nth in range(1, writes + 1):
        calls, last = 0, nth
        out = tmp_path / str(nth)
        with pytest.raises(Stopped):
            evaluate(out)
        left = {name: content for name, content in tree(out).items() if name[0] != "."}
        assert left.items() <= whole.items(), "a file that is not whole is visible"
        assert "manifest.json" not in left or left.keys() == whole.keys()
        last = 0
        evaluate(out, resume=True)
        assert tree(out) == whole
