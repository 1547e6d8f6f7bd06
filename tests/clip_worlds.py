"""A CLIP of a hair's breadth, rendered images that it can learn in seconds, shards of them."""

from __future__ import annotations

import functools
import io
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_clip import factory
from PIL import Image, ImageDraw

from tests.shards import member, tar_bytes

# To read its words takes longer than to make and run a model as small as these.
factory.SimpleTokenizer = functools.cache(factory.SimpleTokenizer)

CLASSES = ("red circle", "green square", "blue triangle", "yellow cross")
SIZE = 32

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": SIZE,
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 49_408,  # of open_clip's tokenizer
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}


@dataclass(frozen=True)
class Picture:
    """A rendered image as it lies in a shard."""

    key: str
    label: int  # into CLASSES
    jpeg: bytes

    @property
    def caption(self) -> str:
        return f"a picture of a {CLASSES[self.label]}"


def write_config(folder: Path, name: str = "tiny-clip", **changes: Any) -> Path:
    """The configuration of the model; `changes` replace its entries."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**CONFIG, **changes}))
    return path


def render(label: int, seed: int, size: int = 48) -> Image.Image:
    """An image of a class: its shape and colour, somewhere on a dim ground."""
    chance = random.Random(f"{label}-{seed}")
    ground = tuple(chance.randrange(0, 70) for _ in range(3))
    image = Image.new("RGB", (size, size), ground)
    draw = ImageDraw.Draw(image)
    width = chance.randrange(size // 2, size * 3 // 4)
    x, y = chance.randrange(size - width), chance.randrange(size - width)
    right, below, middle = x + width, y + width, x + width // 2
    match label % len(CLASSES):
        case 0:
            draw.ellipse((x, y, right, below), "red")
        case 1:
            draw.rectangle((x, y, right, below), "green")
        case 2:
            draw.polygon([(middle, y), (x, below), (right, below)], "blue")
        case _:
            draw.line((x, y, right, below), "yellow", width // 3)
            draw.line((x, below, right, y), "yellow", width // 3)
    return image


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def pictures(count: int, seed: int = 0, prefix: str = "") -> list[Picture]:
    """Images of all classes in turn; their keys are numbers of nine digits."""
    return [
        Picture(
            f"{prefix}{seed * 10_000 + i:09d}",
            i % len(CLASSES),
            encoded(render(i % len(CLASSES), seed * 10_000 + i), quality=90),
        )
        for i in range(count)
    ]


def write_tar(path: Path, made: Iterable[Picture]) -> Path:
    """A shard with an image, a caption and a class number for each sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [
        entry
        for picture in made
        for entry in (
            member(f"{picture.key}.jpg", picture.jpeg),
            member(f"{picture.key}.txt", picture.caption.encode()),
            member(f"{picture.key}.cls", str(picture.label).encode()),
        )
    ]
    path.write_bytes(tar_bytes(entries))
    return path


def write_shards(folder: Path, counts: Sequence[int], seed: int = 0) -> list[list[Picture]]:
    """FOLDER/00000.tar and so on, with so many images each; what is in them."""
    made = [pictures(count, seed=seed + shard) for shard, count in enumerate(counts)]
    for shard, inside in enumerate(made):
        write_tar(folder / f"{shard:05d}.tar", inside)
    return made


def write_folder(folder: Path, made: Iterable[Picture]) -> Path:
    """An image folder with a subfolder for each class, as torchvision's ImageFolder reads it."""
    for picture in made:
        path = folder / CLASSES[picture.label] / f"{picture.key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.jpeg)
    return folder


def write_checkpoint(config: Path, path: Path, steps: int = 0, seed: int = 0) -> Path:
    """A checkpoint as open_clip writes it; a few seconds of training if `steps` says so.

    200 steps take about two seconds and tell the classes apart.
    """
    import torch

    from clipgap.clip.models import load

    loaded = load(str(config), "", "cpu")
    clip, tokenize = loaded.clip, loaded.tokenizer
    assert clip is not None and tokenize is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in clip.parameters():
            parameter.requires_grad_(True)
            if not steps:  # other weights than the random ones that everyone gets
                parameter.data += 0.01 * torch.randn_like(parameter)
        made = [(label, render(label, seed + i)) for i in range(16) for label in range(4)]
        images = torch.stack([loaded.preprocess(image) for _, image in made])
        texts = tokenize([f"a picture of a {name}" for name in CLASSES])
        labels = torch.tensor([label for label, _ in made])
        optimizer = torch.optim.Adam(clip.parameters(), 3e-3)
        for _ in range(steps):
            batch = torch.randint(len(made), (32,))
            image, text = clip.encode_image(images[batch], True), clip.encode_text(texts, True)
            logits = clip.logit_scale.exp() * image @ text.T
            loss = torch.nn.functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 1, "name": "tiny", "state_dict": clip.state_dict()}, path)
    return path
