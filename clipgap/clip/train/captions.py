"""Captions made on the way into training, of the domain and the class of a sample.

    labels = ["labels.parquet"]        # key, domain, class: the tables of a mix, or others
    specific = 0.5                     # the share of captions that tell the domain
    full_stop = 0.5                    # and of those that end with a full stop
    unlabelled = "refuse"              # samples without a label; "own": they keep their captions
    seed = 0
    templates = ["{a term} of {a class}", …]
    any = ["image", "picture"]         # terms for all domains

    [terms]                            # and for one
    sketch = ["sketch", "drawing"]

    [articles]                         # where letters mislead
    pants = ""

Everything but `labels` has a default. What a caption says follows from the seed, the key of the
sample and this file, and from nothing else. A greater share tells the domain in more captions, and
in all those in which a smaller one does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgap.errors import InputError
from clipgap.files.naming import beside
from clipgap.files.toml import Lines, ParseError, nearest, parse
from clipgap.select.labels import cite_labels, read_labels

DOMAIN, CLASS = "domain", "class"
REFUSE, OWN = "refuse", "own"

TEMPLATES = (
    "{a term} of {a class}",
    "{a class} {term}",
    "{a term} depicting {a class}",
    "{a class} depicted in {a term}",
    "{a term} showing {a class}",
    "{a class} is visible in {a term}",
)
ANY = ("image", "picture")
TERMS: Mapping[str, Sequence[str]] = {
    "clipart": ("clipart", "illustration"),
    "infograph": ("infograph", "informational chart"),
    "painting": ("painting", "art"),
    "quickdraw": ("quickdraw", "doodle"),
    "real": ("photo", "snapshot"),
    "sketch": ("sketch", "drawing"),
}
"""Two for each domain of DomainNet."""

_PLACES = re.compile(r"\{(a )?(term|class)\}")
_SAID_AS_CONSONANT = re.compile(r"(?:uni(?![nm])|us[eu]|eu|ew|one\b|once\b|ukulele|uten|ubi)", re.I)
_SAID_AS_VOWEL = re.compile(r"(?:[aeiou]|hour|honest|honou?r|heir|x-ray)", re.I)
_DEFAULTS: Mapping[str, Any] = {
    "labels": None,
    "specific": 0.5,
    "full_stop": 0.5,
    "unlabelled": REFUSE,
    "seed": 0,
    "templates": TEMPLATES,
    "any": ANY,
    "terms": {},
    "articles": {},
}


def with_article(words: str, own: Mapping[str, str] | None = None) -> str:
    """a or an, by how the first word is said, or as `own` has it."""
    article = (own or {}).get(words)
    if article is None and words.lower().startswith("the "):
        article = ""
    if article is None:
        vowel = _SAID_AS_VOWEL.match(words) and not _SAID_AS_CONSONANT.match(words)
        article = "an" if vowel else "a"
    return f"{article} {words}".strip()


@dataclass(frozen=True)
class Captions:
    """Labels by key, and how captions are made of them."""

    path: Path
    labels: Mapping[str, tuple[str, str]]  # domain and class
    said: Mapping[str, Any]
    sha256: str  # of all that captions follow from

    def of(self, key: str) -> str | None:
        """The caption of a sample; None if it has no label and keeps its own."""
        found = self.labels.get(key)
        if found is None:
            if self.said["unlabelled"] == REFUSE:
                raise KeyError(key)
            return None
        return self.caption(key, *found)

    def caption(self, key: str, domain: str, class_: str) -> str:
        said = self.said
        drawn = hashlib.blake2b(f"{said['seed']}\0{key}".encode(), digest_size=32).digest()
        tells, which, template, stop = (
            int.from_bytes(drawn[at : at + 8], "little") for at in range(0, 32, 8)
        )
        terms = said["terms"][domain] if tells < said["specific"] * 2**64 else said["any"]
        words = {
            "term": terms[which * len(terms) >> 64],
            "class": class_.replace("_", " "),
        }

        def filled(place: re.Match[str]) -> str:
            word = words[place[2]]
            return with_article(word, said["articles"]) if place[1] else word

        templates = said["templates"]
        text = _PLACES.sub(filled, templates[template * len(templates) >> 64])
        return text + "." if stop < said["full_stop"] * 2**64 else text


def read_captions(path: Path) -> Captions:
    """The policy in a file, with all labels, which are held in memory."""
    try:
        text = path.read_text(encoding="utf-8")
        document = parse(text)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    return _Reader(path, Lines(text), document).captions()


class _Reader:
    """Says of all that is wrong where it stands."""

    def __init__(self, path: Path, lines: Lines, document: Mapping[str, Any]) -> None:
        self._path, self._lines, self._document = path, lines, document

    def captions(self) -> Captions:
        for key in self._document:
            if key not in _DEFAULTS:
                raise self._wrong(f"unknown {key!r}; {nearest(key, list(_DEFAULTS))}", key)
        said = {**_DEFAULTS, **self._document}
        for key, wanted, fits in (
            ("labels", "a list of tables", _are_texts),
            ("specific", "a share from 0 to 1", _is_share),
            ("full_stop", "a share from 0 to 1", _is_share),
            ("unlabelled", f"{REFUSE!r} or {OWN!r}", (REFUSE, OWN).__contains__),
            ("seed", "a whole number", lambda value: type(value) is int),
            ("templates", "a list with {class} or {a class} in each", _are_templates),
            ("any", "a list of words", _are_texts),
            ("terms", "lists of words by domain", _are_terms),
            ("articles", "articles by class", _are_articles),
        ):
            if not fits(said[key]):
                raise self._wrong(f"{key} must be {wanted}", key)
        said["terms"] = {**TERMS, **said["terms"]}
        tables = [beside(self._path, name) for name in said.pop("labels")]
        labels = self._labels(tables, said["terms"])
        cited = [cite_labels(table)["sha256"] for table in tables]
        digest = hashlib.sha256(repr((sorted(said.items()), cited)).encode()).hexdigest()
        return Captions(self._path, labels, said, digest)

    def _labels(
        self, tables: Sequence[str], terms: Mapping[str, Sequence[str]]
    ) -> dict[str, tuple[str, str]]:
        labels: dict[str, tuple[str, str]] = {}
        for name in tables:
            table = read_labels(Path(name), (DOMAIN, CLASS))
            for key, domain, class_ in zip(
                *(table[column].to_pylist() for column in ("key", DOMAIN, CLASS)), strict=True
            ):
                found = (domain, class_)
                if key is None or not isinstance(domain, str) or not isinstance(class_, str):
                    raise InputError(f"{name}: the row of {key!r} has no key, {DOMAIN} or {CLASS}")
                if domain not in terms:
                    raise InputError(
                        f"{name}: nothing says what an image of the domain {domain!r} is called; "
                        f"add it to [terms] of {self._path}"
                    )
                if labels.setdefault(key, found) != found:
                    raise InputError(f"{name}: {key!r} has labels that contradict each other")
        return labels

    def _wrong(self, problem: str, *place: str) -> InputError:
        return InputError(f"{self._path}, line {self._lines.of(*place):,}: {problem}")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _are_texts(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(each, str) and each for each in value)
    )


def _are_templates(value: Any) -> bool:
    return _are_texts(value) and all(
        "class" in [place[2] for place in _PLACES.finditer(each)]
        and not set(_PLACES.sub("", each)) & set("{}")
        for each in value
    )


def _are_terms(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_are_texts, value.values()))


def _are_articles(value: Any) -> bool:
    return isinstance(value, dict) and all(
        each in ("a", "an", "the", "") for each in value.values()
    )
