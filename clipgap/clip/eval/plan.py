"""What is going to be evaluated on what: checked before any model runs."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipgap.clip.checkpoints import checkpoint_file
from clipgap.clip.data.classes import Classes
from clipgap.clip.data.registry import registry, unknown_set
from clipgap.clip.eval.contenders import classes_of
from clipgap.clip.eval.options import EvalOptions
from clipgap.clip.eval.sets import EvalSet, labelled, open_set
from clipgap.clip.eval.subsets import read_subsets
from clipgap.clip.models import identify
from clipgap.clip.networks import HUB
from clipgap.clip.train.api import noted_of
from clipgap.errors import InputError, UsageError
from clipgap.files.addresses import public
from clipgap.files.atomic import sha256_file
from clipgap.files.remote import path_of
from clipgap.options import takes_options

_OF_THE_RESULT = ("precision", "draws", "seed")
"""Options that stand in the manifest; the others only say where and how fast."""

RANDOM = "random"
"""Name of random weights, which are asked for with an empty tag."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_LARGEST = 64 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A model with its weights: a CLIP model, or a trained classifier."""

    name: str
    model: str | None  # None for a classifier, whose checkpoint names its network
    pretrained: str | None  # None: the weights come from the hub with the model
    identity: Mapping[str, Any]
    classes: tuple[str, ...] | None = None  # of a classifier
    noted: Mapping[str, Any] = field(default_factory=dict)  # what its training has

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "model": self.model,
            "pretrained": self.identity["pretrained"],
            "sha256": self.identity["checkpoint_sha256"],
            "config_sha256": self.identity["config_sha256"],
            **self.noted,
        }


