"""From scans to keep-lists: which rows of a training store a split keeps."""

from __future__ import annotations

from clipgap.select.algebra import combine
from clipgap.select.emulation import emulate
from clipgap.select.labels import Condition, Where
from clipgap.select.reference import Reference
from clipgap.select.rules import Core, Far, Near, Prune, Rand
from clipgap.select.splitting import Split, split
from clipgap.select.verification import verify_split

__all__ = [
    "Condition",
    "Core",
    "Far",
    "Near",
    "Prune",
    "Rand",
    "Reference",
    "Split",
    "Where",
    "combine",
    "emulate",
    "split",
    "verify_split",
]
