"""Folders of shards, stores, rendered images and links: held against what they say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from clipgap.clip.data.parts import KIND as LINKS
from clipgap.clip.data.parts import plan_part
from clipgap.clip.data.registry import find_set
from clipgap.clip.embed.api import KIND as EMBED
from clipgap.errors import MissingDependency
from clipgap.files.documents import MANIFEST, checksum, encode
from clipgap.files.parquet import FileSum, read_table
from clipgap.files.remote import path_of, source_of
from clipgap.keep.lists import KeepList, open_keep
from clipgap.kernels.admit import Status, admit
from clipgap.shards.api import KIND as SHARDS
from clipgap.shards.api import SIZES
from clipgap.shards.finding import SUFFIX, find_shards
from clipgap.shards.names import names_in
from clipgap.shards.options import KEY
from clipgap.shards.plan import Unit, file_names
from clipgap.shards.problems import QUARANTINE, Problem
from clipgap.shards.samples import read_samples
from clipgap.shards.work import statistics
from clipgap.store.base import Store
from clipgap.store.opening import open_store
from clipgap.store.own import STORE_FILE
from clipgap.synthetic.options import RenderOptions
from clipgap.synthetic.render import (
    CLASSES_FILE,
    TEMPLATES_FILE,
    chosen_world,
    labels_file,
)
from clipgap.synthetic.render import KIND as RENDERED
from clipgap.synthetic.samples import described, labels
from clipgap.verify.checks import Asked, Checks, Count, Problems, json_of, quarantined, read_checked
from clipgap.version import __version__

_ROWS = 1 << 16


def prove_shards(asked: Asked, checks: Checks) -> None:
    """The samples of each tar are those that its companions, the counts and the keep-list say."""
    manifest = read_checked(asked, checks, SHARDS)
    keys: dict[str, list[str]] = {}
    if checks.all_good:
        checks.make("samples", _check_samples, asked.path, manifest, keys, checks.count)
        checks.make("counts", _check_shard_counts, asked.path, manifest, keys)
    if checks.all_good:
        checks.make("keep-list", _check_kept, asked.path, manifest, keys)


def _check_samples(
    folder: Path,
    manifest: Mapping[str, Any],
    keys: dict[str, list[str]],
    count: Count,
    problems: Problems,
) -> str:
    """Members of each tar, read strictly, against the files beside it and sizes.json."""
    files = manifest["files"]
    sizes = json_of(folder / SIZES)
    tars = sorted(name for name in files if name.endswith(SUFFIX))
    problems.differ(f"shards of {SIZES}", sorted(sizes), tars)
    read_tars = count(len(tars), "shards")
    for tar in tars:
        unit = Unit(tar.removesuffix(SUFFIX), ())
        found: list[Problem] = []
        read = read_samples(str(folder / tar), on_problem=found.append, empty=True)
        keys[tar] = [sample.key for sample in read]
        problems.add_all(f"{tar}: {problem}" for problem in found)
        problems.differ(f"{tar} in {SIZES}", sizes.get(tar), len(keys[tar]))
        stats = json_of(folder / unit.stats) if unit.stats in files else None
        if stats != statistics(len(keys[tar])):
            problems.add(f"{unit.stats} does not count the {len(keys[tar]):,} samples of {tar}")
        if unit.parquet in files:
            listed = pq.read_table(source_of(folder / unit.parquet), partitioning=None)[
                "key"
            ].to_pylist()
            if strangers := set(map(str, listed)) - set(keys[tar]):
                problems.add(f"{unit.parquet} has {min(strangers)!r}, which {tar} has not")
        read_tars.add(1)
    owned = {name for tar in tars for name in Unit(tar.removesuffix(SUFFIX), ()).files}
    others = files.keys() - owned - {SIZES, QUARANTINE}
    problems.add_all(f"{name} belongs to no shard" for name in sorted(others))
    return f"{sum(map(len, keys.values())):,} samples in {len(tars):,} shards"


def _check_shard_counts(
    folder: Path, manifest: Mapping[str, Any], keys: Mapping[str, Sequence[str]], problems: Problems
) -> str:
    """The counts of the manifest are those of the shards."""
    counts, merge = manifest["counts"], manifest["settings"]["merge"]
    kept = sum(map(len, keys.values()))
    problems.differ("kind", manifest["kind"], "shards")
    problems.differ("shards", counts["shards"], len(keys))
    problems.differ("samples kept", counts["kept"], kept)
    problems.differ("problems", counts["problems"], len(quarantined(folder, manifest)))
    if manifest["settings"]["missing"] == "error" and not counts["problems"]:
        problems.differ("samples missing, at which it would have ended", counts["missing"], 0)
    if not kept <= counts["samples"]:
        problems.add(f"{MANIFEST}: of {counts['samples']:,} samples {kept:,} cannot be kept")
    if merge is None:
        read = [shard["name"] for shard in manifest["inputs"]["shards"]]
        stems = [tar.removesuffix(SUFFIX) for tar in keys]
        problems.differ("shards read", sorted(file_names(read, "")), sorted(stems))
    elif max(map(len, keys.values()), default=0) > merge:
        problems.add(f"{MANIFEST}: a shard has more than the {merge:,} samples of its merge")
    return f"{kept:,} of {counts['samples']:,} samples are kept"


def _check_kept(
    folder: Path, manifest: Mapping[str, Any], keys: Mapping[str, Sequence[str]], problems: Problems
) -> str:
    """If the keep-list is there: what is kept is what it keeps, and what lacks is said to."""
    said, counts = manifest["inputs"]["keep"], manifest["counts"]
    if not (path_of(said["path"]) / MANIFEST).exists():
        return f"{said['path']} is not there, so which samples are kept is as stated"
    keep = open_keep(said["path"])
    if checksum(keep.manifest) != said["manifest_sha256"]:
        problems.add(f"{keep.path} is no longer the keep-list that was filtered by")
        return ""
    match = manifest["settings"].get("match", KEY)
    if match == KEY:
        wanted = _wanted(keep, [shard["name"] for shard in manifest["inputs"]["shards"]])
        found = [key for tar in sorted(keys) for key in keys[tar]]
    else:
        wanted, found = _wanted(keep, []), []
        for shard in find_shards(folder) if keys else ():
            names = names_in(shard, match)
            found += [names.get(key, key) for key in keys[shard.file.path.rpartition("/")[2]]]
    if strangers := set(found) - set(wanted):
        problems.add(f"{min(strangers)!r} is in the shards, but {keep.path} does not keep it")
    lacking = len(set(wanted) - set(found))
    if not counts["problems"]:
        problems.differ("samples missing", counts["missing"], lacking)
        if sorted(found) != sorted(wanted) and not lacking and not problems.count:
            problems.add(f"the shards do not hold each sample of {keep.path} once")
    elif lacking and lacking < counts["missing"]:
        problems.add(f"{MANIFEST}: {counts['missing']:,} are missing, only {lacking:,} lack")
    return f"{len(found):,} samples are those of {keep.path}"


def _wanted(keep: KeepList, shards: Sequence[str]) -> list[str]:
    """The keys that are kept of these shards; of all, if no shard of the list is called so."""
    stems = {name.rpartition("/")[2] for name in shards}
    mine = [s for s in keep.shards if s.name.rpartition("/")[2] in stems] or keep.shards
    return [key for shard in mine for key in keep.keys(shard.index).to_pylist()]


def prove_embeddings(asked: Asked, checks: Checks) -> None:
    """A store that `clipgap embed` made: its catalogue is that of the manifest."""
    manifest = read_checked(asked, checks, EMBED)
    if checks.all_good:
        checks.make("catalogue", _check_catalogue, asked.path, manifest)
        checks.make("rows and keys", _check_rows, asked.path, checks.count)


def prove_store(asked: Asked, checks: Checks) -> None:
    """A store with nothing but its catalogue."""
    checks.make("rows and keys", _check_rows, asked.path, checks.count)


def _check_catalogue(folder: Path, manifest: Mapping[str, Any], problems: Problems) -> str:
    """The manifest says of the shards what their catalogue says, and counts them right."""
    catalogue, made = json_of(folder / STORE_FILE), manifest["shards"]
    counts, files = manifest["counts"], manifest["files"]
    problems.differ("shards", [each["entry"] for each in made], catalogue["shards"])
    problems.differ("dimensions", manifest["dim"], catalogue["dim"])
    problems.differ("number of shards", counts["shards"], len(made))
    problems.differ("images", counts["images"], sum(each["entry"]["rows"] for each in made))
    listed = [problem for each in made for problem in each["problems"]]
    problems.differ("problems", counts["problems"], len(listed))
    problems.differ("problems", listed, quarantined(folder, manifest))
    said = sum(each["without_caption"] for each in made)
    problems.differ("images without a caption", counts["without_caption"], said)
    expected = {STORE_FILE, *([QUARANTINE] if counts["problems"] else [])}
    problems.differ("kind", manifest["kind"], "embed")
    read = [shard["name"] for shard in manifest["inputs"]["shards"]]
    names = file_names(read, "")
    problems.differ("shards read", names, [each["entry"]["name"] for each in made])
    for each in made:
        name = each["entry"]["name"]
        expected |= each["files"].keys()
        model = {key: value for key, value in each["model"].items() if key != "preprocess"}
        problems.differ(f"model of shard {name}", model, manifest["model"])
        problems.differ(f"dimensions of shard {name}", each["dim"], manifest["dim"])
        problems.differ(
            f"preprocessing of shard {name}", each["model"]["preprocess"], manifest["preprocess"]
        )
        for file, entry in each["files"].items():
            problems.differ(f"sum of {file}", entry, files.get(file))
        captions = _captions(folder, each["files"])
        has = captions is not None
        problems.differ(f"captions of shard {name}", manifest["settings"]["captions"], has)
        if captions is not None:
            problems.differ(f"without caption in shard {name}", each["without_caption"], captions)
    problems.differ("files", sorted(files), sorted(expected))
    return f"{len(made):,} shards"


def _captions(folder: Path, files: Mapping[str, Any]) -> int | None:
    """How many rows of a shard have no caption; None if captions were not asked for."""
    for name, entry in files.items():
        if name.endswith(".parquet"):
            table = read_table(folder / name, FileSum(**entry))
            if "caption" in table.column_names:
                return int(table["caption"].null_count)
    return None


def _check_rows(folder: Path, count: Count, problems: Problems) -> str:
    """Every row has norm 1 and its key; sums of rows and keys are checked on the way."""
    store: Store = open_store(folder)
    rows = count(store.rows, "rows")
    for shard in store.shards:
        for start in range(0, shard.rows, _ROWS):
            stop = min(start + _ROWS, shard.rows)
            status = admit(store.read(shard.index, start, stop)).status
            problems.at(
                start + np.flatnonzero(status != Status.OK),
                f"shard {shard.name}, row {{:,}}: is not a finite row of norm 1".format,
            )
            keys = store.keys(shard.index, start, stop)
            if keys is not None and keys.null_count:
                problems.add(f"shard {shard.name}: {keys.null_count:,} rows have no key")
            rows.add(stop - start)
    return f"{store.rows:,} rows in {len(store.shards):,} shards"


def prove_rendered(asked: Asked, checks: Checks) -> None:
    """A drawn world: as many samples, classes and prompts as it says."""
    manifest = read_checked(asked, checks, RENDERED)
    if checks.all_good:
        checks.make("samples", _check_rendered, asked.path, manifest)


def _check_rendered(folder: Path, manifest: Mapping[str, Any], problems: Problems) -> str:
    """Samples are as many as the settings ask for, and say what is drawn by them."""
    sets, settings, classes = manifest["sets"], manifest["settings"], manifest["classes"]
    tars = sorted(name for name in manifest["files"] if name.endswith(SUFFIX))
    found: dict[str, list[tuple[str, dict[str, bytes]]]] = {name: [] for name in sets}
    for tar in tars:
        samples = found.setdefault(tar.rpartition("/")[0], [])
        for sample in read_samples(str(folder / tar)):
            words = {name: text for name, text in sample.contents.items() if name != "jpg"}
            samples.append((sample.key, words))
    problems.differ("samples", sets, {name: len(samples) for name, samples in found.items()})
    problems.differ("kind", manifest["kind"], "rendered")
    _check_lines(folder / CLASSES_FILE, classes, problems)
    expected = {*tars, *map(labels_file, sets), CLASSES_FILE, TEMPLATES_FILE}
    problems.differ("files", sorted(manifest["files"]), sorted(expected))
    options = RenderOptions(**{name: of for name, of in settings.items() if name != "world"})
    count = f"{sum(sets.values()):,} samples of {len(classes):,} classes"
    try:
        world = chosen_world(settings["world"], options.classes)
    except MissingDependency as error:
        return f"{count}; what they say is as stated: {error}"
    problems.differ("classes", classes, list(world.names))
    problems.differ("samples by the settings", sets, world.sizes(options))
    _check_lines(folder / TEMPLATES_FILE, world.templates, problems)
    if problems.count:
        return ""
    if manifest["versions"].get("clipgap") != __version__:
        return f"{count}; what they say is as stated, since another version of clipgap drew them"
    for name, drawn in world.sets(options).items():
        for row, (one, said) in enumerate(zip(drawn, found[name], strict=True)):
            if (one.key, described(one)) != said:
                problems.add(f"{name}, sample {row:,}: says something else than the seed draws")
        table = labels_file(name)
        if read_table(folder / table, FileSum(**manifest["files"][table])) != labels(
            name, drawn, classes
        ):
            problems.add(f"{table}: says something else than the seed draws")
    return count


def _check_lines(file: Path, lines: Sequence[str], problems: Problems) -> None:
    if file.read_text(encoding="utf-8") != "".join(f"{line}\n" for line in lines):
        problems.add(f"{file.name} holds other lines than {MANIFEST} says")


def prove_links(asked: Asked, checks: Checks) -> None:
    """Each link is there and leads where it should, to something that is there."""
    manifest = read_checked(asked, checks, LINKS)
    if checks.all_good:
        checks.make("targets", _check_targets, asked.path, manifest)


def _check_targets(folder: Path, manifest: Mapping[str, Any], problems: Problems) -> str:
    files = manifest["files"]
    problems.differ("kind", manifest["kind"], "links")
    targets = {}
    for name in files:
        path = folder / name
        if not path.is_symlink():
            problems.add(f"{name} is no link")
            continue
        targets[name] = str(path.readlink())
        if not path.exists():
            problems.add(f"{name} leads to {targets[name]}, which is not there")
    now = hashlib.sha256(encode(targets)).hexdigest()
    problems.differ("where the links lead", manifest["links"], now)
    if problems.count:
        return ""
    return f"{len(files):,} links, {_check_part(manifest, targets, problems)}"


def _check_part(manifest: Mapping[str, Any], targets: Mapping[str, str], problems: Problems) -> str:
    """The part, chosen anew from where the links lead, is the one that is linked."""
    name, where = manifest["set"], manifest["where"]
    entry = find_set(name)
    inside = "" if entry.table is None else f"{entry.table.images}/"
    link = min(targets)
    if not targets[link].endswith(f"/{inside}{link}"):
        return f"to images that lie otherwise than those of {name}, so which they are is as stated"
    root = targets[link].removesuffix(f"/{inside}{link}")
    part = {link: str(at.resolve()) for link, at in plan_part(name, root, where).items()}
    if part != targets:
        problems.add(f"{MANIFEST}: the links are not those to {name} in {root} that it names")
    return f"those of {name}"
