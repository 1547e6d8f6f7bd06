"""Passes of checkpoints over sets of images, which evaluations and analyses are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from clipgap.clip.models import resolve_device
from clipgap.machine import thread_count
from clipgap.runs.executors import Here
from clipgap.runs.how import Progress, Tally
from clipgap.runs.output import Output
from clipgap.runs.run import run_units
from clipgap.runs.units import Step, Work


class Pass(Protocol):
    """A unit: a checkpoint on a set."""

    @property
    def name(self) -> str: ...

    @property
    def files(self) -> tuple[str, ...]:
        """What is made of it, from the output folder on."""
        ...


def do_passes(
    output: Output,
    work: Work,
    units: Sequence[Pass],
    images: Sequence[int | None],
    device: str,
    noun: str,
) -> None:
    """Do all units that the ledger does not have; `images` says how many each of them sees."""
    how, records = output.how, output.ledger.records
    output.ledger.forget(
        unit.name
        for unit in units
        if unit.name in records and set(unit.files) != records[unit.name]["files"].keys()
    )
    left = [size for unit, size in zip(units, images, strict=True) if unit.name not in records]
    tally = Tally(
        how,
        Progress(
            stage="loading",
            total=0 if None in left else sum(size or 0 for size in left),
            noun="images",
            part=len(records),
            parts=len(units),
            parts_are=noun,
        ),
    )
    executor = how.executor
    if executor is None:
        executor = Here(thread_count(), resolve_device(device))
    for event in run_units(work, units, output.ledger, executor, how, noun, "images"):
        if isinstance(event, Step):
            tally.add(event.done, **event.more)
        else:
            tally.add(parts=len(event.records))
