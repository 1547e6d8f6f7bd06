"""Reports: settings, inputs and gallery, held against the numbers and the pages that are there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clipgap.errors import InputError
from clipgap.files.documents import MANIFEST, checksum
from clipgap.files.sums import FileSum
from clipgap.report.api import DATA, KIND, PAGES
from clipgap.report.contents import FORMAT
from clipgap.report.gallery import INDEX
from clipgap.report.pictures import data_of
from clipgap.report.thresholds import THRESHOLDS
from clipgap.verify.checks import Asked, Checks, Problems, json_of, read_checked

_LOADED = re.compile(r"(data|thumbs)/.*\.js")
_INLINED = re.compile(r'<script type="application/json" id="([^"]+)">(.*?)</script>', re.DOTALL)
_OPTIONAL = {
    "splits": "splits",
    "embeddings": "embeddings",
    "evaluations": "accuracy",
    "analyses": "analyses",
    "heads": "heads",
}
"""Inputs, and the numbers that there are of them."""


def prove_report(asked: Asked, checks: Checks) -> None:
    """Every file that was written is there; what the manifest says follows from them."""
    manifest = read_checked(asked, checks, KIND)
    if checks.all_good:
        data = json_of(asked.path / DATA)
        checks.make("numbers", _check_numbers, data, manifest)
        checks.make("inputs", _check_inputs, data, manifest)
        checks.make("gallery", _check_gallery, asked.path, data["tests"], manifest)


def _check_numbers(data: Mapping[str, Any], manifest: Mapping[str, Any], problems: Problems) -> str:
    settings, files = manifest["settings"], manifest["files"]
    problems.differ("kind", manifest["kind"], "report")
    problems.differ(f"format of {DATA}", FORMAT, data.get("format"))
    problems.differ("title", settings["title"], data.get("title"))
    pages = {page for page in PAGES.values() if page in files}
    if pages != {DATA, PAGES.get(settings["format"])}:
        problems.add(f"{MANIFEST}: the pages are not those of the format {settings['format']!r}")
    numbers = _numbers_in(data)
    if not numbers:
        problems.add(f"{DATA} holds no numbers")
    return f"{numbers:,} numbers in {DATA}"


def _numbers_in(value: Any) -> int:
    if isinstance(value, (dict, list)):
        return sum(map(_numbers_in, value.values() if isinstance(value, dict) else value))
    return int(isinstance(value, (int, float)) and not isinstance(value, bool))


def _check_inputs(data: Mapping[str, Any], manifest: Mapping[str, Any], problems: Problems) -> str:
    """The numbers are of these scans; of what else there was, they have the names."""
    inputs = manifest["inputs"]
    for name, is_reference in (("scans", False), ("reference", True)):
        found = {
            one["name"]: one["manifest_sha256"]
            for one in data["training"]
            if one["is_reference"] is is_reference
        }
        problems.differ(name, inputs[name] or {}, found)
    _check_sums(data["made_from"], inputs, problems)
    names = {row["name"] for row in data["splits"]}
    problems.differ("splits", sorted(inputs["splits"]), sorted(names))
    for name, numbers in _OPTIONAL.items():
        if data.get(numbers) and not inputs.get(name):
            problems.add(f"{DATA} holds numbers of {name}, of which {MANIFEST} says nothing")
    problems.differ("whether there is a paper", inputs["paper"] is None, data["paper"] is None)
    known = {one["name"] for one in (*data["training"], *data["tests"])}
    problems.add_all(
        f"{MANIFEST}: images of {name}, which is in no scan"
        for name in sorted(inputs["images"].keys() - known)
    )
    return f"scans: {len(inputs['scans']):,}, splits: {len(inputs['splits']):,}"


def _check_sums(made: Mapping[str, Any], inputs: Mapping[str, Any], problems: Problems) -> None:
    """What the page says that it was made from, it was made from."""

    def sums(kind: str) -> list[tuple[str, str]]:
        of_kind = (one for one in made["inputs"] if one["kind"] == kind)
        return [(one["name"], one["manifest_sha256"]) for one in of_kind]

    calls = [one["call"]["settings"].encode() for one in made["inputs"] if one["call"]]
    certificates = made["certificates"]
    for name, found in {
        "splits": dict(sums("split")),
        "embeddings": dict(sums("other embedding")),
        "evaluations": [sum_ for _, sum_ in sums("evaluation")],
        "analyses": [sum_ for _, sum_ in sums("analysis")],
        "domains": dict(sums("domains")),
        "heads": dict(sums("heads")),
        "images": {
            one["name"]: {key: one[key] for key in ("path", "sha256")} for one in made["images"]
        },
        "calls": [FileSum.of_bytes(call).sha256 for call in calls],
        "certificates": {name: checksum(found) for name, found in certificates.items()},
    }.items():
        problems.differ(
            name, inputs.get(name, type(found)()), found
        )  # without analyses, domains and heads nothing is said of them


def _check_gallery(
    folder: Path,
    tests: Sequence[Mapping[str, Any]],
    manifest: Mapping[str, Any],
    problems: Problems,
) -> str:
    """As many points and pictures as the pages show, and as were asked for."""
    said, most = manifest["gallery"], manifest["settings"]["gallery"]
    data = dict(_data(folder, manifest))
    if not data:
        problems.differ("gallery", said, {})
        return "there is none"
    shown = {one["name"]: one["points"] for one in data.pop(INDEX)()["sets"]}
    problems.differ("points", said["sets"], shown)
    points = {test["name"]: test["points"] for test in tests}
    asked = {name: points[name] if most is None else min(most, points[name]) for name in shown}
    problems.differ("points by the settings", asked, shown)
    problems.differ("whether there are thresholds", said["thresholds"], THRESHOLDS in data)
    packs = [read() for name, read in data.items() if name.startswith("thumbs/")]
    found = sum(bool(address) for pack in packs for address in pack)
    pictures = said["pictures"]
    problems.differ("pictures found", pictures["found"], found)
    if not pictures["found"] <= pictures["wanted"]:
        problems.add(f"{MANIFEST}: more pictures were found than wanted")
    if pictures["wanted"] and not manifest["inputs"]["images"]:
        problems.add(f"{MANIFEST}: pictures were wanted, but there were no images")
    return f"{sum(shown.values()):,} points, {found:,} pictures"


def _data(folder: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What the pages load, by name, to be read: files of their own, or parts of the single page."""
    page = PAGES["single"]
    if page in manifest["files"]:
        for name, text in _INLINED.findall((folder / page).read_text(encoding="utf-8")):
            yield name, partial(_parsed, name, text)
    for name in filter(_LOADED.fullmatch, manifest["files"]):
        yield name, partial(_of_file, folder, name)


def _of_file(folder: Path, name: str) -> Any:
    return _parsed(name, data_of(name, (folder / name).read_bytes()))


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read {name}: {error}") from error
