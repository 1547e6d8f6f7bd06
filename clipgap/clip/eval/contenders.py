"""Checkpoints as things that give logits: CLIP models zero-shot, and trained classifiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipgap.clip.data.classes import Classes
from clipgap.clip.eval.classifier import Classifier
from clipgap.clip.eval.scores import project
from clipgap.clip.models import LoadedModel, autocast
from clipgap.clip.networks import import_open_clip
from clipgap.errors import InputError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Logits = NDArray[np.float32]


class Contender(Protocol):
    """A loaded checkpoint."""

    @property
    def preprocess(self) -> Callable[[Image], Tensor]: ...

    @property
    def prepared_as(self) -> str:
        """Equal for equal preprocessings."""
        ...

    def head(self, classes: Classes) -> Callable[[Tensor], Logits]:
        """What gives the logits of these classes for a batch of preprocessed images."""
        ...


@dataclass(frozen=True)
class ZeroShot:
    """A CLIP model; its classifier is made of prompts, by open_clip's own function."""

    model: LoadedModel
    _weights: dict[tuple[Any, Any], Tensor] = field(default_factory=dict)

    @property
    def preprocess(self) -> Callable[[Image], Tensor]:
        return self.model.preprocess

    @property
    def prepared_as(self) -> str:
        return f"open_clip {self.model.identity['preprocess']}"

    def head(self, classes: Classes) -> Callable[[Tensor], Logits]:
        import torch

        model, clip = self.model, self.model.clip
        weights = self.weights(classes)

        def logits(batch: Tensor) -> Logits:
            images = batch.to(model.device)
            if model.precision in ("bf16", "fp16"):
                images = images.to(weights.dtype)
            with torch.inference_mode(), autocast(model.precision, model.device):
                features = clip.encode_image(images, normalize=True)  # type: ignore[union-attr]
                return _to_numpy(100.0 * features @ weights)

        return logits

    def weights(self, classes: Classes) -> Tensor:
        """Features × classes. Sets with the same names and prompts share them."""
        key = (classes.names, classes.templates)
        if key not in self._weights:
            with autocast(self.model.precision, self.model.device):
                self._weights[key] = import_open_clip().build_zero_shot_classifier(
                    self.model.clip,
                    tokenizer=self.model.tokenizer,
                    classnames=classes.names,
                    templates=classes.templates,
                    num_classes_per_batch=10,
                    device=self.model.device,
                )
        return self._weights[key]


@dataclass(frozen=True)
class Trained:
    """A classifier; each class of a set stands for one or several of its own."""

    name: str
    classifier: Classifier

    @property
    def preprocess(self) -> Callable[[Image], Tensor]:
        return self.classifier.preprocess

    @property
    def prepared_as(self) -> str:
        return f"torchvision {self.classifier.preprocess!r}"

    def head(self, classes: Classes) -> Callable[[Tensor], Logits]:
        columns, starts = self._columns(classes)

        def logits(batch: Tensor) -> Logits:
            return project(_to_numpy(self.classifier.logits(batch)), columns, starts)

        return logits

    def _columns(self, classes: Classes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        known = self.classifier.classes
        place = {name: column for column, name in enumerate(known)}
        # Trained on shards whose .cls members are numbers, it has no other names for classes.
        if known == tuple(map(str, range(len(classes)))):
            return np.arange(len(classes)), np.arange(len(classes))
        missing = [
            key
            for key, members in zip(classes.keys, classes.members, strict=True)
            if not all(member in place for member in members)
        ]
        if missing:
            raise InputError(
                f"{self.name}: was not trained on {len(missing):,} of the {len(classes):,} "
                f"classes of the set, among them {missing[0]!r}. It knows {len(known):,}: "
                f"{', '.join(known[:5])} …"
            )
        sizes = [len(members) for members in classes.members]
        columns = [place[member] for members in classes.members for member in members]
        return np.array(columns, np.int64), np.cumsum([0, *sizes[:-1]])


def zero_shot(model: LoadedModel, name: str) -> ZeroShot:
    """A model with a text tower."""
    if model.clip is None or model.tokenizer is None:
        raise UsageError(
            f"{name}: {model.name} has no text tower, so it cannot be evaluated zero-shot. Name a "
            "CLIP model with --model."
        )
    return ZeroShot(model)


def preprocesses(contenders: Mapping[str, Contender]) -> dict[str, Callable[[Image], Tensor]]:
    """The different preprocessings of some contenders, by what `prepared_as` says."""
    return {each.prepared_as: each.preprocess for each in contenders.values()}


def _to_numpy(logits: Tensor) -> Logits:
    found: Logits = logits.float().cpu().numpy()
    return found
