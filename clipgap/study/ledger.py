"""What is known of each stage's last run, and whether its output still stands.

FOLDER/.study/NAME.json says with which options and from which inputs a stage was started, and,
once it is done, what it left. An input is known by its manifest, whose checksums stand for all
its files; other data by the names, sizes and times of its files and by their content, of which
`files/identity.py` says how much is read.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from clipgap.files.addresses import BUCKET, public
from clipgap.files.documents import (
    MANIFEST,
    Each,
    format_of,
    is_number,
    misfits,
    write_json,
)
from clipgap.files.folders import make_folder, read_if_there, refuse_link
from clipgap.files.identity import READ_WHOLE, digest_of, digest_of_group
from clipgap.files.naming import Options, expand_braces, has_braces, has_glob, parse
from clipgap.files.remote import path_of
from clipgap.files.volumes import FILE_THREADS, LocalFile
from clipgap.study.expand import Stage
from clipgap.study.recipe import Recipe

FOLDER = ".study"

_RECORD = {
    "wanted": {"command": str, "options": Each((bool, [str])), "inputs": Each(str)},
    "output": (None, str),
    "seconds": (None, is_number),
}

Missing = Literal["missing"]
Condition = Literal["done", "new", "unfinished", "changed", "damaged", "foreign"]


@dataclass(frozen=True)
class Finding:
    """How a stage stands, and a few words why it must run."""

    condition: Condition
    why: str
    seconds: float | None = None  # that its last run took


class Ledger:
    """The records of one study's folder."""

    def __init__(self, recipe: Recipe, folder: Path, stages: Mapping[str, Stage]) -> None:
        self._recipe, self._stages = recipe, stages
        self.folder = folder / FOLDER

    def wanted(self, stage: Stage) -> dict[str, Any]:
        """What the stage's output follows from, as of now."""
        values = {name: str(value) for name, value in self._recipe.values.items()}
        options: dict[str, Any] = {}
        for key, given in stage.options.items():
            if isinstance(given, bool):
                options[key] = given
                continue
            # Stages and paths stay names: where they lie is no part of the result.
            options[key] = [_fill(item, values) for item in given]
        inputs = {f"{{{name}}}": _output_print(self._stages[name].out) for name in stage.after}
        for name in stage.paths:
            inputs[f"{{{name}}}"] = fingerprint(self._recipe.paths[name].where)
        return {"command": stage.command.name, "options": options, "inputs": inputs}

    def find(self, stage: Stage) -> Finding:
        record = self._read(stage.name)
        if record is None:
            if stage.out is not None and stage.out.exists():
                return Finding("foreign", f"{stage.out} is there, but not from this study")
            return Finding("new", "not made yet")
        seconds = record.get("seconds")
        if difference := _difference(record["wanted"], self.wanted(stage)):
            return Finding("changed", difference, seconds)
        if "output" not in record:
            return Finding("unfinished", "begun, not finished", seconds)
        if record["output"] != _state_print(stage.out):
            return Finding("damaged", "its output is not as it was left", seconds)
        return Finding("done", "", seconds)

    def begin(self, stage: Stage) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        make_folder(self.folder.parent, FOLDER)
        refuse_link(self.result(stage.name))  # through which the stage would write
        write_json(self._path(stage.name), {"wanted": self.wanted(stage)})

    def finish(self, stage: Stage, seconds: float, exit_code: int) -> None:
        document = {
            "wanted": self.wanted(stage),
            "output": _state_print(stage.out),
            "seconds": round(seconds, 1),
            "exit_code": exit_code,
        }
        write_json(self._path(stage.name), document)

    def result(self, name: str) -> Path:
        """Where what the stage printed is kept."""
        return self.folder / f"{name}.txt"

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _read(self, name: str) -> dict[str, Any] | None:
        """What was noted of the stage; None if nothing, or nothing that we would have written."""
        try:
            document: dict[str, Any] = json.loads(self._path(name).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return document if next(misfits(document, _RECORD), None) is None else None


def fingerprint(named: str) -> str:
    """What identifies data that lies outside of the study; "missing" if it is not there."""
    digest = hashlib.sha256()
    if not named:
        return "missing"
    for part in parse(named, Options()):
        if part.options != Options():  # a column of a table, say
            digest.update(f"{part.options}\n".encode())
        if "://" in part.path:
            digest.update(public(part.path).encode())
            digest.update(_made_there(part.path))
            continue
        files = list(_expanded(part.path))
        if not files:
            return "missing"
        for file in files:
            digest.update(_content_print(file).encode())
    return digest.hexdigest()


def _made_there(address: str) -> bytes:
    """The manifest of what clipgap has put up at an address; of other data nothing."""
    if not BUCKET.fullmatch(address) or has_glob(address) or has_braces(address):
        return b""
    return read_if_there(path_of(address) / MANIFEST) or b""


def _expanded(part: str) -> Iterator[Path]:
    if part and Path(part).exists():
        yield Path(part)
    elif has_braces(part):
        yield from (Path(one) for one in expand_braces(part) if Path(one).exists())
    elif has_glob(part):
        yield from (Path(one) for one in sorted(glob.glob(part)))  # noqa: PTH207


def _output_print(out: Path | None) -> str:
    return "missing" if out is None or not out.exists() else _content_print(out)


def _content_print(path: Path) -> str:
    """The manifest, where there is one of ours, and else the state and content of every file."""
    if (format_of(path / MANIFEST) or "").startswith("clipgap-"):
        return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    large, small = [], []
    for file in _files(path):
        if file.is_file():  # nothing that lies elsewhere, and nothing that never ends
            state = file.stat()
            found = LocalFile.found(str(file), state)
            if found.size > READ_WHOLE:
                large.append((found, state.st_ctime_ns))
            else:
                small.append((os.path.relpath(file, path), found))
    digest = hashlib.sha256(f"{_state_print(path)} {digest_of_group(small)}".encode())
    with ThreadPoolExecutor(FILE_THREADS) as pool:
        for content in pool.map(lambda each: _digest_of(*each), large):
            digest.update(content.encode())
    return digest.hexdigest()


@cache
def _digest_of(file: LocalFile, changed: int) -> str:
    """Of a file's content, looked at once as long as nothing was done to it since `changed`."""
    return digest_of(file)


def _state_print(path: Path | None) -> str:
    """Names, sizes and times of all files: cheap, and different once anything was written."""
    if path is None:
        return "none"
    digest = hashlib.sha256()
    for file in _files(path):
        state = file.stat() if file.exists() else file.lstat()  # a link may lead nowhere
        digest.update(f"{file.relative_to(path)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for folder, inner, names in os.walk(path):
        inner.sort()
        links = [name for name in inner if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in sorted([*names, *links]))


def _fill(item: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        item = item.replace(f"{{{name}}}", value)
    return item


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing that is not as it was, in words; "" if all is."""
    if before.get("command") != now["command"]:
        return f"its command was {before.get('command')!r}"
    for name, identity in now["inputs"].items():
        if before["inputs"].get(name) != identity:
            return f"its input {name} has changed"
    if before["inputs"].keys() != now["inputs"].keys():
        return "it has other inputs"
    for key in sorted({*before["options"], *now["options"]}):
        was, is_now = before["options"].get(key), now["options"].get(key)
        if was != is_now:
            return f"{key} was {_shown(was)}, is {_shown(is_now)}"
    return ""


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    return str(value).lower() if isinstance(value, bool) else ", ".join(map(str, value))
