"""A tiny model, checkpoints and sets for the tests of `clipgap eval`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from tests.clip_worlds import (
    CLASSES,
    Picture,
    write_checkpoint,
    write_config,
    write_folder,
    write_shards,
)

TEMPLATES = ("a picture of a {}", "a {}.")


@dataclass(frozen=True)
class World:
    """A tiny model, two checkpoints of it, a set as a folder and as shards."""

    root: Path
    config: Path
    first: Path
    second: Path
    folder: Path
    shards: Path
    made: Sequence[Picture]  # in the order of the shards
    names: Path
    prompts: Path

    def arguments(self, **changes: Any) -> dict[str, Any]:
        return {
            "checkpoints": [f"a={self.first}", f"b={self.second}"],
            "data": f"pics={self.folder}",
            "model": str(self.config),
            "classnames": str(self.names),
            "templates": str(self.prompts),
            "device": "cpu",
            "workers": 2,
            "batch_size": 7,
            **changes,
        }


def make_world(root: Path, steps: int = 0) -> World:
    """The first checkpoint is trained for so many steps; 150 tell the classes apart."""
    config = write_config(root)
    made = [picture for shard in write_shards(root / "shards", [9, 11]) for picture in shard]
    names, prompts = root / "names.txt", root / "prompts.txt"
    names.write_text("\n".join(CLASSES) + "\n")
    prompts.write_text("\n".join(TEMPLATES) + "\n")
    return World(
        root,
        config,
        write_checkpoint(config, root / "a.pt", steps=steps, seed=1),
        write_checkpoint(config, root / "b.pt", seed=2),
        write_folder(root / "folder", made),
        root / "shards",
        made,
        names,
        prompts,
    )


def samples(out: Path, checkpoint: str, name: str = "pics") -> dict[str, list[Any]]:
    table = pq.read_table(out / "samples" / checkpoint / f"{name}.parquet")
    return {column: table[column].to_pylist() for column in table.column_names}


def write_classifier(path: Path, names: Sequence[str], **changes: Any) -> Path:
    import torchvision

    torch.manual_seed(3)
    module = torchvision.models.resnet18(num_classes=len(names))
    content = {
        "state_dict": module.state_dict(),
        "epoch": 1,
        "objective": "classify",
        "arch": "resnet18",
        "classes": list(names),
    }
    torch.save({**content, **changes}, path)
    return path
