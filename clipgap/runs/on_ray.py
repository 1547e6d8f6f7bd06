"""Units done by a Ray cluster, which `ray_cluster` finds or starts.

A worker is an actor with a slot of its own: a GPU, a core, or all cores of a node. It holds the
work, and whatever that loads for all units, and asks the driver for a unit whenever it has room for
one. What a lost worker had in hand is dealt again, each unit alone, so that one that takes its
worker down can be named; the others go on. Where one worker after the other is lost, as on a node
whose disk is full, no other is put, as long as there are workers elsewhere.

Workers write the files of their units themselves, so inputs and the output folder lie at the same
paths on every node. The ledger is written here, by the driver, as in any run.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipgap.errors import ClipgapError, InputError
from clipgap.machine import versions
from clipgap.runs.executors import portable
from clipgap.runs.ray_cluster import connect
from clipgap.runs.shares import PACKAGES
from clipgap.runs.units import Event, Made, News, Slot, Step, Work

LOG = logging.getLogger("clipgap")

_POLL_SECONDS = 0.5
_TOGETHER_SECONDS = 1.0
"""Steps that come within this time are told together."""

_FAILURES_IN_A_ROW = 10
"""So many more than there are workers, with nothing made in between: it is not the units' fault."""


@dataclass(frozen=True)
class Ray:
    """An executor. Without an address it starts a cluster on this machine, heard by nobody else,
    which lasts as long as this process. If `ray.init` has been called before, that is what it uses.
    """

    address: str | None = None
    cores: int | None = None  # of a worker; None: as many as the work makes use of
    tries: int = 3  # of a unit, alone

    def __call__(
        self, work: Work, units: Sequence[Any], stop: Callable[[], bool], news: News
    ) -> Iterator[Event]:
        ray = connect(self.address)
        run = _Run(ray, work, units, self, stop, news)
        try:
            yield from run.events()
        finally:
            run.end()


# --- the driver's side


@dataclass(eq=False)
class _Task:
    """What one worker does from its first unit until there are no more for it."""

    worker: Any
    place: int  # among the slots
    node: str  # where it works, for people
    lives: bool  # it has been heard of; one that waits for a lost node may never be
    taken: dict[str, Any] = field(default_factory=dict)  # units in hand, by name
    dealt: int = 0


