"""The logs of a run: odd keys, lines that a kill cut off, lines that a disk or a hand damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.cli.main import main
from clipgap.clip.train import driver
from clipgap.clip.train.logs import LOSSES
from clipgap.clip.train.plan import plan_train
from clipgap.errors import Interrupted
from tests.clip_worlds import pictures, write_config
from tests.shards import member, tar_bytes
from tests.train_worlds import (
    AfterBatches,
    TrainWorld,
    launch_here,
    losses,
    options,
    same,
    seen,
    train_here,
    weights,
)

LINE_ENDS = "\u2028\u2029\x85"
"""What `str.splitlines` takes for the end of a line, and may stand in a key."""
GOOD, BAD = 12, 12
MANY = {"epochs": 2, "batch_size": 4, "log_keys": True}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TrainWorld:
    """A shard in which every other sample is bad, all with odd keys."""
    world = TrainWorld(tmp_path_factory.mktemp("logs"))
    write_config(world.folder)
    entries = []
    for number, picture in enumerate(pictures(GOOD, seed=5)):
        end = LINE_ENDS[number % len(LINE_ENDS)]
        good, bad = f"good{end}{number}", f"bad{end}{number}"
        entries += [member(f"{good}.jpg", picture.jpeg), member(f"{good}.txt", b"a caption")]
        entries += [member(f"{bad}.jpg", b"no image"), member(f"{bad}.txt", b"a caption")]
    world.shards.mkdir()
    world.tar(0).write_bytes(tar_bytes(entries))
    return world


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs need no other processes."""
    monkeypatch.setattr(driver, "launch", launch_here)


@pytest.fixture(scope="module")
def undisturbed(world: TrainWorld) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "launch", launch_here)
        assert main(command(world, "undisturbed")) == 4
    return world.folder / "logs" / "undisturbed"


def command(world: TrainWorld, name: str, *more: str) -> list[str]:
    return [
        *("train", f"--train-data={world.shards}", f"--logs={world.folder / 'logs'}"),
        *(f"--name={name}", f"--model={world.config}", "--epochs=2", "--batch-size=4"),
        *("--workers=0", "--device=cpu", "--lr=0.003", "--warmup=2", "--log-every-n-steps=1"),
        *("--log-keys", "--json", *more),
    ]


def stopped(world: TrainWorld, name: str) -> tuple[Path, list[Path]]:
    """A run that was stopped in its first epoch, and its logs."""
    place = world.place(name, keep=None)
    plan = plan_train(place, options(world, **MANY))
    with pytest.raises(Interrupted):
        train_here(plan, place, AfterBatches(2))
    logs = [
        place.folder / "losses.jsonl",
        place.folder / "keys" / "rank-0.jsonl",
        next(place.folder.rglob("rank-0-worker-0.jsonl")),
    ]
    assert logs[2].read_bytes().count(b"\n") < BAD  # more are still to be noted
    return place.folder, logs


def assert_same_end(folder: Path, undisturbed: Path) -> None:
    assert losses(folder) == losses(undisturbed) and seen(folder) == seen(undisturbed)
    assert same(weights(folder, "epoch_2.pt"), weights(undisturbed, "epoch_2.pt"))
    tables = [pq.read_table(run / "quarantine.parquet") for run in (folder, undisturbed)]
    assert tables[0].equals(tables[1])


def test_keys_that_end_lines_elsewhere(world: TrainWorld, undisturbed: Path) -> None:
    noted = pq.read_table(undisturbed / "quarantine.parquet")["name"].to_pylist()
    assert sorted(noted) == sorted(f"bad{LINE_ENDS[n % len(LINE_ENDS)]}{n}" for n in range(BAD))
    folder, _ = stopped(world, "odd keys")
    assert main(command(world, "odd keys", "--resume=latest")) == 4
    assert_same_end(folder, undisturbed)


@pytest.mark.parametrize(
    "torn", [b'{"epoch": 0, "ba', '{"what": "bad\u2028'.encode()[:-1], b"\0\0"]
)
def test_a_kill_within_a_line(world: TrainWorld, undisturbed: Path, torn: bytes) -> None:
    name = f"torn {torn.hex()}"
    folder, logs = stopped(world, name)
    for log in logs:
        log.write_bytes(log.read_bytes() + torn)
    assert main(command(world, name, "--resume=latest")) == 4
    assert_same_end(folder, undisturbed)


@pytest.mark.parametrize("log", range(3))
@pytest.mark.parametrize("damage", [b"\xff", b"{}"])
def test_a_damaged_line_is_refused(
    world: TrainWorld, log: int, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"damaged {log} {damage.hex()}"
    _, logs = stopped(world, name)
    whole = logs[log].read_bytes()
    first = whole.index(b"\n")
    logs[log].write_bytes(damage + whole[first:])
    assert main(command(world, name, "--resume=latest")) == 3
    said = capsys.readouterr().err
    assert f"{logs[log]}: line 1 is damaged" in said and "Traceback" not in said


def test_a_kill_before_the_manifest_forgets_no_bad_sample(
    world: TrainWorld, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        if path.name == LOSSES:
            raise KeyboardInterrupt
        original(path)

    original = clipgap.clip.train.api.FileSum.of
    with monkeypatch.context() as patch:
        patch.setattr("clipgap.clip.train.api.FileSum.of", killed)
        assert main(command(world, "unnoted")) == 130
    assert main(command(world, "unnoted", "--resume=latest")) == 4
    folder = world.folder / "logs" / "unnoted"
    assert json.loads((folder / "manifest.json").read_bytes())["counts"]["quarantined"] == BAD
    assert_same_end(folder, undisturbed)


def test_a_loss_that_is_no_number(world: TrainWorld, capsys: pytest.CaptureFixture[str]) -> None:
    run = [*command(world, "diverged", "--allow-bad=99"), "--lr=1e30", "--warmup=0"]
    assert main(run) == 0
    assert json.loads(capsys.readouterr().out)["final_loss"] is None
    result = clipgap.clip.train.api.open_train(world.folder / "logs" / "diverged")
    assert result.manifest["final_loss"] is None and math.isnan(result.final_loss)
