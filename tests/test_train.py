"""`clipgap train` as people start it: two ranks, signals, kills, resumed to the bit."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import clipgap
from clipgap.clip.train import checkpoints, driver
from clipgap.clip.train.api import TrainResult
from clipgap.clip.train.order import Position
from tests.clip_worlds import CLASSES, pictures
from tests.train_worlds import TrainWorld, losses, make_train_world, same, seen, weights

EPOCHS = 12
BETTER_THAN_CHANCE = 0.35
"""Of held-out images, above the quarter that guessing among four classes gets right."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainWorld, set[tuple[str, str]]]:
    return make_train_world(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def undisturbed(world: tuple[TrainWorld, set[tuple[str, str]]]) -> TrainResult:
    return run_whole(world[0], "undisturbed")


def settings(world: TrainWorld, name: str, devices: int | None) -> list[str]:
    given = {
        "train-data": world.shards,
        "keep": world.keep,
        "model": world.config,
        "logs": world.folder / "logs",
        "name": name,
        "epochs": EPOCHS,
        "batch-size": 8,
        "lr": 5e-3,
        "wd": 0,
        "warmup": 5,
        "workers": 1,
        "device": "cpu",
        "log-every-n-steps": 1,
    }
    flags = [f"--{option}={value}" for option, value in given.items()]
    if devices is not None:
        flags.append(f"--devices={devices}")
    return [*flags, "--log-keys", "--", "--save-frequency=3"]


def run_whole(world: TrainWorld, name: str, resume: str | None = None) -> TrainResult:
    return clipgap.train(
        world.shards,
        keep=world.keep,
        logs=world.folder / "logs",
        name=name,
        resume=resume,
        model=str(world.config),
        epochs=EPOCHS,
        batch_size=8,
        lr=5e-3,
        wd=0.0,
        warmup=5,
        workers=1,
        devices=2,
        device="cpu",
        log_every_n_steps=1,
        log_keys=True,
        arguments=["--save-frequency=3"],
    )


def start(
    world: TrainWorld, name: str, *more: str, devices: int | None = 2, **environment: str
) -> subprocess.Popen[str]:
    call = "from clipgap.__main__ import run; run()"
    command = [sys.executable, "-c", call, "train", *more, *settings(world, name, devices)]
    return subprocess.Popen(
        command,
        env={**os.environ, **environment},
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_batch(process: subprocess.Popen[str], folder: Path, epoch: int) -> None:
    """Until the run is in the middle of an epoch."""
    path, until = folder / "losses.jsonl", time.monotonic() + 240
    while time.monotonic() < until:
        lines = path.read_text().splitlines() if path.exists() else []
        done = [json.loads(line) for line in lines[:-1]]
        if any(line["epoch"] >= epoch and 1 <= line["batch"] <= 3 for line in done[-1:]):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail(f"{path} did not reach epoch {epoch}")


def test_stopped_killed_and_resumed_to_the_same_end(
    world: tuple[TrainWorld, set[tuple[str, str]]], undisturbed: TrainResult
) -> None:
    here, name = world[0], "disturbed"
    folder = here.folder / "logs" / name

    process = start(here, name)
    wait_for_batch(process, folder, 2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, (out, err)
    assert "--resume latest" in err and "Traceback" not in err
    stopped = checkpoints.latest(folder)
    assert stopped is not None
    content = torch.load(stopped, weights_only=True)
    position = Position(content["epoch"], content.get("batch", 0))
    assert position == checkpoints.position_of(stopped) and 2 <= position.epoch < EPOCHS

    process = start(here, name, "--resume=latest")
    wait_for_batch(process, folder, position.epoch + 3)
    ranks = children(process.pid)
    assert listening(ranks) | listening([process.pid]) == {LOOPBACK}
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and len(ranks) == 2
    wait_for_end(ranks)
    whole = folder / "checkpoints" / "epoch_3.pt"
    half = folder / "checkpoints" / f"epoch_{EPOCHS - 1}.pt"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])

    result = run_whole(here, name, resume="latest")
    assert result.final_loss == undisturbed.final_loss
    last = f"epoch_{EPOCHS}.pt"
    assert same(weights(result.path, last), weights(undisturbed.path, last))
    assert losses(result.path) == losses(undisturbed.path)
    assert seen(result.path) == seen(undisturbed.path)


@pytest.mark.parametrize(
    ("device", "world", "workers", "threads"),
    [("cpu", 1, 1, "3"), ("cpu", 1, 9, "1"), ("cpu", 2, 1, "1"), ("cuda", 1, 1, None)],
)
def test_threads_leave_cores_to_loaders(
    monkeypatch: pytest.MonkeyPatch, device: str, world: int, workers: int, threads: str | None
) -> None:
    monkeypatch.setattr(driver, "cores", lambda: 4)
    plan: Any = SimpleNamespace(
        device=device, batches=SimpleNamespace(world=world, workers=workers)
    )
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with driver._surroundings(plan) as environment:
        assert environment.get("OMP_NUM_THREADS") == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with driver._surroundings(plan) as environment:
        assert environment.get("OMP_NUM_THREADS") == (threads and "7")


def test_ranks_that_slurm_started_on_one_machine_listen_there_alone(
    world: tuple[TrainWorld, set[tuple[str, str]]],
) -> None:
    here, name = world[0], "slurm"
    with socket.create_server((LOOPBACK, 0)) as free:
        port = free.getsockname()[1]
    job = {"SLURM_NTASKS": "2", "SLURM_NNODES": "1"}
    found = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port)}
    ranks = [
        start(here, name, devices=None, SLURM_PROCID=rank, SLURM_LOCALID=rank, **job, **found)
        for rank in ("0", "1")
    ]
    try:
        wait_for_batch(ranks[0], here.folder / "logs" / name, 1)
        assert listening([rank.pid for rank in ranks]) == {LOOPBACK}
        for rank in ranks:
            rank.send_signal(signal.SIGUSR1)
        said = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [75, 75], said