class _Run:
    """The units of a run, and who has which."""

    def __init__(
        self,
        ray: Any,
        work: Work,
        units: Sequence[Any],
        asked: Ray,
        stop: Callable[[], bool],
        news: News,
    ) -> None:
        self._ray, self._asked, self._stop, self._news = ray, asked, stop, news
        self._shared: tuple[Any, Any] = (None, None)  # the last news, and a reference to them
        self._left = deque(units)
        self._suspects = Counter[str]()  # how often each was lost, alone; 0: in company
        self._given_up: dict[str, str] = {}
        self._in_a_row = 0
        self._in_a_row_at = Counter[int]()  # the same of each place
        self._numbers = itertools.count()
        self._slots = _slots(ray, work, asked.cores)[: len(units)]
        # In a list a worker gets it as a reference, and reads it once it is where paths are meant.
        self._actor, self._work = ray.remote(_Worker), [ray.put(work)]
        self._tasks: dict[Any, _Task] = {}  # by the stream of what it says
        self._idle: list[_Task] = []
        self._workers: set[Any] = set()
        self._stopping = False
        for place in range(len(self._slots)):
            self._hire(place)

    def events(self) -> Iterator[Event]:
        while self._left or any(task.taken for task in self._tasks.values()):
            if self._stop() and not self._stopping:
                self._stopping = True
                self._left.clear()
                for task in self._tasks.values():
                    task.worker.stop.remote()
            coming = sum(task.lives and not task.dealt for task in self._tasks.values())
            for _ in range(min(len(self._idle), len(self._left) - coming)):
                idle = self._idle.pop()
                self._begin(_Task(idle.worker, idle.place, idle.node, lives=True))
            ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=_POLL_SECONDS)
            for stream in ready:
                yield from self._hear(stream)
        if self._given_up:
            raise InputError.listing(
                f"all others are done, but {len(self._given_up):,} failed {self._asked.tries} "
                "times each, alone on a worker; --resume tries them again:",
                [f"{name}: {said}" for name, said in sorted(self._given_up.items())],
            )

    def end(self) -> None:
        """What is under way stays under temporary names."""
        for worker in self._workers:
            self._ray.kill(worker)

    def _hire(self, place: int) -> None:
        """Have a worker begin, as soon as there is room for it."""
        slot = self._slots[place]
        on = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        actor = self._actor.options(
            num_cpus=slot.cores,
            num_gpus=slot.gpus,
            max_concurrency=2,  # it is given units while it works
            scheduling_strategy=on(slot.node, soft=True),  # elsewhere, once the node is gone
        )
        worker = actor.remote(
            self._work, slot, len(self._slots), str(Path.cwd()), versions(*PACKAGES)
        )
        self._workers.add(worker)
        self._begin(_Task(worker, place, slot.name, lives=False))

    def _begin(self, task: _Task) -> None:
        run = task.worker.run.options(num_returns="streaming")
        self._tasks[run.remote(next(self._numbers), self._latest())] = task

    def _latest(self) -> Any:
        """The news, where many workers can fetch them."""
        latest = self._news()
        if latest is not self._shared[0]:
            self._shared = latest, self._ray.put(latest)
        return self._shared[1]

    def _hear(self, stream: Any) -> Iterator[Event]:
        task = self._tasks[stream]
        try:
            said = self._ray.get(next(stream))
        except StopIteration:
            self._idle.append(self._tasks.pop(stream))
            return
        except self._ray.exceptions.RayError as error:
            said = f"its worker was lost: {_first_line(error)}"
            if "died unexpectedly" in said:  # its process alone
                said += " This is often a lack of memory: more --worker-cores are fewer workers."
            self._lost(stream, ClipgapError(said))
            return
        task.lives = True
        for each in said:
            if each is None:
                self._deal(task)
            elif isinstance(each, _Unfit):
                raise InputError(str(each))
            elif isinstance(each, _Node):
                task.node = str(each)
            elif isinstance(each, Exception):
                self._lost(stream, each)
                return
            else:
                if isinstance(each, Made):
                    self._in_a_row = self._in_a_row_at[task.place] = 0
                    for name in each.records:
                        task.taken.pop(name, None)
                        self._suspects.pop(name, None)
                yield each
                if isinstance(each, Made) and each.state is not None:
                    task.worker.hear.remote(self._latest())

    def _deal(self, task: _Task) -> None:
        """A unit for a worker that has asked, or None: it shall finish what it has, and end."""
        suspect = bool(self._left) and self._left[0].name in self._suspects
        if not self._left or (task.dealt and (suspect or self._is_alone(task))):
            task.worker.give.remote(None)
            return
        unit = self._left.popleft()
        task.taken[unit.name] = unit
        task.dealt += 1
        task.worker.give.remote(unit)

    def _is_alone(self, task: _Task) -> bool:
        return any(name in self._suspects for name in task.taken)

    def _lost(self, stream: Any, error: Exception) -> None:
        """Deal again what the worker had, and put another in its place."""
        task = self._tasks.pop(stream)
        self._ray.kill(task.worker)
        self._workers.discard(task.worker)
        self._in_a_row += 1
        self._in_a_row_at[task.place] += 1
        said = f"on {task.node}: {error}"
        in_hand = ", ".join(task.taken) or "nothing"
        LOG.warning("a worker that had %s in hand was lost %s", in_hand, said)
        if self._in_a_row > len(self._slots) + _FAILURES_IN_A_ROW:
            raise error
        for name, unit in task.taken.items():
            self._suspects[name] += len(task.taken) == 1
            if self._suspects[name] >= self._asked.tries:
                self._given_up[name] = said
            elif not self._stopping:
                self._left.append(unit)  # those that nobody has tried come first
        if not self._can_do_without(task.place):
            self._hire(task.place)

    def _can_do_without(self, place: int) -> bool:
        """Whether others shall do what is left: they have nothing to do, or the place is bad."""
        if len(self._idle) >= len(self._left):
            return True
        others = self._idle or any(task.lives for task in self._tasks.values())
        if not others or self._in_a_row_at[place] < self._asked.tries:
            return False
        LOG.warning("%s gets no other worker in this run", self._slots[place].name)
        return True


