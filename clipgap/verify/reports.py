"""Reports: settings, inputs and gallery, held against the numbers and the pages that are there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipgap.errors import InputError
from clipgap.files.documents import MANIFEST, checksum
from clipgap.files.sums import FileSum
from clipgap.report.api import DATA, KIND, PAGES
from clipgap.report.contents import FORMAT
from clipgap.report.gallery import INDEX, script
from clipgap.verify.checks import Asked, Checks, Problems, json_of, read_checked

_POINTS = re.compile(r"data/(\d+/\d+|thresholds)\.js")
_PICTURE = re.compile(rb'"(thumbs/[^"]+)"')
_OPTIONAL = {
    "splits": "splits",
    "embeddings": "embeddings",
    "evaluations": "accuracy",
    "analyses": "analyses",
}
"""Inputs, and the numbers that there are of them."""


def prove_report(asked: Asked, checks: Checks) -> None:
    """Every file that was written is there; what the manifest says follows from them."""
    manifest = read_checked(asked, checks, KIND)
    if checks.all_good:
        data = json_of(asked.path / DATA)
        checks.make("numbers", _check_numbers, data, manifest)
        checks.make("inputs", _check_inputs, data, manifest)
        checks.make("gallery", _check_gallery, asked.path, data, manifest)


def _check_numbers(data: Mapping[str, Any], manifest: Mapping[str, Any], problems: Problems) -> str:
    settings, files = manifest["settings"], manifest["files"]
    problems.differ("kind", manifest["kind"], "report")
    problems.differ(f"format of {DATA}", FORMAT, data.get("format"))
    problems.differ("title", settings["title"], data.get("title"))
    pages = {page for page in PAGES.values() if page in files}
    if pages != {DATA, PAGES.get(settings["format"])}:
        problems.add(f"{MANIFEST}: the pages are not those of the format {settings['format']!r}")
    numbers = _numbers_in(data)
    if not data.get("training") or not numbers:
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
    return f"{len(inputs['scans']):,} scans, {len(inputs['splits']):,} splits"


def _check_sums(made: Mapping[str, Any], inputs: Mapping[str, Any], problems: Problems) -> None:
    """What the page says that it was made from, it was made from."""

    def sums(kind: str) -> dict[str, str]:
        return {
            one["name"]: one["manifest_sha256"] for one in made["inputs"] if one["kind"] == kind
        }

    calls = [one["call"]["settings"].encode() for one in made["inputs"] if one["call"]]
    certificates = made["certificates"]
    for name, found in {
        "splits": sums("split"),
        "embeddings": sums("other embedding"),
        "evaluations": list(sums("evaluation").values()),
        "images": {
            one["name"]: {key: one[key] for key in ("path", "sha256")} for one in made["images"]
        },
        "calls": [FileSum.of_bytes(call).sha256 for call in calls],
        "certificates": {name: checksum(found) for name, found in certificates.items()},
    }.items():
        problems.differ(name, inputs[name], found)


def _check_gallery(
    folder: Path, data: Mapping[str, Any], manifest: Mapping[str, Any], problems: Problems
) -> str:
    """As many points and pictures as the pages show, and as were asked for."""
    said, most = manifest["gallery"], manifest["settings"]["gallery"]
    if manifest["settings"]["format"] != "html":
        problems.differ("gallery", said, {})
        return "there is none"
    shown = {one["name"]: one["points"] for one in _described(folder)["sets"]}
    problems.differ("points", said["sets"], shown)
    points = {test["name"]: test["points"] for test in data["tests"]}
    asked = {name: points[name] if most is None else min(most, points[name]) for name in shown}
    problems.differ("points by the settings", asked, shown)
    listed = "data/thresholds.js" in manifest["files"]
    problems.differ("whether there are thresholds", said["thresholds"], listed)
    names = filter(_POINTS.fullmatch, manifest["files"])
    found = {file for name in names for file in _PICTURE.findall((folder / name).read_bytes())}
    pictures = said["pictures"]
    problems.differ("pictures found", pictures["found"], len(found))
    if not pictures["found"] <= pictures["wanted"]:
        problems.add(f"{MANIFEST}: more pictures were found than wanted")
    if pictures["wanted"] and not manifest["inputs"]["images"]:
        problems.add(f"{MANIFEST}: pictures were wanted, but there were no images")
    return f"{sum(shown.values()):,} points, {len(found):,} pictures"


def _described(folder: Path) -> dict[str, Any]:
    """What the page is told of its gallery."""
    before, after = script("gallery", None).split(b"null")
    content = (folder / INDEX).read_bytes()
    try:
        described = json.loads(content.removeprefix(before).removesuffix(after))
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read {folder / INDEX}: {error}") from error
    return dict(described)
