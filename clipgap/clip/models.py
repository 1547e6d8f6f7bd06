"""Models by name, loaded in one way for embedding, training and evaluation.

NAME            a model of open_clip; its weights are a tag of open_clip's, or a checkpoint file
CONFIG.json     a model of open_clip by its configuration
hf-hub:REPO     configuration and weights from the Hugging Face hub
timm:NAME, torchvision:NAME    a network without its classifier: features of images only
PACKAGE.MODULE:FUNCTION, FILE.py:FUNCTION    a network that a function of the user's makes
FILE.pt         a network as TorchScript, with its weights
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgap.clip.checkpoints import checkpoint_file
from clipgap.clip.networks import brings_weights, check_named, is_downloaded, make, source_file
from clipgap.clip.options import PRECISIONS
from clipgap.errors import InputError, MissingDependency, UsageError
from clipgap.files.atomic import sha256_file
from clipgap.kernels.torch_kernel import import_torch, torch_threads

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


LOG = logging.getLogger(__name__)

_RANDOM_SEED = 0


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode on its device."""

    name: str
    device: str
    precision: str
    dim: int  # of its image features
    preprocess: Callable[[Image], Tensor]
    tokenizer: Callable[[Any], Tensor] | None
    clip: Any | None  # open_clip's model; None where there is no text tower
    identity: Mapping[str, Any]  # as JSON: what tells this model from any other
    encode: Callable[[Tensor], Tensor]

    def image_features(self, batch: Tensor) -> Tensor:
        """Features, not normalised, of preprocessed images that are on the model's device."""
        import torch

        with torch.no_grad(), autocast(self.precision, self.device):
            return self.encode(batch.to(_input_type(self.precision)))


def load(model: str, pretrained: str | None, device: str, precision: str = "fp32") -> LoadedModel:
    """Load a model and its weights.

    `pretrained` is a tag of the library's or a checkpoint file; the empty string stands for random
    weights, always the same ones. With a model that brings its weights it may be None.
    """
    identity = identify(model, pretrained)
    check_device(device, precision)
    with _reproducible():
        network = make(model, pretrained or "", precision)
    warn_if_random(model, pretrained)
    network.module.to(device).eval().requires_grad_(False)
    loaded = LoadedModel(
        name=model,
        device=device,
        precision=precision,
        dim=0,
        preprocess=network.preprocess,
        tokenizer=network.tokenizer,
        clip=network.clip,
        identity={**identity, "preprocess": network.described},
        encode=network.encode,
    )
    return _with_dim(loaded)


def warn_if_random(model: str, pretrained: str | None) -> None:
    if pretrained == "" and not brings_weights(model):
        LOG.warning("%s has random weights, since none were named", model)


def fetch(model: str, pretrained: str | None) -> None:
    """Have what a library downloads, so that nothing is begun that a failed download would end."""
    if is_downloaded(model, pretrained):
        with _reproducible():
            make(model, pretrained or "", "fp32")


def identify(model: str, pretrained: str | None) -> dict[str, Any]:
    """What tells a model from others before it is loaded: names, and checksums of local files."""
    if pretrained is None and not brings_weights(model):
        check_named(model, None)
        raise UsageError(
            f"{model}: name its weights with --pretrained: a tag, a checkpoint file, or '' for "
            "random weights"
        )
    checkpoint = checkpoint_file(pretrained)
    check_named(model, pretrained)
    source = source_file(model)
    return {
        "model": model if source is None else _without_folder(model, source),
        "config_sha256": None if source is None else sha256_file(source),
        "pretrained": checkpoint.name if checkpoint else pretrained or "",
        "checkpoint_sha256": sha256_file(checkpoint) if checkpoint else None,
    }


def _without_folder(model: str, source: Path) -> str:
    """The same file is the same model, wherever it lies."""
    where, colon, function = model.rpartition(":")
    if not colon:
        return source.name
    return f"{source.name}:{function}" if where.endswith(".py") else model


def check_device(device: str, precision: str) -> None:
    """Refuse a device that cannot be used here, and a precision that is none."""
    import_torch()
    import torch

    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; choose one of: {', '.join(PRECISIONS)}")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"{device!r} is no device; there are cpu, cuda and cuda:N") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise MissingDependency(f"{device} cannot be used here; --device cpu runs anywhere")


def resolve_device(device: str) -> str:
    """`auto` is the first GPU if there is one, else the CPU."""
    import_torch()
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device, "fp32")
    return device


@contextmanager
def on_device(device: str, cores: int) -> Iterator[None]:
    """For a worker: no more threads than it was given, and pinned memory of its own device."""
    import torch

    with (
        torch_threads(min(torch.get_num_threads(), cores)),
        torch.cuda.device(device) if device.startswith("cuda") else nullcontext(),
    ):
        yield


def autocast(precision: str, device: str) -> Any:
    """The context of a forward pass: with `amp`, float16 on GPUs and bfloat16 on CPUs."""
    import torch

    if precision != "amp":
        return nullcontext()
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16 if kind == "cpu" else torch.float16)


def _input_type(precision: str) -> Any:
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


def _with_dim(model: LoadedModel) -> LoadedModel:
    """Send one black image through all of it: that tells the number of features."""
    from PIL import Image

    batch = model.preprocess(Image.new("RGB", (32, 32)))[None].to(model.device)
    features = model.image_features(batch)
    if features.ndim != 2:
        raise InputError(
            f"{model.name}: gives features of shape {tuple(features.shape[1:])} for an image, "
            "not one row"
        )
    return replace(model, dim=int(features.shape[1]))


@contextmanager
def _reproducible() -> Iterator[None]:
    """Random weights are the same in all processes, and the caller's random state stays."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_RANDOM_SEED)
        yield
