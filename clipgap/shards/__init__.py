"""webdataset shards: read strictly, filtered byte for byte, merged."""

from __future__ import annotations

from clipgap.shards.api import filter_shards, run_filter
from clipgap.shards.finding import TarShard, find_shards
from clipgap.shards.matching import KeepSelector
from clipgap.shards.plan import FilterPlan, plan_filter
from clipgap.shards.problems import OnProblem, Problem, refuse
from clipgap.shards.run import FilterResult, Progress
from clipgap.shards.samples import SAFE_EXTENSIONS, Sample, read_samples
from clipgap.shards.stream import KeepStage, kept_samples

__all__ = [
    "SAFE_EXTENSIONS",
    "FilterPlan",
    "FilterResult",
    "KeepSelector",
    "KeepStage",
    "OnProblem",
    "Problem",
    "Progress",
    "Sample",
    "TarShard",
    "filter_shards",
    "find_shards",
    "kept_samples",
    "plan_filter",
    "read_samples",
    "refuse",
    "run_filter",
]
