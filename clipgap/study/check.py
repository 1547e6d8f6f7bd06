"""`clipgap check`: from images to what of the test sets lies in a training set.

What is given may be images or embeddings, so the stages differ from call to call: a recipe of just
those is written, and run like any other. It stays in the folder, as `.study/recipe.toml`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import command
from clipgap.cli.shell import Shell
from clipgap.clip.embed.options import EmbedOptions
from clipgap.errors import InputError, UsageError
from clipgap.files.naming import read_pairs
from clipgap.options import REQUIRED, Only, argument, option
from clipgap.sheets import Sheet
from clipgap.study.command import run_and_show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.clip.embed.api import EmbedPlan
    from clipgap.store.provenance import Models
    from clipgap.study.run import StudyResult

TRAIN, REFERENCE = "train", "reference"
DEFAULT_MODEL, DEFAULT_WEIGHTS = "ViT-B-32", "openai"
COPY = 0.95
"""From which similarity on an image counts as a copy, where no reference set says it better."""

_STAGES = (TRAIN, REFERENCE, "gap", "scan", "keep", "proof", "report")
Device = Annotated[EmbedOptions, Only("device", "precision")]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "check", "photos/train --against val=photos/val -o out")(check)


def check(
    shell: Shell,
    options: Device,
    train: str = argument(
        "The training set: a folder of images, tar shards, parquet with images, or a store of "
        "embeddings.",
        metavar="IMAGES|SHARDS|STORE",
    ),
    against: tuple[str, ...] = option(
        REQUIRED, "A test set, and what to call it. Repeatable.", metavar="NAME=IMAGES|STORE"
    ),
    reference: str | None = option(
        None,
        "Images that may well be alike: what is nearer to a test image than its nearest one of "
        "these leaks, whatever the similarity.",
        metavar="IMAGES|STORE",
    ),
    above: float | None = option(
        None,
        "Without --reference: what is more similar than S to a test image leaks.",
        metavar="S",
        min=-1,
        max=1,
        shown=str(COPY),
    ),
    model: str | None = option(
        None,
        "What embeds images, as for `clipgap embed`.",
        metavar="MODEL",
        shown=f"that of the stores given, or {DEFAULT_MODEL}",
    ),
    pretrained: str | None = option(
        None,
        "Its weights, a tag or a file.",
        metavar="WEIGHTS",
        shown=f"those of the stores given, or {DEFAULT_WEIGHTS}",
    ),
    dry_run: bool = option(False, "Say what would be done and what it would take, and stop."),
    out: Path = option(
        Path("clipgap-check"),
        "Where to put everything.",
        flags=("--out", "-o"),
        metavar="FOLDER",
    ),
) -> int:
    """Say what of the test sets lies in a training set: from images to a page.

    Embeds what is not embedded yet, compares every training image with every test image, and ends
    with counts, a gallery of what leaks, and a proved keep-list without it. The same command goes
    on after a stop.
    """
    from clipgap.study.ledger import FOLDER
    from clipgap.study.recipe import parse_recipe
    from clipgap.study.run import Study

    if reference is not None and above is not None:
        raise UsageError("--above does nothing with --reference, which says what is near")
    given = _inputs(train, against, reference)
    images = [each for each in given.values() if not each.is_store]
    chosen = _model(model, pretrained, list(given.values())) if images else None
    if chosen is None and (model or pretrained):
        raise UsageError("all that is given is embedded already; leave --model and --pretrained")
    limit = COPY if above is None else above
    text = compose(given, None if reference else limit, chosen, options)
    settings = {name: each.where for name, each in given.items()}
    study = Study(parse_recipe(text, out / FOLDER / "recipe.toml", settings), out)
    to_run = study.plan().to_run
    waiting = [each for each in images if f"embed-{each.name}" in to_run]
    price = list(_price(waiting, chosen, options)) if chosen and waiting else []
    if dry_run:
        shell.result({"price": price, "stages": to_run, "recipe": text}, [*price, "", text])
        return 0
    for line in price:
        shell.note(line)
    tests = [name for name in given if name not in (TRAIN, REFERENCE)]

    def ending(result: StudyResult) -> Iterator[RenderableType]:
        return _finding(result.folder, given[TRAIN], tests, None if reference else limit)

    return run_and_show(shell, study, ending=ending)


# --- what is given


@dataclass(frozen=True)
class Input:
    """A training, test or reference set as it was given."""

    name: str
    where: str
    models: Models | None  # of a store; None: these are images
    in_tars: bool = False

    @property
    def is_store(self) -> bool:
        return self.models is not None


def _inputs(train: str, against: Sequence[str], reference: str | None) -> dict[str, Input]:
    """All that is given, by name; whatever it is called elsewhere, the training set comes first."""
    from clipgap.study.recipe import NAME

    places = {TRAIN: train}
    advice = "each test set needs its own name"
    for name, where in read_pairs(against, "--against", "IMAGES", advice).items():
        if name in _STAGES or not NAME.fullmatch(name):
            raise UsageError(
                f"--against {name}=…: a test set cannot be called that; take a letter and then "
                f"letters, digits, - and _, and none of {', '.join(_STAGES)}"
            )
        places[name] = where
    if reference is not None:
        places[REFERENCE] = reference
    return {name: _input(name, where) for name, where in places.items()}


def _input(name: str, where: str) -> Input:
    """A store, if it is one of embeddings, and images otherwise."""
    from clipgap.clip.embed.sources import TarUnit, find_units
    from clipgap.store.opening import open_store

    try:
        return Input(name, where, open_store(where).models)
    except InputError as no_store:
        try:
            units = find_units(where)
        except InputError as no_images:
            raise InputError(f"{no_store}\nIt holds no images either: {no_images}") from no_images
    return Input(name, where, None, isinstance(units[0], TarUnit))


@dataclass(frozen=True)
class Chosen:
    """The model that embeds, and why it is that."""

    model: str
    pretrained: str | None
    why: str


def _model(model: str | None, pretrained: str | None, given: Sequence[Input]) -> Chosen:
    if model is not None:
        return Chosen(model, pretrained, "as named")
    known = [(each.where, one) for each in given for one in each.models or () if one]
    stores = [each.where for each in given if each.is_store]
    if stores and not known:
        raise UsageError(
            f"nothing says which model embedded {stores[0]}; name it with --model and "
            "--pretrained, so that images are embedded by the same one"
        )
    if known:
        where, found = known[0]
        if found.get("config_sha256") or found.get("checkpoint_sha256"):
            raise UsageError(
                f"{where} was embedded by {found['model']} with weights from a file of yours; name "
                "both with --model and --pretrained"
            )
        weights = pretrained if pretrained is not None else found.get("pretrained")
        return Chosen(str(found["model"]), weights, f"as {where}")
    weights = DEFAULT_WEIGHTS if pretrained is None else pretrained
    return Chosen(DEFAULT_MODEL, weights, "unless --model names another")


# --- the recipe


def compose(
    given: Mapping[str, Input], limit: float | None, chosen: Chosen | None, options: EmbedOptions
) -> str:
    """The recipe for just these inputs; with a reference there is no limit."""
    tests = [name for name in given if name not in (TRAIN, REFERENCE)]
    shown = [name for name, each in given.items() if not each.is_store]
    place = {name: name if each.is_store else f"embed-{name}" for name, each in given.items()}
    lines = [
        "[study]",
        'title = "What of the test sets lies in the training set"',
        'show = ["keep", "report"]',
        "",
        "[paths]",
        *(f"{name} = {{ about = {_text(_about(name))} }}" for name in given),
    ]
    for name in shown:
        assert chosen is not None, "there are images"
        lines += _stage(f"embed-{name}", "embed", data=f"{{{name}}}", model=chosen.model)
        if chosen.pretrained is not None:
            lines.append(f"pretrained = {_text(chosen.pretrained)}")
        lines += [f'device = "{options.device}"', f'precision = "{options.precision}"']
    sets = [f"{name}={{{place[name]}}}" for name in tests]
    if limit is None:
        lines += _stage("gap", "gap", ref=f"{{{place[REFERENCE]}}}", test=sets)
    gap = {"gap": "{gap}"} if limit is None else {}
    lines += _stage("scan", "scan", train=f"{{{place[TRAIN]}}}", test=sets, **gap)
    rule: dict[str, Any] = {"prune": tests} if limit is None else {"below": limit, "by": tests}
    lines += _stage("keep", "split", source=["{scan}"], **rule)
    lines += _stage("proof", "verify", path="{keep}")
    seen: dict[str, Any] = {"reference": "reference={gap}"} if limit is None else {}
    if shown:
        seen["images"] = [f"{name}={{{name}}}" for name in shown]
    lines += _stage("report", "report", scan=["train={scan}"], split=["keep={keep}"], **seen)
    return "\n".join(lines) + "\n"


def _about(name: str) -> str:
    known = {TRAIN: "the training set", REFERENCE: "the reference set"}
    return known.get(name, f"the test set {name}")


def _stage(name: str, command: str, **options: Any) -> list[str]:
    values = {key: _value(value) for key, value in {"command": command, **options}.items()}
    return ["", f"[stages.{name}]", *(f"{key} = {value}" for key, value in values.items())]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return _text(value) if isinstance(value, str) else repr(value)


def _text(value: str) -> str:
    """A string as TOML writes it; what it holds is as it was typed, so quotes may be in it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# --- what it takes, and what came of it


