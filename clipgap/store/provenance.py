"""By which model the rows of a store were made, and whether stores can be compared at all.

Scores between rows of two models are numbers like any others, and mean nothing. So wherever stores
meet, what is known of their models is compared: the model itself, its weights, and what was done
to an image before it saw it. What nobody wrote down cannot be compared, and that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipgap.errors import InputError
from clipgap.files.documents import Form, parse_document
from clipgap.files.volumes import File, read_bytes
from clipgap.store.options import Mixing

IDENTITY = {
    "model": str,
    "config_sha256": (None, str),
    "pretrained": str,
    "checkpoint_sha256": (None, str),
}
"""What a document says of a model: names, and checksums of local files."""

EMBED = "clipgap-embed"
"""The form of the manifest beside a store that was made of images."""

_EMBED = Form(EMBED, "store of embeddings", {"model": IDENTITY, "preprocess": dict})

Model = Mapping[str, Any]
"""Of what is in `IDENTITY`, and `preprocess`, as much as is known."""

Models = Sequence["Model | None"]
"""The models of the parts of a store, each once; None for parts of which nothing is known."""

UNKNOWN: Models = (None,)

MODELS = (None, [(None, {"model": str, "preprocess": (None, dict)})])
"""How a document says it of a store; it says nothing of one of which nothing is known."""


def read_model(manifest: File) -> Model | None:
    """What the manifest beside a store says of the model; None if it is not about that."""
    content = read_bytes(manifest, 0, manifest.size)
    document = parse_document(content, manifest.path, _EMBED)
    if document is None:
        return None
    return {**document["model"], "preprocess": document["preprocess"]}


def each_once(models: Iterable[Model | None]) -> Models:
    """The models of the parts of a store, each once."""
    found: list[Model | None] = []
    for model in models:
        if model not in found:
            found.append(model)
    return tuple(found)


def models_in(store: Mapping[str, Any]) -> Models:
    """What a manifest says of the models of a store."""
    return store.get("models") or UNKNOWN


@dataclass(frozen=True)
class Meeting:
    """What came of comparing stores by their models."""

    notes: tuple[str, ...] = ()
    is_mixed: bool = False


def meet(stores: Mapping[str, Models], mixing: Mixing) -> Meeting:
    """Compare the models of stores, each under what a message calls it.

    Different ones are refused, or noted where that is allowed.
    """
    known = [(name, model) for name, models in stores.items() for model in models if model]
    if problems := list(_disagreements(known)):
        if not mixing.mixed_models:
            raise InputError.listing(
                "these stores were embedded in different ways, so similarities between them mean "
                "nothing. Embed them with the same model, weights and preprocessing, or go on all "
                "the same with --mixed-models:",
                problems,
            )
        return Meeting((f"stores of different models meet: {'; '.join(problems)}",), True)
    unknown = [name for name, models in stores.items() if None in models]
    if not unknown:
        return Meeting()
    first, more = unknown[0], len(unknown) - 1
    which = f"{first} and {more} more" if more > 1 else " and ".join(unknown)
    return Meeting((f"nothing says which model embedded {which}; it has to be the same for all",))


def _disagreements(known: Sequence[tuple[str, Model]]) -> Iterator[str]:
    """Each thing in which a store differs from the first that says anything about it."""
    for what, value_of, differ in _COMPARED:
        said = [(name, value) for name, model in known if (value := value_of(model)) is not None]
        for name, value in said[1:]:
            if different := differ(said[0][1], value):
                yield f"{what} of {said[0][0]}: {different[0]}; of {name}: {different[1]}"


def _network(model: Model) -> tuple[str, str] | None:
    """What tells networks apart, and what the network is called."""
    name = str(model["model"])
    if sum_of_config := model.get("config_sha256"):
        return str(sum_of_config), f"{name} (SHA-256 {sum_of_config[:12]}…)"
    plain = name.replace("/", "-")
    if model.get("pretrained") == "openai":  # open_clip gives these weights that activation anyway
        plain = re.sub(r"-quickgelu$", "", plain)
    return plain, name


def _weights(model: Model) -> tuple[str, str] | None:
    name = model.get("pretrained")
    if name is None:
        return None
    if sum_of_file := model.get("checkpoint_sha256"):
        return str(sum_of_file), f"{name} (SHA-256 {sum_of_file[:12]}…)"
    return name, name or "random ones"


def _preprocessing(model: Model) -> Mapping[str, Any] | None:
    return model.get("preprocess")


def _names(ours: tuple[str, str], theirs: tuple[str, str]) -> tuple[str, str] | None:
    return None if ours[0] == theirs[0] else (ours[1], theirs[1])


def _entries(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, str] | None:
    """The entries in which they differ, such as the mean and the deviation of the normalisation."""
    keys = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    if not keys:
        return None
    shown = (", ".join(f"{key} {each.get(key)}" for key in keys) for each in (ours, theirs))
    return next(shown), next(shown)


_COMPARED: tuple[tuple[str, Any, Any], ...] = (
    ("model", _network, _names),
    ("weights", _weights, _names),
    ("preprocessing", _preprocessing, _entries),
)
