"""`--config file.toml`: long option names as keys, values as they would be typed.

The file only supplies defaults, so whatever stands on the command line wins. Values pass through
the same checks as typed ones: nothing here knows what an option means.
"""

from __future__ import annotations

import difflib
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from clipgap.errors import InputError, UsageError
from clipgap.files.addresses import public
from clipgap.files.settings import HEADER, is_changed, summed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

LOG = logging.getLogger("clipgap")


def key_of(parameter: Any) -> str:
    """The key of a command's parameter: its long option without dashes, or the argument's name."""
    longs = [flag[2:] for flag in parameter.opts if flag.startswith("--")]
    return longs[0] if longs else str(parameter.name)


def load(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of `--config`: make the file's values the defaults of this call."""
    if path is None:
        return None
    parameters = {key_of(p): p for p in context.command.params if p.name != "config"}
    defaults: dict[str, Any] = {}
    for key, value in _read(path).items():
        if key not in parameters:
            raise UsageError(_unknown_key(key, path, list(parameters)))
        defaults[parameters[key].name] = as_typed(parameters[key], value, f"{key!r} in {path}")
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def warn_of_changes(path: Path) -> None:
    """Say so if settings that clipgap wrote are no longer as they were."""
    if is_changed(path):
        LOG.warning("%s was edited, or damaged. If you edited it, remove its first line.", path)


def save(path: Path, command: str, values: Mapping[str, Any], out: Path) -> None:
    """Write a resolved configuration that `--config` takes back, of the run that fills `out`."""
    from clipgap.files.atomic import remove_leftovers, write_atomic
    from clipgap.runs.lock import PROGRESS

    lines = [f"{HEADER} {command}", f"# Again: {command} --config {_string(str(path))}"]
    if any(public(str(value)) != str(value) for value in values.values()):
        lines.append(
            "# *** stands for a part of an address that is not kept; type that option again"
        )
    text = "\n".join([*lines, "", content(values)])
    # Among the notes of the run, where whoever goes on finds what a kill has left. A run that reads
    # for long before it has any notes leaves it here.
    remove_leftovers(path.parent, path.name)
    with write_atomic(path, out / PROGRESS) as temporary:
        temporary.write_bytes(summed(text.encode("utf-8", "surrogateescape")))


def content(values: Mapping[str, Any]) -> str:
    """Values as `--config` takes them."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def check_replaceable(path: Path) -> None:
    """Refuse to write over a file that people, not clipgap, wrote."""
    if not path.exists():
        return
    with path.open("rb") as file:
        if file.read(len(HEADER)) == HEADER.encode():
            return
    raise InputError(
        f"{path} is where the resolved configuration goes, but clipgap did not write the file "
        "that is there. Rename it or choose another --out."
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read --config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not valid TOML: {error}") from error
    return document


def _unknown_key(key: str, path: Path, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the keys are: {', '.join(sorted(known))}"
    return f"unknown key {key!r} in {path}; {hint}"


def as_typed(parameter: Any, value: Any, where: str) -> Any:
    """The value in the form in which the command line would have given it."""
    if getattr(parameter, "multiple", False) or getattr(parameter, "nargs", 1) == -1:
        if not isinstance(value, list) or not all(_is_scalar(item) for item in value):
            raise UsageError(f"{where} must be a list, such as {key_of(parameter)} = [...]")
        return [str(item) for item in value]
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise UsageError(f"{where} must be true or false, not {value!r}")
        return value
    if not _is_scalar(value):
        raise UsageError(f"{where} must be one number or string, not {value!r}")
    return str(value)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return f'"{_string(public(str(value)))}"'


def _string(text: str) -> str:
    """The inside of a TOML basic string: that of JSON, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")[1:-1]
