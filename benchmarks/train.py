"""How fast `clipgap train --keep` is beside the same training without a keep-list.

    python benchmarks/train.py                       a tiny CLIP on the CPU: loading counts most
    python benchmarks/train.py --device cuda         ViT-B-32 with random weights

Renders shards, and trains on as many samples an epoch in turns: on all of them without a keep-list,
on a keep-list that keeps all, on one that keeps half of twice as many, and with open_clip's own
reading of the first. The first epoch of each is not counted. Beside the time on the clock stands
the processor time, which other work on the machine hardly changes; it is that of all, unless there
are loader processes. Rows are appended to `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import functools
import io
import logging
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import tiny_clip
import torch
from PIL import Image

from clipgap.bench.race import Racer, Spent, Stopwatch, paired_ratio, race
from clipgap.bench.results import Columns
from clipgap.bench.script import publish, read_options
from clipgap.clip.train.api import KIND, begin
from clipgap.clip.train.options import Place, TrainOptions
from clipgap.clip.train.patches import import_trainer
from clipgap.clip.train.plan import TrainPlan, plan_train
from clipgap.clip.train.worker import run
from clipgap.keep.writing import KeepWriter
from clipgap.runs.how import How
from clipgap.runs.output import open_output


@dataclass(frozen=True)
class Case:
    name: str
    shards: Path
    keep: Path | None = None
    alone: bool = False  # open_clip's own reading


def write_shards(folder: Path, shards: int, samples: int, side: int) -> dict[str, list[str]]:
    """Noise over gradients, as JPEGs of about the size that LAION has; keys by shard."""
    folder.mkdir()
    chance, keys = random.Random(0), {}
    ramp = np.linspace(0, 160, side, dtype=np.float32)
    noise = np.random.default_rng(0).integers(0, 90, (2 * side, 2 * side, 3))
    for shard in range(shards):
        keys[f"{shard:05d}"] = [f"{shard:05d}{row:04d}" for row in range(samples)]
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for key in keys[f"{shard:05d}"]:
                x, y = chance.randrange(side), chance.randrange(side)
                pixels = ramp[:, None, None] + noise[x : x + side, y : y + side]
                out = io.BytesIO()
                Image.fromarray(pixels.astype(np.uint8)).save(out, "JPEG", quality=90)
                caption = f"noise number {x} over {y}".encode()
                for extension, content in (("jpg", out.getvalue()), ("txt", caption)):
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return keys


def write_keep(folder: Path, keys: dict[str, list[str]], share: int) -> Path:
    """Keeps every sample, or every second of each shard."""
    rows = [{"name": name, "rows": len(of)} for name, of in keys.items()]
    with KeepWriter(folder, {"path": "made", "shards": rows}, {"kind": "benchmark"}) as writer:
        for index, of in enumerate(keys.values()):
            mask = np.arange(len(of)) % share == 0
            writer.add(index, mask, pa.array(of, pa.string()).filter(pa.array(mask)))
    return folder


def timed(plan: TrainPlan, place: Place, alone: bool) -> Spent:
    """The mean epoch, the first left out; the processor time is that of this process."""
    epochs: list[Spent] = []
    train = import_trainer("train")
    original: Callable[..., Any] = train.train_one_epoch

    def clocked(*arguments: Any, **named: Any) -> None:
        watch = Stopwatch(children=False)
        original(*arguments, **named)
        if plan.device == "cuda":
            torch.cuda.synchronize()
        epochs.append(watch.spent())

    train.train_one_epoch = clocked
    try:
        if alone:
            _open_clip_alone(plan, place, clocked)
        else:
            with open_output(place.folder, KIND, How()) as output:
                begin(output, plan)
                run(plan, place.folder, lambda: False)
    finally:
        train.train_one_epoch = original
        logging.root.handlers.clear()
    shutil.rmtree(place.folder)
    counted = epochs[1:]
    return Spent(
        fmean(each.seconds for each in counted),
        fmean(each.processor for each in counted),
        plan.batches.samples,
    )


def _open_clip_alone(plan: TrainPlan, place: Place, clocked: Callable[..., None]) -> None:
    """Its own main function, with no more mended than it needs to run at all."""
    main, data = import_trainer("main"), import_trainer("data")
    expander, inner = data.tar_file_expander, main.train_one_epoch
    shards = sorted(Path(plan.train_data).glob("*.tar"))
    given = plan.open_clip_arguments(place)
    given = [a for a in given if not a.startswith("--train-data")]
    given.append(f"--train-data={'::'.join(map(str, shards))}")
    data.tar_file_expander = functools.partial(expander, eof_value=None)
    main.train_one_epoch = clocked
    try:
        main.main(given)
    finally:
        data.tar_file_expander, main.train_one_epoch = expander, inner


def measure(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    keys = write_shards(folder / "once", options.shards, options.samples, options.side)
    twice = write_shards(folder / "twice", 2 * options.shards, options.samples, options.side)
    model = "ViT-B-32" if options.device == "cuda" else tiny_clip.write(folder)
    cases = [
        Case("no keep-list", folder / "once"),
        Case("keeping all", folder / "once", write_keep(folder / "all", keys, 1)),
        Case("keeping half", folder / "twice", write_keep(folder / "half", twice, 2)),
        Case("open_clip alone", folder / "once", alone=True),
    ]
    what = TrainOptions(
        model=model,
        epochs=options.epochs + 1,
        batch_size=options.batch_size,
        workers=options.workers,
        device=options.device,
        arguments=("--save-frequency=0",),
    )

    def turn(case: Case) -> Spent:
        place = Place(str(case.shards), folder, "run", case.keep)
        plan = plan_train(place, what)
        if plan.samples != options.shards * options.samples:
            raise SystemExit(f"{case.name}: {plan.samples:,} samples are not as many")
        spent = timed(plan, place, case.alone)
        print(
            f"{case.name:16} {spent.rate:10,.1f} samples/s {spent.processor_rate:10,.1f} of it",
            flush=True,
        )
        return spent

    racers = [Racer(case.name, "", functools.partial(turn, case)) for case in cases]
    race(racers, options.rounds)
    base = racers[0]
    return [
        {
            "suite": "train",
            "case": racer.name,
            "model": "ViT-B-32" if options.device == "cuda" else "tiny",
            "samples": options.shards * options.samples,
            "batch_size": options.batch_size,
            "workers": options.workers,
            "rounds": options.rounds,
            "samples_per_second": [round(rate, 1) for rate in racer.rates],
            "of_no_keep_list": paired_ratio(racer.rates, base.rates),
            "processor_time": {
                "samples_per_second": [round(rate, 1) for rate in racer.processor_rates],
                "of_no_keep_list": paired_ratio(racer.processor_rates, base.processor_rates),
            },
        }
        for racer in racers
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--samples", type=int, default=200, help="of a shard")
    parser.add_argument("--side", type=int, default=192, help="pixels of an image")
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=2, help="that are counted")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    tiny = {"shards": 2, "samples": 4, "side": 64, "batch_size": 4, "epochs": 1, "rounds": 1}
    options = read_options(parser, tiny)
    if options.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="clipgap-train-") as folder:
        rows = measure(Path(folder), options)
    columns: Columns = (
        ("", lambda row: row["case"]),
        ("samples/s", lambda row: str(row["samples_per_second"])),
        ("× no keep-list", lambda row: f"{row['of_no_keep_list']:.3f}"),
        ("by processor", lambda row: f"{row['processor_time']['of_no_keep_list']:.3f}"),
    )
    publish(rows, options, columns)


if __name__ == "__main__":
    main()
