"""Which of how many processes this is, if torchrun, Slurm or MPI started it as one of several."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

_NAMES = {
    "rank": ("RANK", "SLURM_PROCID", "PMI_RANK", "OMPI_COMM_WORLD_RANK"),
    "local": ("LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "world": ("WORLD_SIZE", "SLURM_NTASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"),
}


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of the run."""

    launched: bool = False  # by something that starts one process a device
    rank: int = 0
    local: int = 0
    world: int = 1

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Ranks:
        """torchrun says so even of a single process; one Slurm task is a machine, not a device."""
        found = {
            what: next((int(environment[name]) for name in names if name in environment), None)
            for what, names in _NAMES.items()
        }
        world = found["world"] or 1
        if found["rank"] is None or (world == 1 and "RANK" not in environment):
            return cls()
        return cls(True, found["rank"], found["local"] or 0, world)
