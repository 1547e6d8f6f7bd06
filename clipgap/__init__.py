"""Exact similarity between a web-scale training set and your test sets.

    import clipgap

    reference = clipgap.gap("imagenet-train", {"sketch": "imagenet-sketch"}, out="gap")
    result = clipgap.scan("laion", {"sketch": "imagenet-sketch"}, gap=reference, out="scan")
    result.test("sketch")

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clipgap.version import __version__

if TYPE_CHECKING:
    from clipgap.bench.plan import plan as plan
    from clipgap.clip.analyze.api import analyze as analyze
    from clipgap.clip.analyze.api import open_analysis as open_analysis
    from clipgap.clip.data.captioned import caption_folder as caption_folder
    from clipgap.clip.embed.api import embed as embed
    from clipgap.clip.embed.api import plan_embed as plan_embed
    from clipgap.clip.eval.api import EvalResult as EvalResult
    from clipgap.clip.eval.api import evaluate as evaluate
    from clipgap.clip.eval.api import open_evaluation as open_evaluation
    from clipgap.clip.train.api import open_train as open_train
    from clipgap.clip.train.api import train as train
    from clipgap.dedup.api import dedup as dedup
    from clipgap.dedup.api import plan_dedup as plan_dedup
    from clipgap.domains.api import fit_heads as fit_heads
    from clipgap.domains.audit import audited as audited
    from clipgap.domains.composition import composition as composition
    from clipgap.domains.labelling import label_domains as label_domains
    from clipgap.errors import ClipgapError as ClipgapError
    from clipgap.heads.heads import open_heads as open_heads
    from clipgap.mix.api import mix as mix
    from clipgap.report.api import report as report
    from clipgap.report.audit import audit_domains as audit_domains
    from clipgap.scan.api import gap as gap
    from clipgap.scan.api import plan_scan as plan_scan
    from clipgap.scan.api import scan as scan
    from clipgap.scan.result import ScanResult as ScanResult
    from clipgap.scan.result import open_scan as open_scan
    from clipgap.select.algebra import combine as combine
    from clipgap.select.splitting import split as split
    from clipgap.shards.api import filter_shards as filter_shards
    from clipgap.shards.matching import KeepSelector as KeepSelector
    from clipgap.shards.samples import KeepStage as KeepStage
    from clipgap.shards.samples import kept_samples as kept_samples
    from clipgap.store.base import Store as Store
    from clipgap.store.opening import open_store as open_store
    from clipgap.store.writer import StoreWriter as StoreWriter
    from clipgap.study.run import run_study as run_study
    from clipgap.verify.api import verify as verify
    from clipgap.verify.emulate import emulate as emulate
    from clipgap.verify.export import export as export

_HOMES = {
    "ClipgapError": "clipgap.errors",
    "EvalResult": "clipgap.clip.eval.api",
    "KeepSelector": "clipgap.shards.matching",
    "KeepStage": "clipgap.shards.samples",
    "ScanResult": "clipgap.scan.result",
    "Store": "clipgap.store.base",
    "StoreWriter": "clipgap.store.writer",
    "analyze": "clipgap.clip.analyze.api",
    "audit_domains": "clipgap.report.audit",
    "audited": "clipgap.domains.audit",
    "caption_folder": "clipgap.clip.data.captioned",
    "composition": "clipgap.domains.composition",
    "combine": "clipgap.select.algebra",
    "dedup": "clipgap.dedup.api",
    "embed": "clipgap.clip.embed.api",
    "emulate": "clipgap.verify.emulate",
    "evaluate": "clipgap.clip.eval.api",
    "export": "clipgap.verify.export",
    "filter_shards": "clipgap.shards.api",
    "fit_heads": "clipgap.domains.api",
    "gap": "clipgap.scan.api",
    "kept_samples": "clipgap.shards.samples",
    "label_domains": "clipgap.domains.labelling",
    "mix": "clipgap.mix.api",
    "open_analysis": "clipgap.clip.analyze.api",
    "open_heads": "clipgap.heads.heads",
    "open_evaluation": "clipgap.clip.eval.api",
    "open_scan": "clipgap.scan.result",
    "open_store": "clipgap.store.opening",
    "open_train": "clipgap.clip.train.api",
    "plan": "clipgap.bench.plan",
    "plan_dedup": "clipgap.dedup.api",
    "plan_embed": "clipgap.clip.embed.api",
    "plan_scan": "clipgap.scan.api",
    "report": "clipgap.report.api",
    "run_study": "clipgap.study.run",
    "scan": "clipgap.scan.api",
    "split": "clipgap.select.splitting",
    "train": "clipgap.clip.train.api",
    "verify": "clipgap.verify.api",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


class _Face(ModuleType):
    """`clipgap.scan` is the function, although there is a package of that name too."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing a package puts it into the one above it.
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
