"""A recipe of mixes: a TOML file, checked for its shape, and handed on as plain data.

    [pool]         store, labels = [TABLE, …], domain = COLUMN, within = KEEP; base and extra =
                   [SOURCE, …]
    [task]         natural and test: domains; queried: classes
    [draw]         seed, order = "hash" or "file"
    [mixes.NAME]   rule = "…", and that rule's keys

Paths are seen from the recipe. What a rule makes of its keys is told in `clipgap.mix.rules`. A
`Plan` is all that a mix follows from besides its pool, and goes into the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from clipgap.errors import InputError, UsageError
from clipgap.files.documents import is_count
from clipgap.files.naming import beside
from clipgap.files.toml import Lines, ParseError, nearest, parse
from clipgap.mix.options import MixOptions

ORDERS = ("hash", "file")
DIVERSITIES = ("low", "high")


@dataclass(frozen=True)
class Rule:
    """What may and must be said of a mix. `needs` are entries of [task]."""

    must: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    sized: bool = False  # has no size of its own: wants rows or like


_SIZE = ("rows", "like")
_CG = ("natural", "test", "queried")

RULES: Mapping[str, Rule] = {
    "ratio": Rule(("parts",), _SIZE, sized=True),
    "counts": Rule(("parts",)),
    "steps": Rule(("fixed", "added", "step")),
    "random": Rule((), (*_SIZE, "domains"), sized=True),
    "natural-only": Rule((), _SIZE, ("natural",)),
    "leave-domain-out": Rule((), _SIZE, ("test",)),
    "low-diversity": Rule((), _SIZE, _CG),
    "high-diversity": Rule((), _SIZE, ("test", "queried")),
    "domains": Rule(("domains",), _SIZE),
    "upper-bound": Rule((), (*_SIZE, "diversity"), _CG),
    "share-seen": Rule(("share",), (*_SIZE, "diversity"), _CG),
    "others-added": Rule(("source",), (*_SIZE, "diversity", "added"), _CG),
    "others-mixed": Rule(("classes",), (*_SIZE, "diversity"), _CG),
}


@dataclass(frozen=True)
class Plan:
    """One mix, with all that it refers to, as plain data."""

    mix: str
    mixes: Mapping[str, Mapping[str, Any]]
    task: Mapping[str, Any] = field(default_factory=dict)  # natural, test, queried
    base: Sequence[str] = ()  # sources that every mix keeps whole
    extra: Sequence[str] = ()  # sources that only `others-added` draws from
    domain: str = "domain"  # the column that says the domain
    seed: int = 0
    order: str = "hash"

    def to_json(self) -> dict[str, Any]:
        return {
            "mix": self.mix,
            "mixes": {name: dict(self.mixes[name]) for name in self.chain()},
            "task": dict(self.task),
            "base": list(self.base),
            "extra": list(self.extra),
            "domain": self.domain,
            "seed": self.seed,
            "order": self.order,
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Plan:
        """What `to_json` gave, of a manifest."""
        return cls(**{each.name: said[each.name] for each in fields(cls)})

    def chain(self) -> list[str]:
        """The mix, the one whose size it has, and so on."""
        names = [self.mix]
        while (other := self.mixes[names[-1]].get("like")) is not None:
            if other not in self.mixes:
                raise InputError(
                    f"mix {names[-1]!r} is to be like {other!r}, which is not there; "
                    f"{nearest(other, list(self.mixes))}"
                )
            if other in names:
                raise InputError(f"mixes are to be like each other: {', '.join([*names, other])}")
            names.append(other)
        return names


@dataclass(frozen=True)
class Recipe:
    """A plan, and where its pool lies."""

    plan: Plan
    store: str
    labels: tuple[str, ...]
    within: str | None


def read_recipe(file: Path, options: MixOptions) -> Recipe:
    """The mix that is asked for; refuses what the file or the call leaves open."""
    try:
        text = file.read_text(encoding="utf-8")
        document = parse(text, parse_float=Decimal)
    except OSError as error:
        raise InputError(f"cannot read the recipe {file}: {error.strerror}") from error
    except (ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid TOML: {error}") from error
    return _Reader(file, document, Lines(text)).recipe(options)


_Shape = Callable[[Any], bool]

_FINEST = -64
"""Decimal places of a weight."""


def _is_share(value: Any) -> bool:
    return _is_weight(value) and bool(value <= 1)


def _is_weight(value: Any) -> bool:
    """A number that a fraction of whole numbers can stand for without filling the memory."""
    if not isinstance(value, Decimal | int) or isinstance(value, bool):
        return False
    number = Decimal(value)
    exponent = number.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= _FINEST and 0 <= number < 1 << 63


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _by_domain(each: _Shape) -> _Shape:
    return lambda value: isinstance(value, dict) and bool(value) and all(map(each, value.values()))


_SHAPES: Mapping[str, tuple[_Shape, str]] = {
    "rule": (_is_text, "the name of a rule"),
    "rows": (is_count, "a number of rows"),
    "like": (_is_text, "the name of another mix"),
    "parts": (_by_domain(_is_weight), "a table of domains with a number each"),
    "fixed": (_by_domain(is_count), "a table of domains with a number of rows each"),
    "added": (lambda v: is_count(v) or _by_domain(is_count)(v), "a number of rows, or a table"),
    "step": (is_count, "which step it is, from 0"),
    "domains": (_are_texts, "a list of domains, each once"),
    "share": (_is_share, "a share from 0 to 1"),
    "classes": (lambda v: is_count(v) or _is_share(v), "a number, or a share such as 0.25"),
    "diversity": (lambda v: v in DIVERSITIES, " or ".join(map(repr, DIVERSITIES))),
    "source": (_is_text, "one of the extra sources"),
    "store": (_is_text, "a path"),
    "labels": (_are_texts, "a list of files or folders"),
    "domain": (_is_text, "the name of a column"),
    "within": (_is_text, "a keep-list"),
    "base": (_are_texts, "a list of sources, each once"),
    "extra": (_are_texts, "a list of sources, each once"),
    "natural": (_is_text, "a domain"),
    "test": (_is_text, "a domain"),
    "queried": (_are_texts, "a list of classes, each once"),
    "seed": (is_count, "a number from 0"),
    "order": (lambda v: v in ORDERS, " or ".join(map(repr, ORDERS))),
}

_TABLES = {
    "pool": ("store", "labels", "domain", "within", "base", "extra"),
    "task": ("natural", "test", "queried"),
    "draw": ("seed", "order"),
}


class _Reader:
    def __init__(self, file: Path, document: dict[str, Any], lines: Lines) -> None:
        self.file, self.document, self.lines = file, document, lines

    def recipe(self, options: MixOptions) -> Recipe:
        self._know(self.document, (*_TABLES, "mixes"))
        pool, task, draw = (self._table(name) for name in _TABLES)
        mixes = {name: self._mix(name, task) for name in self._mixes()}
        both = set(pool.get("base", [])) & set(pool.get("extra", []))
        if both:
            raise self._error(f"{min(both)!r} is both base and extra", "pool", "extra")
        plan = Plan(
            self._chosen(options.mix, mixes),
            mixes,
            task,
            pool.get("base", []),
            pool.get("extra", []),
            pool.get("domain", "domain"),
            draw.get("seed", 0) if options.seed is None else options.seed,
            draw.get("order", "hash"),
        )
        plan.chain()
        here = partial(beside, self.file)
        store = options.store or (here(pool["store"]) if "store" in pool else None)
        labels = options.labels or tuple(map(here, pool.get("labels", [])))
        within = options.within or (here(pool["within"]) if "within" in pool else None)
        if store is None:
            raise UsageError(
                f"no store is named: neither --store, nor `store` of [pool] in {self.file}"
            )
        if not labels:
            raise UsageError(
                f"no labels are named: neither --labels, nor `labels` of [pool] in {self.file}"
            )
        return Recipe(plan, store, labels, within)

    def _chosen(self, wanted: str | None, mixes: Mapping[str, Any]) -> str:
        if wanted is None:
            if len(mixes) > 1:
                raise UsageError(
                    f"{self.file} has {len(mixes):,} mixes; choose one with --mix: "
                    + ", ".join(mixes)
                )
            return next(iter(mixes))
        if wanted not in mixes:
            raise UsageError(f"{self.file} has no mix {wanted!r}; {nearest(wanted, list(mixes))}")
        return wanted

    def _mixes(self) -> Iterator[str]:
        mixes = self.document.get("mixes")
        if not isinstance(mixes, dict) or not mixes:
            raise self._error("there is no mix: write [mixes.NAME] with `rule = …`")
        for name, given in mixes.items():
            if not isinstance(given, dict):
                raise self._error(f"mix {name!r} must be a table, [mixes.{name}]", "mixes", name)
            yield name

    def _mix(self, name: str, task: Mapping[str, Any]) -> dict[str, Any]:
        at = ("mixes", name)
        given = self.document["mixes"][name]
        rule = given.get("rule")
        if not isinstance(rule, str) or rule not in RULES:
            raise self._error(
                f"mix {name!r} needs `rule`, one of: {', '.join(RULES)}"
                if rule is None
                else f"unknown rule {rule!r}; {nearest(str(rule), list(RULES))}",
                *at,
                "rule",
            )
        known = RULES[rule]
        self._know(given, ("rule", *known.must, *known.may), *at)
        for key in known.must:
            if key not in given:
                raise self._error(f"the rule {rule!r} needs `{key}`: {_SHAPES[key][1]}", *at)
        if set(_SIZE) <= given.keys() or (known.sized and not set(_SIZE) & given.keys()):
            raise self._error(f"the rule {rule!r} needs one of `rows` and `like`", *at)
        for key in known.needs:
            if key not in task:
                raise self._error(f"the rule {rule!r} needs `{key}` in [task]", *at, "rule")
        self._check(given, *at)
        self._check_parts(rule, given, *at)
        plain: dict[str, Any] = _plain(given)
        return plain

    def _check_parts(self, rule: str, given: Mapping[str, Any], *at: str) -> None:
        """What the shape of single values does not tell."""
        if rule == "counts" and not all(map(is_count, given["parts"].values())):
            raise self._error("`parts` must be whole numbers of rows", *at, "parts")
        if rule == "ratio" and not sum(given["parts"].values()):
            raise self._error("`parts` must not all be 0", *at, "parts")
        if rule == "steps" and not isinstance(given["added"], dict):
            raise self._error("`added` must be a table of domains with rows a step", *at, "added")
        if rule == "others-added" and not isinstance(given.get("added", 0), int):
            raise self._error("`added` must be a number of rows", *at, "added")
        if rule == "others-added":
            extra = self._table("pool").get("extra", [])
            if given["source"] not in extra:
                raise self._error(
                    f"{given['source']!r} is no extra source; name it in `extra` of [pool], or it "
                    "would be part of every mix",
                    *at,
                    "source",
                )

    def _table(self, name: str) -> dict[str, Any]:
        table = self.document.get(name, {})
        if not isinstance(table, dict):
            raise self._error(f"{name!r} must be a table, [{name}]", name)
        self._know(table, _TABLES[name], name)
        self._check(table, name)
        plain: dict[str, Any] = _plain(table)
        return plain

    def _check(self, table: Mapping[str, Any], *at: str) -> None:
        for key, value in table.items():
            fits, words = _SHAPES[key]
            if not fits(value):
                raise self._error(f"`{key}` must be {words}", *at, key)

    def _know(self, table: Mapping[str, Any], known: Sequence[str], *at: str) -> None:
        for key in table:
            if key not in known:
                raise self._error(f"unknown key {key!r}; {nearest(key, known)}", *at, key)

    def _error(self, text: str, *at: str) -> InputError:
        return InputError(f"{self.file}:{self.lines.of(*at)}: {text}")


def _plain(value: Any) -> Any:
    """As JSON has it; a number with a point stays the text that was written, so exact."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Decimal) else value


def exact(value: int | str) -> Fraction:
    """A number of a plan."""
    return Fraction(value)