@dataclass(frozen=True)
class _Slot:
    """Room for a worker."""

    node: str
    host: str
    cores: int
    gpus: int

    @property
    def name(self) -> str:
        return _Node.named(self.host, self.node)


class _Node(str):
    """A node as people know it."""

    @classmethod
    def named(cls, host: str, node: str) -> _Node:
        return cls(f"{host} (Ray node {node[:8]})")


def _slots(ray: Any, work: Work, cores: int | None) -> list[_Slot]:
    """A worker for each GPU; where there is none, for as many cores as the work makes use of."""
    one_core = getattr(work, "one_core", False)
    found = []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        have, names = node["Resources"], (node["NodeID"], node["NodeManagerHostname"])
        all_cores, gpus = int(have.get("CPU", 0)), int(have.get("GPU", 0))
        if gpus and not one_core:
            each = cores or max(1, all_cores // gpus)
            found += [_Slot(*names, each, 1)] * min(gpus, all_cores // each)
        elif each := cores or (1 if one_core else all_cores):
            found += [_Slot(*names, each, 0)] * (all_cores // each)
    if not found:
        raise InputError(
            f"no node of the Ray cluster has room for a worker with {cores or 1:,} cores"
        )
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


# --- the worker's side


class _Unfit(str):
    """Why a worker cannot take part."""


class _Worker:
    """The actor."""

    def __init__(
        self, work: list[Any], slot: _Slot, of: int, place: str, wanted: dict[str, str]
    ) -> None:
        self._work, self._slot, self._of = work, slot, of
        self._place, self._wanted = place, wanted
        self._given: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._news: Any = None
        self._stopping = threading.Event()

    def give(self, unit: Any) -> None:
        self._given.put(unit)

    def hear(self, news: Any) -> None:
        self._news = news

    def stop(self) -> None:
        self._stopping.set()

    def run(self, number: int, news: Any) -> Iterator[list[Any]]:
        """Work, and say what happens: events, and None for each unit that is asked for."""
        self._news = news
        if unfit := self._unfit():
            yield [unfit]
            return
        import ray

        yield [_Node.named(socket.gethostname(), ray.get_runtime_context().get_node_id())]
        said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._do, args=(number, said), daemon=True).start()
        while True:
            together = [said.get()]
            until = time.monotonic() + _TOGETHER_SECONDS
            while isinstance(together[-1], Step):
                try:
                    together.append(said.get(timeout=max(0.0, until - time.monotonic())))
                except queue.Empty:
                    break
            ended = together[-1] is _ENDED
            yield together[:-1] if ended else together
            if ended:
                return

    def _do(self, number: int, said: Any) -> None:
        def take() -> Iterator[Any]:
            said.put(None)
            while (unit := self._given.get()) is not None:
                yield unit
                said.put(None)

        device = "cuda:0" if self._slot.gpus else "cpu"
        slot = Slot(
            *(number, self._slot.cores, device, self._stopping.is_set, self._of),
            news=lambda: self._news,
        )
        try:
            import ray

            work: Work = ray.get(self._work[0])
            for event in work.do(take(), slot):
                said.put(event)
        except BaseException as error:
            said.put(portable(error))
        said.put(_ENDED)

    def _unfit(self) -> _Unfit | None:
        """Prepares the process, too, once it is known to be fit."""
        here, ours = socket.gethostname(), versions(*PACKAGES)
        for name in sorted(self._wanted.keys() & ours.keys()):
            if ours[name] != self._wanted[name]:
                return _Unfit(
                    f"a worker on {here} has {name} {ours[name]}, the driver {self._wanted[name]}; "
                    "all nodes need the same versions, since bytes may depend on them"
                )
        try:
            os.chdir(self._place)
        except OSError as error:
            return _Unfit(
                f"a worker on {here} cannot enter {self._place}: {error.strerror}. Inputs and "
                "outputs must lie on a disk that all nodes share."
            )
        os.environ["CLIPGAP_THREADS"] = str(self._slot.cores)
        return None


_ENDED = "ended"
