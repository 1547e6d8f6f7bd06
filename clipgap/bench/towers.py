"""What a sample costs in a model of open_clip, by its configuration alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clipgap.errors import UsageError


@dataclass(frozen=True)
class Towers:
    """Operations of a forward pass of one image and of one text."""

    image: float
    text: float
    dim: int


def towers(model: str) -> Towers:
    """Of a model whose towers are transformers; of others nothing is known here."""
    path = _configuration(model)
    config = json.loads(path.read_text(encoding="utf-8"))
    vision, text = config["vision_cfg"], config.get("text_cfg", {})
    if not isinstance(vision.get("layers"), int) or not isinstance(text.get("width"), int):
        raise UsageError(
            f"--model {model}: only what vision transformers take is known; plan with a ViT of "
            "about its cost, such as ViT-B-32"
        )
    sides = vision.get("image_size", 224)
    height, width = sides if isinstance(sides, list) else (sides, sides)
    patch = vision["patch_size"]
    patches = (height // patch) * (width // patch)
    stem = 2.0 * patches * 3 * patch**2 * vision["width"]
    return Towers(
        stem + _transformer(patches + 1, vision),
        _transformer(text.get("context_length", 77), text),
        config["embed_dim"],
    )


def _transformer(tokens: int, config: Mapping[str, Any]) -> float:
    """Projections of each token, and all tokens with all."""
    width, layers = int(config["width"]), int(config["layers"])
    projections = 4 + 2 * float(config.get("mlp_ratio", 4.0))
    return layers * tokens * (2.0 * projections * width**2 + 4.0 * tokens * width)


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
