"""Captioned shards: what each sample is called and says follows from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipgap.clip.data.captioned import KIND, caption_of, deal, plan_captions, words_of
from clipgap.clip.data.options import CaptionOptions
from clipgap.clip.data.registry import find_set
from clipgap.clip.images.reading import IMAGE_EXTENSIONS
from clipgap.errors import InputError
from clipgap.files.volumes import read_bytes
from clipgap.shards.api import SIZES
from clipgap.shards.finding import SUFFIX
from clipgap.shards.problems import Problem
from clipgap.shards.samples import read_samples
from clipgap.shards.work import statistics
from clipgap.verify.checks import Asked, Checks, Count, Problems, json_of, read_checked


def prove_captioned(asked: Asked, checks: Checks) -> None:
    """Samples are called, ordered, captioned and labelled as the settings have it."""
    manifest = read_checked(asked, checks, KIND)
    if checks.all_good:
        keys: list[str] = []
        checks.make("samples", _check_samples, asked.path, manifest, keys, checks.count)
        checks.make("counts", _check_counts, asked.path, manifest, keys)
    if checks.all_good:
        checks.make("images", _check_images, asked.path, manifest, checks.count)


def _options(manifest: Mapping[str, Any]) -> CaptionOptions:
    return CaptionOptions(**manifest["settings"])


def _tars(manifest: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in manifest["files"] if name.endswith(SUFFIX))


def _check_samples(
    folder: Path, manifest: Mapping[str, Any], keys: list[str], count: Count, problems: Problems
) -> str:
    options, tars, sizes = _options(manifest), _tars(manifest), json_of(folder / SIZES)
    names = {each["folder"]: each["name"] for each in manifest["classes"]}
    labels = {name: label for label, name in enumerate(names)}
    problems.differ(f"shards of {SIZES}", sorted(sizes), tars)
    read = count(len(tars), "shards")
    for tar in tars:
        found: list[Problem] = []
        samples = 0
        for sample in read_samples(str(folder / tar), on_problem=found.append, empty=True):
            samples += 1
            keys.append(sample.key)
            of = sample.key.partition("/")[0]
            if of not in names:
                problems.add(f"{tar}, {sample.key}: lies in no folder of a class")
                continue
            wanted = words_of(caption_of(sample.key, names[of], options), labels[of])
            said = {name: sample.contents.get(name) for name in wanted}
            if said != wanted or len(sample.contents.keys() & {*IMAGE_EXTENSIONS}) != 1:
                problems.add(f"{tar}, {sample.key}: is not an image with its caption and label")
        problems.add_all(f"{tar}: {problem}" for problem in found)
        problems.differ(f"{tar} in {SIZES}", sizes.get(tar), samples)
        if json_of(folder / f"{tar.removesuffix(SUFFIX)}_stats.json") != statistics(samples):
            problems.add(f"the statistics beside {tar} do not count its {samples:,} samples")
        if samples != options.per_shard and tar != tars[-1]:
            problems.add(f"{tar} has {samples:,} images, not {options.per_shard:,}")
        read.add(1)
    if deal(sorted(keys), options) != keys:
        problems.add("the samples are not in the order of the seed")
    return f"{len(keys):,} samples in {len(tars):,} shards"


def _check_counts(
    folder: Path, manifest: Mapping[str, Any], keys: list[str], problems: Problems
) -> str:
    tars = _tars(manifest)
    classes = [each["folder"] for each in manifest["classes"]]
    counts = {"images": len(keys), "shards": len(tars), "classes": len(classes)}
    problems.differ("counts", manifest["counts"], counts)
    problems.differ("kind", manifest["kind"], "captioned")
    stems = [tar.removesuffix(SUFFIX) for tar in tars]
    expected = [SIZES, *tars, *(f"{stem}_stats.json" for stem in stems)]
    problems.differ("files", sorted(manifest["files"]), sorted(expected))
    of = manifest["settings"]["classes"]
    if of is None:
        plain = [folder.replace("_", " ") for folder in classes]
        problems.differ("names", [each["name"] for each in manifest["classes"]], plain)
        problems.differ("classes", classes, sorted({key.partition("/")[0] for key in keys}))
    else:
        problems.differ("classes", classes, list(find_set(of).keys))
    return f"{len(classes):,} classes"


def _check_images(
    folder: Path, manifest: Mapping[str, Any], count: Count, problems: Problems
) -> str:
    """The images are those of the folder, byte for byte, if that is there."""
    root = manifest["images"]["path"]
    if not Path(root).is_dir():
        return f"{root} is not there, so the images are as stated"
    try:
        plan = plan_captions(root, options=_options(manifest))
    except InputError as error:
        problems.add(str(error))
        return ""
    problems.differ("images", manifest["images"], plan.describe()["images"])
    read = count(len(plan.files), "images")
    for tar in _tars(manifest):
        for sample in read_samples(str(folder / tar)):
            (extension,) = sample.contents.keys() & {*IMAGE_EXTENSIONS}
            file = plan.files.get(sample.key)
            if file is None or read_bytes(file, 0, file.size) != sample.contents[extension]:
                problems.add(f"{tar}, {sample.key}: is not the image in {root}")
            read.add(1)
    return f"{len(plan.files):,} images are those in {root}"
