"""How fast `clipgap embed` is beside its model alone, on the same device.

    python benchmarks/embed.py                                    # ViT-B-32 on the CPU
    python benchmarks/embed.py --gpu                              # ViT-B-16-plus-240, amp, on a GPU

Makes tar shards of JPEG files and takes turns: the model's forward pass over one batch that lies
decoded on the device, and a run of `embed` over the shards: reading, decoding, preprocessing,
copies, forward pass, normalising, writing. Of a run the first batch does not count, as the model is
loaded before it; the last file it writes does. What decoding alone could do is measured too: where
that is less than the model's rate, decoding is the limit. On a CPU decoding and the model share the
cores, and on a machine that others use too only the ratio by processor time means something.
Weights are random, which takes as long. Rows are appended to `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import io
import logging
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from clipgap.bench.results import append, default_folder, origin
from clipgap.clip.embed.api import KIND
from clipgap.clip.embed.batches import BatchReader
from clipgap.clip.embed.sources import Unit, find_units
from clipgap.clip.embed.work import EmbedWork
from clipgap.clip.models import LoadedModel, load
from clipgap.machine import thread_count
from clipgap.runs.how import How
from clipgap.runs.output import open_output
from clipgap.runs.units import Slot, Step

DISTINCT = 64
"""Images that differ; each is used many times."""


@dataclass(frozen=True)
class Case:
    model: str
    precision: str
    device: str
    batch_size: int
    images: int
    shards: int
    side: int  # of an image, in pixels
    rounds: int


CPU = Case("ViT-B-32", "fp32", "cpu", 16, 192, 2, 256, 5)
GPU = Case("ViT-B-16-plus-240", "amp", "cuda", 256, 20_480, 4, 256, 5)


def make_shards(folder: Path, case: Case) -> None:
    """Smooth noise, which takes about as long to decode as a photograph."""
    random = np.random.default_rng(0)
    files = []
    for _ in range(DISTINCT):
        coarse = Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8))
        out = io.BytesIO()
        coarse.resize((case.side, case.side), Image.Resampling.BICUBIC).save(
            out, "JPEG", quality=90
        )
        files.append(out.getvalue())
    for shard in range(case.shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for number in range(case.images // case.shards):
                info = tarfile.TarInfo(f"{shard:05d}{number:04d}.jpg")
                content = files[number % DISTINCT]
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@dataclass(frozen=True)
class Rate:
    """Images a second, by the clock and by the time that this process had of the processor."""

    clock: float
    processor: float


class Watch:
    def __init__(self) -> None:
        self._clock, self._processor = time.perf_counter(), time.process_time()

    def rate(self, images: int) -> Rate:
        processor = time.process_time() - self._processor
        return Rate(images / (time.perf_counter() - self._clock), images / processor)


def forward_rate(model: LoadedModel, case: Case) -> Rate:
    """Images a second through the model, nothing else."""
    one = model.preprocess(Image.new("RGB", (case.side, case.side), "gray"))
    batch = one.expand(case.batch_size, *one.shape).contiguous().to(case.device)
    model.image_features(batch)
    wait(case)
    batches = max(2, case.images // case.batch_size)
    watch = Watch()
    for _ in range(batches):
        model.image_features(batch)
    wait(case)
    return watch.rate(batches * case.batch_size)


def embed_rate(units: list[Unit], case: Case, out: Path) -> Rate:
    """Images a second of a run of `embed`, after its first batch."""
    work = EmbedWork(
        out, case.model, "", case.device, case.precision, case.batch_size, captions=False
    )
    with open_output(out, KIND, How()) as output:
        output.begin({})
        events = work.do(units, Slot(0, thread_count(), case.device))
        next(events)
        watch = Watch()
        images = sum(round(event.done) for event in events if isinstance(event, Step))
        return watch.rate(images)


def decode_rate(units: list[Unit], model: LoadedModel, case: Case) -> Rate:
    """Images a second that reading and decoding could deliver."""
    reader = BatchReader(
        units,
        model.preprocess,
        size=case.batch_size,
        threads=thread_count(),
        captions=False,
        pinned=case.device == "cuda",
    )
    with reader:
        batches = drained(reader)
        next(batches)
        watch = Watch()
        return watch.rate(sum(batches))


def drained(reader: BatchReader) -> Iterator[int]:
    for batch in reader:
        batch.wait()
        reader.give_back(batch)
        yield len(batch.images)


def wait(case: Case) -> None:
    if case.device == "cuda":
        torch.cuda.synchronize()


def measure(case: Case, folder: Path) -> dict[str, Any]:
    (folder / "shards").mkdir()
    make_shards(folder / "shards", case)
    units = find_units(folder / "shards")
    model = load(case.model, "", case.device, case.precision)
    rates: dict[str, list[Rate]] = {"forward": [], "embed": [], "decode": []}
    for number in range(case.rounds):
        rates["forward"].append(forward_rate(model, case))
        rates["embed"].append(embed_rate(units, case, folder / f"store-{number}"))
        rates["decode"].append(decode_rate(units, model, case))
    pairs = list(zip(rates["embed"], rates["forward"], strict=True))
    device = torch.cuda.get_device_name() if case.device == "cuda" else None
    return {
        "suite": "embed",
        **({"device": device} if device else {}),
        "model": case.model,
        "precision": case.precision,
        "batch_size": case.batch_size,
        "images": case.images,
        "image_pixels": [case.side, case.side],
        "threads": thread_count(),
        "rounds": case.rounds,
        "images_per_second": {
            name: {
                f"p{q}": round(float(np.percentile([rate.clock for rate in each], q)), 1)
                for q in (20, 50, 80)
            }
            for name, each in rates.items()
        },
        "of_forward": round(median(ours.clock / bare.clock for ours, bare in pairs), 3),
        "of_forward_by_processor": round(
            median(ours.processor / bare.processor for ours, bare in pairs), 3
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="ViT-B-16-plus-240, amp, on a GPU")
    parser.add_argument("--model")
    parser.add_argument("--images", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--results", type=Path, default=default_folder())
    options = parser.parse_args()
    logging.getLogger("clipgap").setLevel(logging.ERROR)  # random weights are what is wanted
    given = {
        name: value
        for name, value in vars(options).items()
        if name not in ("gpu", "results") and value is not None
    }
    case = Case(**{**vars(GPU if options.gpu else CPU), **given})
    with tempfile.TemporaryDirectory(prefix="clipgap-embed-") as folder:
        row = measure(case, Path(folder))
    for name, rate in row["images_per_second"].items():
        print(f"{name:8} {rate['p50']:10,.1f} images/s  (p20–p80 {rate['p20']:,}–{rate['p80']:,})")
    print(
        f"embed is {row['of_forward']:.3f} of the model's forward pass by the clock, "
        f"{row['of_forward_by_processor']:.3f} by the processor"
    )
    print(append(options.results, [{**origin(), **row}]))


if __name__ == "__main__":
    main()
