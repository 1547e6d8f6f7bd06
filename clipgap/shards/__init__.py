"""webdataset shards: read strictly, filtered byte for byte, merged."""

from __future__ import annotations

from clipgap.shards.finding import TarShard, find_shards
from clipgap.shards.matching import KeepSelector
from clipgap.shards.problems import OnProblem, Problem, refuse
from clipgap.shards.samples import SAFE_EXTENSIONS, Sample, read_samples
from clipgap.shards.stream import KeepStage, kept_samples

__all__ = [
    "SAFE_EXTENSIONS",
    "KeepSelector",
    "KeepStage",
    "OnProblem",
    "Problem",
    "Sample",
    "TarShard",
    "find_shards",
    "kept_samples",
    "read_samples",
    "refuse",
]
