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
import itertools
import logging
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_clip
import torch
from PIL import Image

from clipgap.bench.race import Racer, Spent, Stopwatch, paired_ratio, percentiles, race
from clipgap.bench.results import Columns
from clipgap.bench.script import publish, read_options
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


def forward_rate(model: LoadedModel, case: Case) -> Spent:
    """Images a second through the model, nothing else."""
    one = model.preprocess(Image.new("RGB", (case.side, case.side), "gray"))
    batch = one.expand(case.batch_size, *one.shape).contiguous().to(case.device)
    model.image_features(batch)
    wait(case)
    batches = max(2, case.images // case.batch_size)
    watch = Stopwatch(children=False)
    for _ in range(batches):
        model.image_features(batch)
    wait(case)
    return watch.spent(batches * case.batch_size)


def embed_rate(units: list[Unit], case: Case, out: Path) -> Spent:
    """Images a second of a run of `embed`, after its first batch."""
    work = EmbedWork(
        out, case.model, "", case.device, case.precision, case.batch_size, captions=False
    )
    with open_output(out, KIND, How()) as output:
        output.begin({})
        events = work.do(units, Slot(0, thread_count(), case.device))
        next(events)
        watch = Stopwatch(children=False)
        images = sum(round(event.done) for event in events if isinstance(event, Step))
        return watch.spent(images)


def decode_rate(units: list[Unit], model: LoadedModel, case: Case) -> Spent:
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
        watch = Stopwatch(children=False)
        return watch.spent(sum(batches))


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
    number = itertools.count()
    forward = Racer("forward", "", lambda: forward_rate(model, case))
    embed = Racer("embed", "", lambda: embed_rate(units, case, folder / f"store-{next(number)}"))
    decode = Racer("decode", "", lambda: decode_rate(units, model, case))
    race([forward, embed, decode], case.rounds)
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
            each.name: percentiles(each.rates, 1) for each in (forward, embed, decode)
        },
        "of_forward": paired_ratio(embed.rates, forward.rates),
        "of_forward_by_processor": paired_ratio(embed.processor_rates, forward.processor_rates),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="ViT-B-16-plus-240, amp, on a GPU")
    parser.add_argument("--model")
    parser.add_argument("--images", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--rounds", type=int)
    options = read_options(parser, {"images": 12, "batch_size": 4, "rounds": 1})
    logging.getLogger("clipgap").setLevel(logging.ERROR)  # random weights are what is wanted
    with tempfile.TemporaryDirectory(prefix="clipgap-embed-") as folder:
        if options.dry_run:
            options.model = options.model or tiny_clip.write(Path(folder))
        given = {
            name: value
            for name, value in vars(options).items()
            if name in Case.__dataclass_fields__ and value is not None
        }
        case = Case(**{**vars(GPU if options.gpu else CPU), **given})
        row = measure(case, Path(folder))
    columns: Columns = [
        (f"{name}, images/s", lambda row, name=name: f"{row['images_per_second'][name]['p50']:,}")
        for name in row["images_per_second"]
    ]
    columns += [
        ("embed × forward", lambda row: f"{row['of_forward']:.3f}"),
        ("by processor", lambda row: f"{row['of_forward_by_processor']:.3f}"),
    ]
    publish([row], options, columns, left=0)


if __name__ == "__main__":
    main()
