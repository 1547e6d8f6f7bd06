"""A training that is asked to stop at any moment of its driver or of a rank, however odd.

The command ends with 0 (done), 75 or 130 (to be resumed), and never as if it had failed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import pytest

from clipgap.__main__ import run
from clipgap.clip.train import driver
from clipgap.errors import ClipgapError
from tests.train_worlds import TrainWorld, make_train_world

RANK = Path(__file__).with_name("train_rank.py")
UNSTOPPED = "never"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TrainWorld:
    return make_train_world(tmp_path_factory.mktemp("stops"))[0]


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """As they were before."""
    before = {number: signal.getsignal(number) for number in driver.ASKING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def train(
    world: TrainWorld, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """The command in this process, its ranks in others; gives the exit code."""
    folder = world.folder / "logs" / str(abs(hash(request.node.name)))

    def train(moment: str, whom: str = "rank", number: int = signal.SIGTERM) -> int:
        command = [sys.executable, str(RANK), str(folder), moment, whom, str(int(number))]
        monkeypatch.setattr(driver, "rank_command", lambda folder: command)
        given = [
            *("clipgap", "train", f"--train-data={world.shards}", f"--logs={folder.parent}"),
            *(f"--name={folder.name}", f"--model={world.config}", "--epochs=1", "--batch-size=8"),
            *("--workers=0", "--device=cpu", "--devices=2", "--resume=latest"),
        ]
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as left:
            run()
        assert isinstance(left.value.code, int)
        if left.value.code == 0:
            assert json.loads((folder / "manifest.json").read_bytes())["counts"]["steps"] == 7
        return left.value.code

    return train


IN_TIME = ("Python starts", "the worker is imported", "the run begins", "step 0", "step 2")
TOO_LATE = (
    *("the last step has ended", "the worker ends"),
    *("Python ends", "Python ends, its modules are gone"),
)


@pytest.mark.parametrize("whom", ["rank", "driver"])
@pytest.mark.parametrize("moment", [*IN_TIME, *TOO_LATE])
def test_at_a_moment_of_a_rank(train: Callable[..., int], moment: str, whom: str) -> None:
    code = train(moment, whom)
    assert code == (75 if moment in IN_TIME else 0)
    assert train(UNSTOPPED) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_with_other_signals(train: Callable[..., int], number: int) -> None:
    assert train("step 1", "driver", number) == (130 if number == signal.SIGINT else 75)
    assert train("Python ends", "driver", number) == 0


FUNCTIONS = (
    "clipgap.cli.main:main",
    "clipgap.cli.shell:Shell.check_settings_file",
    "clipgap.clip.train.plan:plan_train",
    "clipgap.clip.train.api:begin",
    "clipgap.clip.train.driver:launch",
    "clipgap.clip.train.driver:_started",
    "clipgap.clip.train.driver:_watch",
    "clipgap.clip.train.driver:_judge",
    "clipgap.clip.train.api:_finish",
    "clipgap.cli.shell:Shell.result",
)


@pytest.mark.parametrize(("after", "number"), [(False, signal.SIGTERM), (True, signal.SIGINT)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_at_a_moment_of_the_driver(
    train: Callable[..., int],
    function: str,
    after: bool,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, asked = resolve_name(function), False

    def asking(*arguments: Any, **keywords: Any) -> Any:
        nonlocal asked
        if not after and not asked:
            asked = True
            os.kill(os.getpid(), number)
        made = original(*arguments, **keywords)
        if after and not asked:
            asked = True
            os.kill(os.getpid(), number)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(function.replace(":", "."), asking)
        code = train(UNSTOPPED)
    assert asked and code in (0, 75 if number == signal.SIGTERM else 130)
    assert train(UNSTOPPED) == 0


@pytest.mark.parametrize(("code", "words"), [(75, None), (9, "failed with exit code 9"), (0, None)])
def test_a_fork_is_a_rank_like_any_other(
    code: int,
    words: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As in a stage of a study: asked to stop, failing, or done; what it says is in its log."""
    begun, stop = tmp_path / "begun", threading.Event()

    def rank(folder: Path) -> int:
        asked = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: asked.set())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, driver.ASKING)
        print(f"rank {os.environ['RANK']} of {os.environ[driver.DRIVER]}")
        os.write(2, b"at work\n")
        begun.touch()
        return code if code == 9 or asked.wait(60) else 1

    def look(progress: Any) -> None:
        if begun.exists():
            stop.set()

    (tmp_path / ".progress").mkdir()
    monkeypatch.setattr(driver, "warm", True)
    monkeypatch.setattr(driver, "main", rank)
    monkeypatch.setattr(driver, "_LOOK_EVERY", 1)
    batches = SimpleNamespace(world=1, workers=0, samples=1)
    plan: Any = SimpleNamespace(batches=batches, device="cpu", epochs=1)
    with pytest.raises(ClipgapError, match=words) if words else nullcontext():
        driver.launch(plan, tmp_path, stop, look)
    said = f"rank 0 of {os.getpid()}\nat work\n"
    assert (tmp_path / driver.LOG).read_text() == said
    assert capfd.readouterr() == ("", "")
    assert "RANK" not in os.environ
