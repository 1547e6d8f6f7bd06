"""Checkpoints as things that give logits: CLIP models zero-shot, and trained classifiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipgap.clip.checkpoints import check_names, check_shapes, read_content, weights_of
from clipgap.clip.data.classes import Classes
from clipgap.clip.eval.tables import project
from clipgap.clip.models import LoadedModel, autocast
from clipgap.clip.networks import import_open_clip
from clipgap.errors import InputError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from torch.nn import Module

OBJECTIVE = "classify"

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
class Classifier:
    """A network of torchvision with as many outputs as it was trained on classes."""

    classes: tuple[str, ...]
    preprocess: Callable[[Image], Tensor]
    module: Module
    device: str
    precision: str

    def logits(self, batch: Tensor) -> Tensor:
        """One row an image, one column a class."""
        import torch

        dtype = next(self.module.parameters()).dtype
        with torch.inference_mode(), autocast(self.precision, self.device):
            found: Tensor = self.module(batch.to(self.device, dtype))
        return found


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


def classes_of(path: Path) -> tuple[str, ...] | None:
    """The classes that a classifier's checkpoint knows; None for a checkpoint of another kind."""
    content = read_content(path, "meta")
    return _classes(path, content) if _is_classifier(content) else None


def load_classifier(path: Path, device: str, precision: str) -> Classifier:
    """The network of a classifier's checkpoint, in evaluation mode."""
    import torch
    import torchvision

    content = read_content(path, device)
    classes = _classes(path, content)
    name = content.get("arch")
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise InputError(f"{path}: its architecture is {name!r}, which torchvision does not have")
    module = torchvision.models.get_model(name, weights=None, num_classes=len(classes))
    state = weights_of(path, content)
    check_shapes(path, state, module, str(name))
    check_names(path, state, module, str(name))
    module.load_state_dict(state)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    module.to(device, dtype).eval()
    preprocess = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    return Classifier(classes, preprocess, module, device, precision)


def _is_classifier(content: Any) -> bool:
    return isinstance(content, Mapping) and content.get("objective") == OBJECTIVE


def _classes(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    classes = content.get("classes")
    if not isinstance(classes, list | tuple) or not all(isinstance(c, str) for c in classes):
        raise InputError(f"{path}: is a classifier's checkpoint, but does not name its classes")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise InputError(f"{path}: needs two classes at least, and none twice")
    return tuple(classes)


def _to_numpy(logits: Tensor) -> Logits:
    found: Logits = logits.float().cpu().numpy()
    return found
