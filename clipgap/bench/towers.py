"""What a sample costs in a model of open_clip, by its configuration alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clipgap.errors import UsageError
from clipgap.files.documents import is_count, is_number, misfits


def _is_size(value: object) -> bool:
    return is_count(value) and 0 < value <= 1 << 20  # type: ignore[operator]


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_size, value))


def _is_ratio(value: object) -> bool:
    return is_number(value) and 0 < value < 100  # type: ignore[operator]


_TRANSFORMER = {"width": _is_size, "layers": _is_size, "mlp_ratio": (None, _is_ratio)}
_SHAPE = {
    "embed_dim": _is_size,
    "vision_cfg": {
        **_TRANSFORMER,
        "patch_size": _is_size,
        "image_size": (None, _is_pair, _is_size),
    },
    "text_cfg": {
        **_TRANSFORMER,
        "context_length": (None, _is_size),
        "vocab_size": (None, _is_size),
    },
}

_VOCABULARY = 49_408
"""Of CLIP's tokens, where a configuration does not say."""


@dataclass(frozen=True)
class Towers:
    """Operations of a forward pass of one image and of one text; numbers that are held."""

    image: float
    text: float
    dim: int
    weights: float  # of both towers
    pixels: int  # of an image, three numbers each
    stream: float  # what of an image goes from layer to layer


def towers(model: str) -> Towers:
    """Of a model whose towers are transformers; of others nothing is known here."""
    path = _configuration(model)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--model {model}: cannot read {path}: {error}") from error
    if any(misfits(config, _SHAPE)):
        raise UsageError(
            f"--model {model}: only what vision transformers take is known; plan with a ViT of "
            "about its cost, such as ViT-B-32"
        )
    vision, text = config["vision_cfg"], config["text_cfg"]
    sides = vision.get("image_size") or 224
    height, width = sides if isinstance(sides, list) else (sides, sides)
    patch = vision["patch_size"]
    patches = (height // patch) * (width // patch)
    tokens, words = patches + 1, text.get("context_length") or 77
    stem = 3 * patch**2 * vision["width"]
    known = text.get("vocab_size") or _VOCABULARY
    return Towers(
        2.0 * patches * stem + _transformer(tokens, vision),
        _transformer(words, text),
        config["embed_dim"],
        weights=stem
        + _weights(tokens, vision, config["embed_dim"])
        + _weights(known + words, text, config["embed_dim"]),
        pixels=3 * height * width,
        stream=float(tokens * vision["width"]),
    )


def _weights(embedded: int, config: Mapping[str, Any], dim: int) -> float:
    """Of the layers, and of what is embedded before and projected after them."""
    width, layers = int(config["width"]), int(config["layers"])
    return float(layers * _projections(config) * width**2 + (embedded + dim) * width)


def _projections(config: Mapping[str, Any]) -> float:
    """Of a layer, as multiples of its width squared."""
    return 4 + 2 * float(config.get("mlp_ratio") or 4.0)


def _transformer(tokens: int, config: Mapping[str, Any]) -> float:
    """Projections of each token, and all tokens with all."""
    width, layers = int(config["width"]), int(config["layers"])
    return layers * tokens * (2.0 * _projections(config) * width**2 + 4.0 * tokens * width)


def _configuration(model: str) -> Path:
    """A file that is named, or one of open_clip's, which takes seconds to be imported."""
    if model.endswith(".json") and Path(model).is_file():
        return Path(model)
    found = find_spec("open_clip")
    for folder in () if found is None else found.submodule_search_locations or ():
        path = Path(folder, "model_configs", f"{model}.json")
        if path.is_file():
            return path
    missing = "" if found else ", and open_clip, which knows more, is not installed"
    raise UsageError(f"--model {model}: there is no such configuration{missing}")
