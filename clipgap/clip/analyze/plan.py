"""What is going to be analysed: checked before any model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

from clipgap.clip.analyze.options import AnalyzeOptions, Reading
from clipgap.clip.analyze.similarity import LEAST_CLASSES
from clipgap.clip.eval.options import EvalOptions
from clipgap.clip.eval.plan import Checkpoint, plan_evaluation, read_classnames
from clipgap.clip.eval.sets import EvalSet, Files, Images, Item
from clipgap.clip.models import resolve_device
from clipgap.errors import InputError, UsageError
from clipgap.files.addresses import public
from clipgap.options import takes_options
from clipgap.packages import missing
from clipgap.shards.problems import OnProblem

_OF_THE_RESULT = ("blocks", "neurons", "steps", "circuits", "concepts", "map", "draws", "seed")


@dataclass(frozen=True)
class OfClasses:
    """The images of some classes of a set."""

    inner: Images
    labels: frozenset[int]

    @property
    def identity(self) -> str:
        return self.inner.identity

    @property
    def samples(self) -> int | None:
        if not isinstance(self.inner, Files):
            return None
        return sum(label in self.labels for label in self.inner.labels)

    def items(self, on_problem: OnProblem) -> Iterator[Item]:
        return (item for item in self.inner.items(on_problem) if item.label in self.labels)


@dataclass(frozen=True)
class AnalysisPlan:
    """Checkpoints, a set for each domain, and settings."""

    checkpoints: Sequence[Checkpoint]
    domains: Sequence[EvalSet]
    classes: Sequence[str]  # that are looked at, if not all
    reading: EvalOptions
    options: AnalyzeOptions

    def describe(self) -> dict[str, Any]:
        """What decides the result."""
        settings = {name: getattr(self.options, name) for name in _OF_THE_RESULT}
        # Products of other batches, and of other devices, are rounded in other ways.
        settings["batch_size"] = self.reading.batch_size
        settings["device"] = resolve_device(self.reading.device).partition(":")[0]
        return {
            "checkpoints": [checkpoint.describe() for checkpoint in self.checkpoints],
            "domains": [_describe(domain) for domain in self.domains],
            "classes": list(self.classes),
            "settings": settings,
        }


@takes_options
def plan_analysis(
    checkpoints: Sequence[str],
    data: Sequence[str],
    *,
    reading: Reading,
    options: AnalyzeOptions,
) -> AnalysisPlan:
    """Check what is to be analysed; see `analyze`."""
    plan = plan_evaluation(checkpoints, data, options=reading)
    for checkpoint in plan.checkpoints:
        if checkpoint.classes is not None:
            raise UsageError(
                f"{checkpoint.name}: is a classifier; an analysis looks into CLIP models, whose "
                "neurons are judged by prompts"
            )
    if len(plan.sets) < 2:
        raise UsageError("an analysis compares domains: name two or more with --data NAME=PATH")
    if options.circuits > options.neurons:
        raise UsageError(
            f"--circuits {options.circuits} leads between the top neurons of as many images at "
            f"most as --neurons says, {options.neurons}"
        )
    if options.map == "umap" and find_spec("umap") is None:
        raise missing("umap")
    only = () if options.only is None else read_classnames(options.only).keys
    domains = [_restricted(domain, only, options.only) for domain in plan.sets]
    known = {domain.name: seen for domain in domains if (seen := _classes_in(domain)) is not None}
    require_shared(known)
    return AnalysisPlan(plan.checkpoints, domains, only, reading, options)


def shared_classes(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """The classes that a pair of domains has in common, whatever others lack."""
    there = set(second)
    return [name for name in first if name in there]


def require_shared(classes: Mapping[str, Sequence[str]]) -> None:
    """Refuse domains that too few classes are in, to be compared by them."""
    for first, second in combinations(classes, 2):
        shared = shared_classes(classes[first], classes[second])
        if len(shared) < LEAST_CLASSES:
            raise InputError(
                f"{first} and {second} have images of {len(shared):,} classes in common; "
                f"to compare them takes {LEAST_CLASSES}, since an unbiased CKA is a mean over fours"
            )


def _restricted(domain: EvalSet, only: Sequence[str], file: Path | None) -> EvalSet:
    if not only:
        return domain
    labels = domain.classes.labels
    if unknown := [name for name in only if name not in labels]:
        raise InputError(
            f"{file}: {unknown[0]!r} is none of the {len(labels):,} classes of {domain.name}"
        )
    chosen = OfClasses(domain.images, frozenset(labels[name] for name in only))
    return replace(domain, images=chosen)


def _classes_in(domain: EvalSet) -> list[str] | None:
    """Those that the domain has images of, if that is known without reading it."""
    images, keys = domain.images, domain.classes.keys
    inner = images.inner if isinstance(images, OfClasses) else images
    if not isinstance(inner, Files):
        return None
    labels = set(inner.labels)
    if isinstance(images, OfClasses):
        labels &= images.labels
    return [keys[label] for label in sorted(labels)]


def _describe(domain: EvalSet) -> dict[str, Any]:
    return {
        "name": domain.name,
        "path": public(domain.path),
        "identity": domain.images.identity,
        "keys": list(domain.classes.keys),
        "classes": list(domain.classes.names),
        "templates": list(domain.classes.templates),
        "border": domain.border,
    }
