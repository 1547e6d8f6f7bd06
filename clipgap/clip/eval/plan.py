"""What is going to be evaluated on what: checked before any model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipgap.clip.checkpoints import checkpoint_file
from clipgap.clip.data.classes import Classes
from clipgap.clip.data.registry import registry, unknown_set
from clipgap.clip.eval.classifier import classes_of
from clipgap.clip.eval.naming import Named, parse_checkpoints, parse_sets
from clipgap.clip.eval.options import EvalOptions
from clipgap.clip.eval.prompts import read_classnames, read_templates
from clipgap.clip.eval.sets import EvalSet, open_set
from clipgap.clip.models import identify
from clipgap.clip.networks import HUB
from clipgap.errors import UsageError
from clipgap.files.addresses import public
from clipgap.files.atomic import sha256_file
from clipgap.options import takes_options

_OF_THE_RESULT = ("precision", "draws", "seed")
"""Options that stand in the manifest; the others only say where and how fast."""


@dataclass(frozen=True)
class Checkpoint:
    """A model with its weights: a CLIP model, or a trained classifier."""

    name: str
    model: str | None  # None for a classifier, whose checkpoint names its network
    pretrained: str | None  # None: the weights come from the hub with the model
    identity: Mapping[str, Any]
    classes: tuple[str, ...] | None = None  # of a classifier

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "model": self.model,
            "pretrained": self.identity["pretrained"],
            "sha256": self.identity["checkpoint_sha256"],
            "config_sha256": self.identity["config_sha256"],
        }


@dataclass(frozen=True)
class EvalPlan:
    """Checkpoints, sets and settings."""

    checkpoints: Sequence[Checkpoint]
    sets: Sequence[EvalSet]
    options: EvalOptions

    def describe(self) -> dict[str, Any]:
        """What decides the result."""
        return {
            "checkpoints": [checkpoint.describe() for checkpoint in self.checkpoints],
            "sets": [_describe(data) for data in self.sets],
            "settings": {name: getattr(self.options, name) for name in _OF_THE_RESULT},
        }


@takes_options
def plan_evaluation(
    checkpoints: Sequence[str],
    data: Sequence[str],
    *,
    options: EvalOptions,
) -> EvalPlan:
    """Check what is to be evaluated; see `evaluate`."""
    named_sets = parse_sets(data)
    found = [_checkpoint(named, options.model) for named in parse_checkpoints(checkpoints)]
    names = {named.name for named in named_sets}
    named_classes = _by_set("--classnames", options.classnames, names)
    named_templates = _by_set("--templates", options.templates, names)
    grouped = _by_set("--group-by", options.group_by, names)
    if "" in grouped:
        raise UsageError(f"--group-by {grouped['']}: should be SET=COLUMN")
    sets = []
    for named in named_sets:
        classes = _classes_for(named, found, named_classes, named_templates)
        entry = registry().get(named.name)
        sets.append(open_set(named.name, named.value, classes, entry, grouped.get(named.name)))
    return EvalPlan(found, sets, options)


def _checkpoint(named: Named, model: str | None) -> Checkpoint:
    path = checkpoint_file(named.value)
    classes = classes_of(path) if path is not None else None
    if classes is not None and path is not None:
        identity = {"pretrained": path.name, "checkpoint_sha256": sha256_file(path)}
        return Checkpoint(
            named.name, None, named.value, {**identity, "config_sha256": None}, classes
        )
    if model is None:
        raise UsageError(
            f"{named.value or named.name}: name the model of this checkpoint with --model, such as "
            "ViT-B-32"
        )
    # The hub gives weights with the model, unless a file replaces them.
    pretrained = None if model.startswith(HUB) and path is None else named.value
    return Checkpoint(named.name, model, pretrained, identify(model, pretrained))


def _classes_for(
    named: Named,
    checkpoints: Sequence[Checkpoint],
    classnames: Mapping[str, str],
    templates: Mapping[str, str],
) -> Classes:
    """Classes of a set: as the user says for it, as clipgap knows them, as the user says for all
    others, or as classifiers were trained on."""
    entry = registry().get(named.name)
    zero_shot = [each for each in checkpoints if each.classes is None]
    file = classnames.get(named.name) or (classnames.get("") if entry is None else None)
    prompts = templates.get(named.name) or (templates.get("") if entry is None else None)
    if file is not None:
        classes = read_classnames(Path(file))
        if entry is not None:
            if len(classes) != len(entry.keys):
                raise UsageError(
                    f"--classnames {named.name}={file}: names {len(classes):,} classes, "
                    f"{named.name} has {len(entry.keys):,}"
                )
            classes = replace(entry.classes, names=classes.names)
    elif entry is not None:
        classes = entry.classes
    elif not zero_shot and len({each.classes for each in checkpoints}) == 1:
        classes = Classes.plain(checkpoints[0].classes or (), ())
    else:
        raise unknown_set(named.name)
    if prompts is not None:
        classes = replace(classes, templates=read_templates(Path(prompts)))
    if zero_shot and not classes.templates:
        raise UsageError(
            f"--data {named.name}={named.value}: prompts are missing. Give a file with one a line "
            "with --templates, such as: a photo of a {}."
        )
    return classes


def _by_set(option: str, values: Sequence[str], names: set[str]) -> dict[str, str]:
    """SET=VALUE by set; a value without a set belongs to all sets that clipgap does not know."""
    found: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        name, value = (name, value) if equals and name in names else ("", text)
        if name in found:
            raise UsageError(f"{option} {text}: was given twice; write SET=… to tell them apart")
        found[name] = value
    return found


def _describe(data: EvalSet) -> dict[str, Any]:
    return {
        "name": data.name,
        "path": public(data.path),
        "identity": data.images.identity,
        "classes": list(data.classes.names),
        "keys": list(data.classes.keys),
        "templates": list(data.classes.templates),
        "border": data.border,
    }
