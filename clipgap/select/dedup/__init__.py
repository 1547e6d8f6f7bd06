"""SemDeDup, exactly: near duplicates found within clusters of a store, or across all of it."""

from __future__ import annotations

from clipgap.select.dedup.api import (
    Dedup,
    Deduplicated,
    DedupPlan,
    common_name,
    dedup,
    plan_dedup,
)

__all__ = ["Dedup", "DedupPlan", "Deduplicated", "common_name", "dedup", "plan_dedup"]
