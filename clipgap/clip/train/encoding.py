"""A sample's bytes as tensors: the image as the model wants it, and its caption or class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clipgap.clip.images import IMAGE_EXTENSIONS, BadImage, decode
from clipgap.clip.train.source import BadSample
from clipgap.shards.samples import Sample

Preprocess = Callable[[Any], Any]


@dataclass(frozen=True)
class WithCaption:
    """Image and tokens."""

    preprocess: Preprocess
    tokenize: Callable[[str], Any]

    def __call__(self, sample: Sample) -> tuple[Any, Any]:
        caption = _text(sample, "txt", "caption")
        return self.preprocess(_image(sample)), self.tokenize(caption)[0]


@dataclass(frozen=True)
class WithClass:
    """Image and number of the class."""

    preprocess: Preprocess
    classes: int

    def __call__(self, sample: Sample) -> tuple[Any, int]:
        label = class_of(sample)
        if label >= self.classes:
            raise BadSample(f"is of class {label}, but there are {self.classes:,}")
        return self.preprocess(_image(sample)), label


def class_of(sample: Sample) -> int:
    """The class that a sample's .cls names."""
    text = _text(sample, "cls", "class").strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise BadSample(f"its .cls holds {text[:20]!r}, not the number of a class")
    return int(text)


def _image(sample: Sample) -> Any:
    found = next((e for e in IMAGE_EXTENSIONS if e in sample.contents), None)
    if found is None:
        raise BadSample(f"has no image ({', '.join(IMAGE_EXTENSIONS)})")
    try:
        return decode(sample.contents[found], f"{sample.shard}, {sample.key}")
    except BadImage as error:
        raise BadSample(error.reason) from error


def _text(sample: Sample, extension: str, noun: str) -> str:
    if extension not in sample.contents:
        raise BadSample(f"has no {noun} (.{extension})")
    try:
        return sample.contents[extension].decode()
    except UnicodeDecodeError as error:
        raise BadSample(f"its {noun} is not UTF-8") from error