@dataclass(frozen=True)
class EvalPlan:
    """Checkpoints, sets and settings."""

    checkpoints: Sequence[Checkpoint]
    sets: Sequence[EvalSet]
    options: EvalOptions
    pools: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """What decides the result."""
        return {
            "checkpoints": [checkpoint.describe() for checkpoint in self.checkpoints],
            **({"pools": self.pools} if self.pools else {}),
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
    parted = _by_set("--subsets", options.subsets, names)
    if "" in parted:
        raise UsageError(
            f"--subsets {parted['']}: should be SET=FILE.toml or SET=KEEP, of one of the sets"
        )
    sets = []
    for named in named_sets:
        classes = _classes_for(named, found, named_classes, named_templates)
        entry = registry().get(named.name)
        opened = open_set(named.name, named.value, classes, entry, grouped.get(named.name))
        if named.name in parted:
            subsets = read_subsets(path_of(parted[named.name]), classes, labelled(opened.images))
            opened = replace(opened, subsets=subsets)
        sets.append(opened)
    return EvalPlan(found, sets, options, _pools(options.pool, [each.name for each in found]))


def _pools(texts: Sequence[str], checkpoints: Sequence[str]) -> dict[str, list[str]]:
    """NAME=CHECKPOINT,CHECKPOINT by name."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, _, value = text.partition("=")
        of = value.split(",")
        if not _NAME.fullmatch(name) or len(of) < 2 or len(set(of)) < len(of):
            raise UsageError(f"--pool {text}: should be NAME=CHECKPOINT,CHECKPOINT, each once")
        if strangers := [each for each in of if each not in checkpoints]:
            raise UsageError(
                f"--pool {text}: no checkpoint is called {strangers[0]!r}; there are "
                f"{', '.join(checkpoints)}"
            )
        if name in checkpoints or name in found:
            raise UsageError(f"--pool {text}: {name!r} is a name already")
        found[name] = of
    return found


def _checkpoint(named: Named, model: str | None) -> Checkpoint:
    path = checkpoint_file(named.value)
    classes = classes_of(path) if path is not None else None
    noted = {} if path is None else noted_of(path)
    if classes is not None and path is not None:
        identity: dict[str, Any] = {"pretrained": path.name, "checkpoint_sha256": sha256_file(path)}
        identity |= {"config_sha256": None}
        return Checkpoint(named.name, None, named.value, identity, classes, noted)
    if model is None:
        raise UsageError(
            f"{named.value or named.name}: name the model of this checkpoint with --model, such as "
            "ViT-B-32"
        )
    # The hub gives weights with the model, unless a file replaces them.
    pretrained = None if model.startswith(HUB) and path is None else named.value
    identity = identify(model, pretrained)
    return Checkpoint(named.name, model, pretrained, identity, noted=noted)


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
        classes = read_classnames(path_of(file))
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
        classes = replace(classes, templates=read_templates(path_of(prompts)))
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
        **({"subsets": [subset.describe() for subset in data.subsets]} if data.subsets else {}),
    }


# --- what a user calls checkpoints and sets: `path`, `name=path`, a pretrained tag


@dataclass(frozen=True)
class Named:
    """Something to evaluate, or to evaluate on."""

    name: str  # also that of a file or folder in the output
    value: str


def parse_checkpoints(texts: Sequence[str]) -> list[Named]:
    """Checkpoint files or pretrained tags, each with a name of its own.

    A file's name is its stem if nothing else is said, a tag's the tag.
    """
    if not texts:
        raise UsageError("no checkpoint given: name a file, NAME=FILE, or a pretrained tag")
    found = []
    for text in texts:
        name, value = _split(text)
        file = checkpoint_file(value)
        found.append(Named(name or (file.stem if file else value) or RANDOM, value))
    _check_names(found, "checkpoint", "Tell them apart with NAME=FILE")
    return found


def parse_sets(texts: Sequence[str]) -> list[Named]:
    """NAME=PATH for each set."""
    if not texts:
        raise UsageError("no set given: name one with --data NAME=PATH")
    found = []
    for text in texts:
        name, value = _split(text)
        if not name or not value:
            raise UsageError(f"--data {text}: should be NAME=PATH")
        found.append(Named(name, value))
    _check_names(found, "set", "Each set needs a name of its own")
    return found


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    return (name, value) if equals and "/" not in name else ("", text)


def _check_names(found: Sequence[Named], noun: str, remedy: str) -> None:
    for item in found:
        if not _NAME.fullmatch(item.name):
            raise UsageError(
                f"{item.name!r} cannot be the name of a {noun}: names of files are made of it, so "
                "it may hold letters, digits and _ . + - only. Give another: NAME=" + item.value
            )
    # Names become names of files, and some disks take capital and small letters for the same.
    counts = Counter(item.name.lower() for item in found)
    if twice := [item.name for item in found if counts[item.name.lower()] > 1]:
        raise UsageError(f"{len(twice):,} {noun}s are called {twice[0]!r}. {remedy}.")


# --- class names and prompts that a user gives in files


def read_classnames(path: Path) -> Classes:
    """A class a line: its name, or its folder, a tab, and the name that prompts call it."""
    keys, names = [], []
    for number, line in _lines(path):
        key, tab, name = line.partition("\t")
        key, name = key.strip(), (name if tab else key).strip()
        if not key or not name:
            raise InputError(f"{path}, line {number:,}: a folder or a name is missing")
        keys.append(key)
        names.append(name)
    if len(keys) < 2:
        raise InputError(f"{path}: names {len(keys):,} classes; to choose, it takes two at least")
    key, count = Counter(keys).most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: class {key!r} is named {count:,} times")
    plain = Classes.plain(keys, ())
    return replace(plain, names=tuple(names))


def read_templates(path: Path) -> tuple[str, ...]:
    """A prompt a line, with {} where the class's name goes."""
    found = []
    for number, line in _lines(path):
        template = line.strip().replace("{c}", "{}")
        if not _is_template(template):
            raise InputError(
                f"{path}, line {number:,}: {template[:80]!r} should hold {{}} once, where the "
                "name of the class goes, and no other braces"
            )
        found.append(template)
    if not found:
        raise InputError(f"{path}: holds no prompt. Write one a line, such as: a photo of a {{}}.")
    return tuple(found)


def _is_template(template: str) -> bool:
    try:
        fields = [field for _, field, *_ in string.Formatter().parse(template) if field is not None]
    except ValueError:
        return False
    return fields == [""] and "{}" in template


def _lines(path: Path) -> Sequence[tuple[int, str]]:
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{path}: has more than {_LARGEST:,} bytes; is it a list of lines?")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    return [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
