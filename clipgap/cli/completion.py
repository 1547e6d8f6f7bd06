"""What a shell offers for a value, by what the value is called; nothing: the shell's own files.

Folders that clipgap filled are told by their manifests, so that `split` offers scans alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from clipgap.errors import InputError
from clipgap.options import Option

Complete = Callable[[str], list[str]]
"""From what is typed of a word to all that it can become."""

_STORES = (".npy", ".npz", ".parquet", ".safetensors", ".arrow")
_INSIDE = ("store.json", "img_emb")  # of a store of folders


def completion(said: Option) -> Complete | None:
    """What to offer for this option; None if nothing is known of its values."""
    if said.choices:
        return lambda incomplete: matching(incomplete, said.choices)
    find = _FINDERS.get(_called(said))
    return None if find is None else lambda incomplete: _after_name(incomplete, find)


def is_made(said: Option) -> bool:
    """Whether a value is a folder that clipgap has filled."""
    return _called(said) in _FORMS


def _called(said: Option) -> str:
    """What a value is called, but for the name that it may be given: SCAN of [NAME=]SCAN."""
    name = re.fullmatch(r"(?:\[?\w+=\]?)?(.*?)(?:\.\.\.|…)?", said.metavar or "")
    return name[1] if name and "-o" not in said.flags else ""


def matching(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _after_name(incomplete: str, find: Callable[[str], Iterable[str]]) -> list[str]:
    """Of NAME=VALUE only the value is looked up."""
    name, equals, value = incomplete.rpartition("=")
    return [f"{name}{equals}{word}" for word in matching(value, find(value))]


def _models(_: str) -> Iterator[str]:
    """Names that open_clip knows, without the seconds that it takes to import it."""
    found = find_spec("open_clip")
    for folder in () if found is None else found.submodule_search_locations or ():
        yield from sorted(path.stem for path in Path(folder, "model_configs").glob("*.json"))


def _entries(typed: str) -> Iterator[tuple[str, Path]]:
    """What lies in the folder that has been typed so far, as it would be typed."""
    before = typed[: typed.rfind("/") + 1]
    folder = Path(before or ".").expanduser()
    if folder.is_dir():
        yield from ((f"{before}{path.name}", path) for path in sorted(folder.iterdir()))


def _made(form: str) -> Callable[[str], Iterator[str]]:
    """Finds the folders with a manifest of this form."""

    def find(typed: str) -> Iterator[str]:
        from clipgap.files.documents import MANIFEST, format_of

        for word, path in _entries(typed):
            with suppress(InputError):  # unreadable
                if format_of(path / MANIFEST) == form:
                    yield word

    return find


def _stores(typed: str) -> Iterator[str]:
    return (word for word, path in _entries(typed) if _may_be_store(path))


def _may_be_store(path: Path) -> bool:
    from clipgap.files.documents import MANIFEST
    from clipgap.store.own import STORE_FILE

    if not path.is_dir():
        return path.suffix in _STORES
    if (path / MANIFEST).exists():
        return (path / STORE_FILE).exists()
    return any(inner.suffix in _STORES or inner.name in _INSIDE for inner in path.iterdir())


_FORMS = {
    "SCAN": "clipgap-scan",
    "KEEP": "clipgap-keep",
    "HEADS": "clipgap-heads",
    "DOMAINS": "clipgap-domains",
    "EVAL": "clipgap-eval",
}
_FINDERS: dict[str, Callable[[str], Iterator[str]]] = {
    **dict.fromkeys(("STORE", "REF", "TRAIN"), _stores),
    **dict.fromkeys(("MODEL", "NAME|CONFIG.json"), _models),
    **{name: _made(form) for name, form in _FORMS.items()},
}