def _price(images: Sequence[Input], chosen: Chosen, options: EmbedOptions) -> Iterator[str]:
    """Which model embeds how many images, and for how long, by a first batch."""
    from clipgap.clip.embed.api import images_per_second, plan_embed

    weights = chosen.pretrained
    plans = [plan_embed(each.where, chosen.model, weights, options=options) for each in images]
    named = {None: "its own weights", "": "random weights"}.get(weights, f"weights {weights}")
    yield f"Images are embedded by {chosen.model}, {named} ({chosen.why})."
    counts = [plan.images for plan in plans]
    for each, plan, count in zip(images, plans, counts, strict=True):
        number = "a number of images known once its tars are read"
        number = number if count is None else words.plural(count, "image")
        yield f"  {each.name} ({each.where}): {number}, {words.size(plan.bytes)}"
    yield f"  {_time(plans, counts, images_per_second)}"


def _time(plans: Sequence[EmbedPlan], counts: Sequence[int | None], rate_of: Any) -> str:
    known = [count for count in counts if count is not None]
    rate = rate_of(plans[0])
    if rate is None:
        return "How long that takes shows once the weights are downloaded and a batch is through."
    speed = f"{words.count(max(rate, 1))} images/s in a first batch here"
    if len(known) < len(counts):
        return f"At {speed}; how many images there are is not known yet."
    return f"About {words.duration(max(1, sum(known) / rate))}, at {speed}."


