"""Exact similarity between a web-scale training set and your test sets.

    import clipgap

    reference = clipgap.gap("imagenet-train", {"sketch": "imagenet-sketch"}, out="gap")
    result = clipgap.scan("laion", {"sketch": "imagenet-sketch"}, gap=reference, out="scan")
    result.test("sketch")

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from clipgap.clip.embed import embed as embed
    from clipgap.clip.embed import plan_embed as plan_embed
    from clipgap.clip.eval import EvalResult as EvalResult
    from clipgap.clip.eval import evaluate as evaluate
    from clipgap.clip.eval import open_evaluation as open_evaluation
    from clipgap.clip.train import open_train as open_train
    from clipgap.clip.train import train as train
    from clipgap.errors import ClipgapError as ClipgapError
    from clipgap.report import report as report
    from clipgap.scan import ScanResult as ScanResult
    from clipgap.scan import gap as gap
    from clipgap.scan import open_scan as open_scan
    from clipgap.scan import plan_scan as plan_scan
    from clipgap.scan import scan as scan
    from clipgap.scan import verify as verify
    from clipgap.select import combine as combine
    from clipgap.select import emulate as emulate
    from clipgap.select import split as split
    from clipgap.select import verify_split as verify_split
    from clipgap.select.dedup import dedup as dedup
    from clipgap.select.dedup import plan_dedup as plan_dedup
    from clipgap.shards import KeepSelector as KeepSelector
    from clipgap.shards import KeepStage as KeepStage
    from clipgap.shards import filter_shards as filter_shards
    from clipgap.shards import kept_samples as kept_samples
    from clipgap.store import Store as Store
    from clipgap.store import StoreWriter as StoreWriter
    from clipgap.store import open_store as open_store
    from clipgap.study import run_study as run_study

_HOMES = {
    "ClipgapError": "clipgap.errors",
    "EvalResult": "clipgap.clip.eval",
    "KeepSelector": "clipgap.shards",
    "KeepStage": "clipgap.shards",
    "ScanResult": "clipgap.scan",
    "Store": "clipgap.store",
    "StoreWriter": "clipgap.store",
    "combine": "clipgap.select",
    "dedup": "clipgap.select.dedup",
    "embed": "clipgap.clip.embed",
    "emulate": "clipgap.select",
    "evaluate": "clipgap.clip.eval",
    "filter_shards": "clipgap.shards",
    "gap": "clipgap.scan",
    "kept_samples": "clipgap.shards",
    "open_evaluation": "clipgap.clip.eval",
    "open_scan": "clipgap.scan",
    "open_store": "clipgap.store",
    "open_train": "clipgap.clip.train",
    "plan_dedup": "clipgap.select.dedup",
    "plan_embed": "clipgap.clip.embed",
    "plan_scan": "clipgap.scan",
    "report": "clipgap.report",
    "run_study": "clipgap.study",
    "scan": "clipgap.scan",
    "split": "clipgap.select",
    "train": "clipgap.clip.train",
    "verify": "clipgap.scan",
    "verify_split": "clipgap.select",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_HOMES[name])
    # `clipgap.scan` is a package that can be called like the function it is named for.
    return module if module.__name__ == f"clipgap.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
