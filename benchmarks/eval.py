"""How fast `clipgap eval` is beside open_clip's own zero-shot loop on the same images.

    python benchmarks/eval.py --model ViT-B-32 --images 512 --rounds 5

Makes class folders of JPEG files of a usual size and takes turns: a plain loop of open_clip's
functions (torch's DataLoader over an ImageFolder, `build_zero_shot_classifier`, forward, matrix
product), and `clipgap.evaluate`, which also writes its tables. Both load the model (random
weights), build the classifier and go through all images. Where other processes are busy too,
seconds of the processor tell more than those on the wall. Rows are appended to
`benchmarks/results`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tiny_clip

from clipgap.bench.race import Racer, median_ratio, race
from clipgap.bench.results import Columns
from clipgap.bench.script import publish, read_options

CLASSES = ("circle", "square", "triangle", "cross", "star", "ring", "arrow", "heart")
TEMPLATES = ("a photo of a {}.", "a picture of a {}.")
WIDTH, HEIGHT = 500, 375


def make_images(folder: Path, count: int) -> None:
    """Smooth noise, which takes about as long to decode as a photograph."""
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / CLASSES[number % len(CLASSES)] / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (HEIGHT // 12, WIDTH // 12, 3), np.uint8)
        Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(
            path, quality=90
        )


def plain_loop(options: argparse.Namespace, folder: Path) -> float:
    """Accuracy by open_clip's functions alone."""
    import open_clip
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    name = Path(options.model.removesuffix(".json")).name  # it knows a configuration by its name
    model, _, preprocess = open_clip.create_model_and_transforms(name, device=options.device)
    model.eval()
    images = ImageFolder(str(folder), preprocess)
    loader = DataLoader(
        images,
        options.batch_size,
        num_workers=options.workers,
        pin_memory=options.device.startswith("cuda"),
    )
    amp = torch.autocast(options.device, dtype=torch.float16, enabled=options.precision == "amp")
    right = 0
    with torch.inference_mode(), amp:
        classifier = open_clip.build_zero_shot_classifier(
            model,
            open_clip.get_tokenizer(name),
            images.classes,
            TEMPLATES,
            device=options.device,
        )
        for batch, labels in loader:
            features = model(image=batch.to(options.device, non_blocking=True))[0]
            top = (100.0 * features @ classifier).topk(5, 1).indices.cpu()
            right += int((top[:, 0] == labels).sum())
    return right / len(images)


def ours(options: argparse.Namespace, folder: Path, work: Path) -> float:
    import clipgap

    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    result = clipgap.evaluate(
        "random=",
        f"pictures={folder}",
        out,
        model=options.model,
        classnames=str(work / "classes.txt"),
        templates=str(work / "templates.txt"),
        device=options.device,
        precision=options.precision,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    return float(result.summary["accuracy"][0].as_py())


def measure(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    folder = work / "images"
    make_images(folder, options.images)
    (work / "classes.txt").write_text("\n".join(sorted(CLASSES)))
    (work / "templates.txt").write_text("\n".join(TEMPLATES))
    loop = Racer("open_clip's loop", "", lambda: plain_loop(options, folder))
    racers = [loop, Racer("clipgap eval", "", lambda: ours(options, folder, work))]
    # Processor time counts children too, which load images.
    race(racers, options.rounds, warm=1)
    return [
        {
            "suite": "eval",
            **device_of(options.device),
            "case": racer.name,
            "model": options.model,
            "precision": options.precision,
            "images": options.images,
            "batch_size": options.batch_size,
            "workers": options.workers,
            "rounds": options.rounds,
            "seconds": [round(seconds, 2) for seconds in racer.seconds],
            "processor_seconds": [round(seconds, 2) for seconds in racer.processor],
            "of_the_loop": median_ratio(loop.seconds, racer.seconds),
            "of_the_loop_by_processor": median_ratio(loop.processor, racer.processor),
        }
        for racer in racers
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "amp"), default="fp32")
    tiny = {"model": "", "images": 16, "rounds": 1, "batch_size": 8, "workers": 1}
    options = read_options(parser, tiny)
    with tempfile.TemporaryDirectory(prefix="clipgap-eval-") as folder:
        options.model = options.model or tiny_clip.write(Path(folder))
        rows = measure(options, Path(folder))
    columns: Columns = (
        ("", lambda row: row["case"]),
        ("× the loop", lambda row: f"{row['of_the_loop']:.3f}"),
        ("by processor", lambda row: f"{row['of_the_loop_by_processor']:.3f}"),
        ("s", lambda row: str(row["seconds"])),
        ("s of processor", lambda row: str(row["processor_seconds"])),
    )
    publish(rows, options, columns)


def device_of(device: str) -> dict[str, str]:
    """The name of the GPU, if one is used."""
    import torch

    return {"device": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {}


if __name__ == "__main__":
    main()