def _finding(
    folder: Path, train: Input, tests: Sequence[str], limit: float | None
) -> Iterator[RenderableType]:
    """What leaks of each test set, what is left, and where to look."""
    import numpy as np

    from clipgap.keep.lists import open_keep
    from clipgap.scan.result import open_scan

    scan, keep = open_scan(folder / "scan"), open_keep(folder / "keep")
    how = f"more similar than {limit}" if limit is not None else "nearer than any reference image"
    table = Sheet(("test set", "images", "leaked", "share", "training images"))
    leaks = 0
    for name in tests:
        near = scan.tau(name)
        limits = limit if limit is not None else scan.test(name)["gap"].to_numpy()
        leaked, points = int(np.count_nonzero(near > limits)), len(near)
        leaks += leaked
        rows = keep.sizes["by_set"][name]["removed"]
        share = f"{leaked / points:.1%}" if points else ""
        table.add(name, *map(words.count, (points, leaked)), share, words.count(rows))
    yield table
    removed = int(keep.sizes["removed"])
    yield words.Sentence(
        f"{words.plural(leaks, 'test image')} {'has' if leaks == 1 else 'have'} a training image "
        f"{how}. Without {words.plural(removed, 'training image')}, {words.count(keep.kept)} are "
        "left, and none of them leaks: that is proved."
    )
    yield f"Keep-list: {folder / 'keep'}"
    if train.in_tars:
        where = shlex.quote(train.where)
        yield f"To use it: clipgap filter {where} --keep {shlex.quote(str(keep.path))} -o clean"
    yield f"Open {folder / 'report' / 'index.html'}"
