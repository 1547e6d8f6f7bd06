"""Classifiers that `clipgap train --objective classify` has trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgap.clip.checkpoints import check_names, check_shapes, read_content, weights_of
from clipgap.clip.models import autocast
from clipgap.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from torch.nn import Module

OBJECTIVE = "classify"


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
