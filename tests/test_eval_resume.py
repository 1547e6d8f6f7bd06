"""`clipgap eval` stopped, resumed, damaged and changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import clipgap
from clipgap.clip.eval import run as run_module
from clipgap.errors import InputError, Interrupted, ResumeError
from tests.clip_worlds import (
    pictures,
    write_folder,
)
from tests.eval_worlds import World, make_world, samples


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
