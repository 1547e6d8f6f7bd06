"""The sets that clipgap knows: classes, prompts, labels, and what to check on disk."""

from __future__ import annotations

from clipgap.clip.data.check import Checked, check_set
from clipgap.clip.data.classes import Classes
from clipgap.clip.data.parts import Linked, link_part, plan_part
from clipgap.clip.data.registry import Registered, find_set, registry, unknown_set
from clipgap.clip.data.tables import LabelTable

__all__ = [
    "Checked",
    "Classes",
    "LabelTable",
    "Linked",
    "Registered",
    "check_set",
    "find_set",
    "link_part",
    "plan_part",
    "registry",
    "unknown_set",
]
