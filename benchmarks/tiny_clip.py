"""A CLIP so small that what surrounds it counts most."""

from __future__ import annotations

import json
from pathlib import Path

from clipgap.clip.networks import register_config

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 64,
        "layers": 2,
        "width": 64,
        "head_width": 32,
        "patch_size": 16,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49_408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}


def write(folder: Path) -> str:
    """Its configuration in a file, for which it is known to open_clip too."""
    path = folder / "tiny-64.json"
    path.write_text(json.dumps(CONFIG))
    register_config(str(path))
    return str(path)
