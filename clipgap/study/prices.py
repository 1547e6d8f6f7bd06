"""What the stages of a recipe would take, from how much its paths hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipgap.bench.options import Doing, Rates
from clipgap.bench.plan import Prices, Projection
from clipgap.bench.plan import Stage as Priced
from clipgap.bench.rates import number
from clipgap.bench.towers import Towers, towers
from clipgap.errors import UsageError
from clipgap.files.naming import read_pairs
from clipgap.study.expand import Stage, expand, ordered, substitute
from clipgap.study.recipe import Recipe, find_recipe, read_recipe

_NAMED = re.compile(r"\{([A-Za-z][A-Za-z0-9_-]*)\}")
_TRAINED = {"vit-b-32-paper": "ViT-B-32"}
_PASSES_ON = {
    "data caption": ("path",),
    "data link": ("path",),
    "split": ("source",),
    "filter": ("shards",),
    "dedup": ("store",),
}
"""Commands that leave as many rows as they read, if nobody says otherwise, and what they read."""


def plan_recipe(
    named: str | Path, counts: Sequence[str], *, doing: Doing, rates: Rates
) -> tuple[Projection, Mapping[str, str]]:
    """Its stages one after the other, and why some are not in it.

    `counts` are NAME=N: rows that a path holds, or a stage leaves. A keep-list is taken to keep
    everything unless one says how much it keeps.
    """
    recipe = read_recipe(find_recipe(named))
    said = read_pairs(counts, "--count", "N")
    pricing = _Pricing(
        recipe, {name: round(number("count", text)) for name, text in said.items()}, doing, rates
    )
    stages = ordered(expand(recipe, Path(f"clipgap-{recipe.name}")))
    for name in said:
        if name not in recipe.paths and name not in stages:
            raise UsageError(f"--count {name}: {recipe.file} has no such path or stage")
    priced = [found for stage in stages.values() if (found := pricing.stage(stage)) is not None]
    if pricing.missing:
        raise UsageError(
            "how much do these hold? Give --count NAME=N for " + ", ".join(pricing.missing)
        )
    return pricing.prices.projection(priced), pricing.left_out


class _Unknown(Exception):
    """Why a stage has no price."""


def _known(model: str) -> Towers:
    try:
        return towers(model)
    except UsageError as error:
        raise _Unknown(str(error)) from error


@dataclass
class _Pricing:
    """What is known so far of rows and dimensions, by path and stage."""

    recipe: Recipe
    rows: dict[str, int]
    doing: Doing
    rates: Rates
    dims: dict[str, int] = field(default_factory=dict)
    missing: dict[str, None] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prices = Prices(self.rates, self.doing)

    def stage(self, stage: Stage) -> Priced | None:
        """One that is planned; what it leaves is known afterwards, whether it is or not."""
        make = getattr(self, f"_{stage.command.name.replace(' ', '_')}", None)
        if make is None:
            reads = _PASSES_ON.get(stage.command.name, ())
            if reads:
                self._leaves(stage, self._count(stage, reads[0]), 0)
            self.left_out[stage.name] = f"what `{stage.command.name}` takes is not known"
            return None
        try:
            priced: Priced = make(stage)
        except _Unknown as why:
            self.left_out[stage.name] = str(why)
            return None
        return priced

    def _embed(self, stage: Stage) -> Priced:
        images, model = self._count(stage, "data"), self._text(stage, "model")
        self._leaves(stage, images, 0)
        self.dims[stage.name] = _known(model).dim
        return self.prices.embed(stage.name, images, model)

    def _gap(self, stage: Stage) -> Priced:
        return self._scores(stage, "ref", gap=False)

    def _scan(self, stage: Stage) -> Priced:
        return self._scores(stage, "train", gap="gap" in stage.options)

    def _scores(self, stage: Stage, reads: str, gap: bool) -> Priced:
        rows, points = self._count(stage, reads), self._count(stage, "test")
        dim = self._dim(stage, reads)
        self._leaves(stage, rows, dim)
        sets = len(self._listed(stage, "test"))
        return self.prices.scan(stage.name, rows, max(1, points), sets, dim, 2.0 * dim + 12, gap)

    def _split(self, stage: Stage) -> Priced:
        rows = self._count(stage, "source")
        kept = self._count(stage, "within") if "within" in stage.options else rows
        self._leaves(stage, kept, 0)
        return self.prices.split(stage.name, rows, max(1, len(self._listed(stage, "prune"))))

    def _dedup(self, stage: Stage) -> Priced:
        rows, dim = self._count(stage, "store"), self._dim(stage, "store")
        self._leaves(stage, rows, dim)
        clusters = self._text(stage, "clusters")
        iterations = int(self._text(stage, "iterations") or self.doing.iterations)
        return self.prices.dedup(
            stage.name, rows, dim, int(clusters) if clusters else None, iterations
        )

    def _train(self, stage: Stage) -> Priced:
        seen = self._count(stage, "keep" if "keep" in stage.options else "train-data")
        if "add-reference" in stage.options:
            seen += self._count(stage, "add-reference")
        epochs = int(self._text(stage, "epochs") or self.doing.epochs)
        return self.prices.train(stage.name, seen * epochs, self._trained(stage))

    def _eval(self, stage: Stage) -> Priced:
        images = self._count(stage, "data") * len(self._listed(stage, "checkpoints"))
        return self.prices.evaluate(stage.name, images, self._trained(stage))

    def _trained(self, stage: Stage) -> str:
        if arch := self._text(stage, "arch"):
            raise _Unknown(f"what {arch} takes is not known")
        recipe = self._text(stage, "recipe")
        model = self._text(stage, "model") or _TRAINED.get(recipe) or self.doing.model
        if not model:
            raise _Unknown("it names no model; give --model")
        _known(model)
        return model

    # --- what a stage reads

    def _leaves(self, stage: Stage, rows: int, dim: int) -> None:
        self.rows.setdefault(stage.name, rows)
        self.dims[stage.name] = dim

    def _count(self, stage: Stage, key: str) -> int:
        """All rows of what an option names; what nobody has said is noted as missing."""
        rows = 0
        for name in self._names(stage, key):
            if name not in self.rows:
                self.missing[name] = None
            rows += self.rows.get(name, 1)
        return max(1, rows)

    def _dim(self, stage: Stage, key: str) -> int:
        found = [self.dims[name] for name in self._names(stage, key) if self.dims.get(name)]
        if found:
            return found[0]
        if self.doing.model is None:
            raise UsageError(f"stage {stage.name} reads embeddings of unknown size; give --model")
        return towers(self.doing.model).dim

    def _names(self, stage: Stage, key: str) -> list[str]:
        """The paths and stages that an option names."""
        found = (name for item in self._listed(stage, key) for name in _NAMED.findall(item))
        return [name for name in found if name not in self.recipe.values]

    def _text(self, stage: Stage, key: str) -> str:
        items = self._listed(stage, key)
        return substitute(items[0], self._meaning) if items else ""

    def _meaning(self, name: str) -> str:
        place = self.recipe.paths.get(name)
        return str(self.recipe.values.get(name, "")) if place is None else place.where

    def _listed(self, stage: Stage, key: str) -> Sequence[str]:
        value = stage.options.get(key, ())
        return () if isinstance(value, bool) else value