def children(number: int) -> list[int]:
    listed = Path(f"/proc/{number}/task/{number}/children")
    return [int(child) for child in listed.read_text().split()]


LOOPBACK = "127.0.0.1"


def listening(numbers: list[int]) -> set[str]:
    """The addresses on which processes listen for others."""
    sockets = set()
    for number in numbers:
        for handle in Path(f"/proc/{number}/fd").iterdir():
            try:
                sockets.add(str(handle.readlink()))
            except OSError:  # closed meanwhile
                continue
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                address = words[1].partition(":")[0]
                found.add(".".join(str(byte) for byte in reversed(bytes.fromhex(address))))
    return found


def wait_for_end(numbers: list[int]) -> None:
    """The ranks of a killed driver end with it; none is left to hold devices."""
    for _ in range(200):
        if not any(is_running(number) for number in numbers):
            return
        time.sleep(0.05)
    pytest.fail("ranks outlived their driver")


def is_running(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_exactly_the_kept_samples_are_seen(
    world: tuple[TrainWorld, set[tuple[str, str]]], undisturbed: TrainResult
) -> None:
    kept = world[1]
    for samples in seen(undisturbed.path).values():
        assert set(samples) == kept
        again = len(samples) - len(kept)  # what fills the last batches
        assert again == undisturbed.manifest["plan"]["batches"]["batches"] * 16 - len(kept) < 16
    assert undisturbed.manifest["counts"]["samples"] == len(kept)
    assert "train_num_samples: " + str(len(kept)) in (undisturbed.path / "params.txt").read_text()


def test_the_model_has_learned_to_see(
    world: tuple[TrainWorld, set[tuple[str, str]]], undisturbed: TrainResult
) -> None:
    open_clip = pytest.importorskip("open_clip")
    from clipgap.clip.images.decoding import decode
    from clipgap.clip.models import load

    torch.set_num_threads(1)
    model = load(str(world[0].config), str(undisturbed.checkpoint), "cpu")
    classifier = open_clip.build_zero_shot_classifier(
        model.clip, model.tokenizer, CLASSES, (lambda name: f"a picture of a {name}",)
    )
    held_out = pictures(80, seed=77)
    images = [model.preprocess(decode(picture.jpeg, picture.key)) for picture in held_out]
    features = torch.nn.functional.normalize(model.image_features(torch.stack(images)), dim=-1)
    found = (features @ classifier).argmax(1)
    right = (found == torch.tensor([picture.label for picture in held_out])).float().mean()
    assert right > 1 / len(CLASSES) + BETTER_THAN_CHANCE


def test_the_manifest_says_what_was_done(undisturbed: TrainResult) -> None:
    manifest = json.loads((undisturbed.path / "manifest.json").read_bytes())
    assert manifest["kind"] == "train" and manifest["counts"]["quarantined"] == 0
    assert manifest["checkpoint"]["path"] == f"checkpoints/epoch_{EPOCHS}.pt"
    assert manifest["counts"]["samples_seen"] == EPOCHS * 6 * 16
    assert manifest["final_loss"] == losses(undisturbed.path)[-1]["loss"]
    again = run_whole(TrainWorld(undisturbed.path.parents[1]), "undisturbed", resume="latest")
    assert again.already_complete and again.manifest == manifest
