"""Rendered shards with a keep-list, and runs on them without other processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipgap.clip.train.api import KIND, begin
from clipgap.clip.train.driver import run_here
from clipgap.clip.train.options import Place, TrainOptions
from clipgap.clip.train.plan import Ranks, TrainPlan, plan_train
from clipgap.clip.train.worker import run
from clipgap.files import lines
from clipgap.runs.how import How
from clipgap.runs.output import open_output
from tests.clip_worlds import write_config, write_shards
from tests.shards import write_keep

COUNTS = (30, 22, 47, 13)


@dataclass(frozen=True)
class TrainWorld:
    """Four shards of unequal size, of which a keep-list keeps 80 %."""

    folder: Path

    @property
    def shards(self) -> Path:
        return self.folder / "shards"

    @property
    def keep(self) -> Path:
        return self.folder / "keep"

    @property
    def config(self) -> Path:
        return self.folder / "tiny-clip.json"

    def tar(self, shard: int) -> Path:
        return self.shards / f"{shard:05d}.tar"

    def place(self, name: str, **changes: Any) -> Place:
        given = {"train_data": str(self.shards), "keep": self.keep, **changes}
        return Place(logs=self.folder / "logs", name=name, **given)


def make_train_world(folder: Path) -> tuple[TrainWorld, set[tuple[str, str]]]:
    """The world, and the shard and key of each kept sample."""
    made = write_shards(folder / "shards", COUNTS)
    keys = {f"{i:05d}": [picture.key for picture in inside] for i, inside in enumerate(made)}
    kept = {(n, row) for n, of in keys.items() for row in range(len(of)) if (row + int(n)) % 5}
    write_keep(folder / "keep", keys, kept)
    world = TrainWorld(folder)
    write_config(folder)
    return world, {(str(world.tar(int(n))), keys[n][row]) for n, row in kept}


def options(world: TrainWorld, **changes: Any) -> TrainOptions:
    given = {
        "model": str(world.config),
        "epochs": 2,
        "batch_size": 8,
        "workers": 0,
        "lr": 3e-3,
        "warmup": 2,
        "device": "cpu",
        "log_every_n_steps": 1,
    }
    return TrainOptions(**{**given, **changes})


def train_here(plan: TrainPlan, place: Place, stop: Callable[[], bool] = lambda: False) -> Path:
    """One rank in this process, in a folder that is new or goes on; `Interrupted` if stopped."""
    with open_output(place.folder, KIND, How(resume=True)) as output, quiet():
        begin(output, plan)
        run(plan, place.folder, stop)
    return place.folder


def planned(world: TrainWorld, name: str, place: dict[str, Any] | None = None, **changes: Any):
    where = world.place(name, **(place or {}))
    return plan_train(where, options(world, **changes)), where


class AfterBatches:
    """Asks to stop before the given call, counted from 1."""

    def __init__(self, call: int) -> None:
        self._left = call

    def __call__(self) -> bool:
        self._left -= 1
        return self._left <= 0


@contextmanager
def quiet() -> Iterator[None]:
    """open_clip sets up logging for all of the process; afterwards it is as before."""
    root = logging.root
    handlers, level = root.handlers[:], root.level
    levels = {
        name: logger.level
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)


def launch_here(plan: TrainPlan, folder: Path, stop: Any, on_progress: Any) -> None:
    """In place of `driver.launch`: the one rank is this process."""
    with quiet():
        run_here(plan, folder, Ranks(), stop)


def losses(folder: Path) -> list[dict[str, Any]]:
    """The loss log without what depends on the machine."""
    noted = lines.read(folder / "losses.jsonl", dict)
    return [{k: v for k, v in line.items() if k != "samples_per_second"} for line in noted]


def seen(folder: Path) -> dict[int, list[tuple[str, str]]]:
    """The samples of each epoch, over all ranks."""
    found: dict[int, list[tuple[str, str]]] = {}
    for path in sorted((folder / "keys").iterdir()):
        for line in lines.read(path, dict):
            found.setdefault(line["epoch"], []).extend(map(tuple, line["samples"]))
    return found


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    content = torch.load(folder / "checkpoints" / name, weights_only=True)
    return content["state_dict"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
