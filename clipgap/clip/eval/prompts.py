"""Class names and prompts that a user gives in files."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clipgap.clip.data.classes import Classes
from clipgap.errors import InputError

_LARGEST = 64 << 20


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
