"""A sample's bytes as tensors: the image as the model wants it, and its caption or class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clipgap.clip.images.decoding import Unusable
from clipgap.clip.images.reading import CAPTION, RawImage, class_of
from clipgap.clip.train.source import BadSample
from clipgap.shards.samples import Sample

Preprocess = Callable[[Any], Any]


@dataclass(frozen=True)
class WithCaption:
    """Image and tokens."""

    preprocess: Preprocess
    tokenize: Callable[[str], Any]

    def __call__(self, sample: Sample) -> tuple[Any, Any]:
        caption = _caption(sample)
        return self.preprocess(_image(sample)), self.tokenize(caption)[0]


@dataclass(frozen=True)
class WithClass:
    """Image and number of the class."""

    preprocess: Preprocess
    classes: int

    def __call__(self, sample: Sample) -> tuple[Any, int]:
        label = label_of(sample)
        if label >= self.classes:
            raise BadSample(f"is of class {label}, but there are {self.classes:,}")
        return self.preprocess(_image(sample)), label


def label_of(sample: Sample) -> int:
    """The number of the class that a sample's .cls names."""
    try:
        return class_of(sample)
    except Unusable as bad:
        raise BadSample(bad.reason) from bad


def _image(sample: Sample) -> Any:
    try:
        return RawImage.of_sample(sample).decode()
    except Unusable as bad:
        raise BadSample(bad.reason) from bad


def _caption(sample: Sample) -> str:
    if CAPTION not in sample.contents:
        raise BadSample(f"has no caption (.{CAPTION})")
    try:
        return sample.contents[CAPTION].decode()
    except UnicodeDecodeError as error:
        raise BadSample("its caption is not UTF-8") from error
