"""What an embedding run would do, known before a model is loaded or a shard read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipgap.clip.embed.sources import FolderUnit, Unit, find_units
from clipgap.clip.models import check_device, identify, resolve_device
from clipgap.errors import UsageError
from clipgap.files.volumes import FILE_THREADS


@dataclass(frozen=True)
class Settings:
    """What can change the output, besides data and model."""

    captions: bool
    batch_size: int
    precision: str
    device: str  # "cpu" or "cuda": they round differently

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size={self.batch_size}: a batch holds at least one image")


@dataclass(frozen=True)
class EmbedPlan:
    """Everything that is known beforehand."""

    source: str
    units: Sequence[Unit]
    model: str
    pretrained: str | None
    identity: Mapping[str, Any]
    settings: Settings
    devices: Sequence[str]  # one worker each

    @property
    def bytes(self) -> int:
        return sum(unit.size for unit in self.units)

    @property
    def images(self) -> int | None:
        """How many, if that is known without reading shards."""
        folders = [unit for unit in self.units if isinstance(unit, FolderUnit)]
        return sum(len(unit.paths) for unit in folders) if folders else None

    def describe(self) -> dict[str, Any]:
        """What tells this output from others."""
        with ThreadPoolExecutor(FILE_THREADS) as pool:
            shards = list(pool.map(lambda unit: unit.describe(), self.units))
        return {
            "kind": "embed",
            "inputs": {"shards": shards},
            "model": dict(self.identity),
            "settings": asdict(self.settings),
        }

    def marks(self) -> list[dict[str, str]]:
        """What tells that a shard was edited in place while a run was unfinished."""
        return [{"name": unit.name, "time": unit.changed()} for unit in self.units]


def plan_embed(
    data: str | Path | Sequence[str | Path],
    model: str,
    pretrained: str | None,
    *,
    captions: bool = False,
    batch_size: int = 256,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
) -> EmbedPlan:
    """What `embed` would do; looks at names and checksums only."""
    identity = identify(model, pretrained)
    resolved = resolve_device(device)
    check_device(resolved, precision)
    units = find_units(data)
    if captions and isinstance(units[0], FolderUnit):
        raise UsageError(f"{data}: a folder of images has no captions; leave --captions out")
    return EmbedPlan(
        "::".join(map(str, [data] if isinstance(data, str | Path) else data)),
        units,
        model,
        pretrained,
        identity,
        Settings(captions, batch_size, precision, resolved.partition(":")[0]),
        _devices(resolved, workers),
    )


def _devices(device: str, workers: int | None) -> list[str]:
    """A device for each worker: all GPUs in turn where "cuda" was asked for."""
    import torch

    if workers is not None and workers < 1:
        raise UsageError(f"workers={workers}: at least one has to work")
    all_of_them = [device]
    if device == "cuda":
        all_of_them = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    count = workers or len(all_of_them)
    return [all_of_them[worker % len(all_of_them)] for worker in range(count)]
