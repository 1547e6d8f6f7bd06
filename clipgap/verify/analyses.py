"""Analyses: what is said of all domains together, derived from what is said of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipgap.clip.analyze.api import CKA, CONCEPTS, KIND, MAP, SCHEMAS, TOPS, Analysis, derived
from clipgap.clip.analyze.circuits import EDGES_SCHEMA
from clipgap.clip.analyze.concepts import concept_rows
from clipgap.clip.analyze.plan import shared_classes
from clipgap.clip.analyze.similarity import KERNELS
from clipgap.clip.analyze.tables import Domains, map_table, read_blocks
from clipgap.clip.analyze.work import BLOCKS_SCHEMA, EMBEDDINGS_SCHEMA, Unit
from clipgap.shards.problems import QUARANTINE
from clipgap.verify.checks import Asked, Checks, Problems, quarantined, read_checked

_ROUNDING = 1e-9
"""Machines add up in other orders."""

_ON_MAP = 1e-6
"""The same for places on the map of embeddings, whose length is 1."""


def prove_analysis(asked: Asked, checks: Checks) -> None:
    """Tables of pairs and the map follow from the tables of each domain."""
    analysis = Analysis(asked.path, read_checked(asked, checks, KIND))
    seen: dict[str, Domains] = {}
    if checks.all_good:
        checks.make("domains", _check_units, analysis, seen)
    if checks.all_good:
        checks.make("pairs", _check_pairs, analysis, seen)
        checks.make("CKA", _check_cka, analysis, seen)
        checks.make("map", _check_map, analysis)


def _check_units(analysis: Analysis, seen: dict[str, Domains], problems: Problems) -> str:
    """Every checkpoint has looked at every domain, and counts agree."""
    manifest = analysis.manifest
    files, units = manifest["files"], manifest["units"]
    expected, names, images, aside = set(SCHEMAS), [], 0, list[Any]()
    for checkpoint in (each["name"] for each in manifest["checkpoints"]):
        of_it: dict[str, Any] = {}
        for domain in manifest["domains"]:
            unit = Unit(checkpoint, domain["name"])
            record = units[unit.name]
            names.append(unit.name)
            expected |= set(unit.files)
            problems.differ(
                f"sums of {unit.name}", record["files"], {name: files[name] for name in unit.files}
            )
            blocks, embeddings, edges = (analysis.table(name) for name in unit.files)
            problems.differ(f"columns of {unit.blocks}", blocks.schema, BLOCKS_SCHEMA)
            problems.differ(f"columns of {unit.embeddings}", embeddings.schema, EMBEDDINGS_SCHEMA)
            problems.differ(f"columns of {unit.edges}", edges.schema, EDGES_SCHEMA)
            problems.differ(f"images of {unit.name}", record["images"], embeddings.num_rows)
            images += embeddings.num_rows
            counts: dict[str, int] = {}
            for name in embeddings["class"].to_pylist():
                counts[name] = counts.get(name, 0) + 1
            keys = [key for key in domain["keys"] if key in counts]
            rows = zip(*(blocks[name].to_pylist() for name in ("class", "images")), strict=True)
            wanted = [(key, counts[key]) for key in keys]
            stated = list(rows)
            many = len(dict.fromkeys(blocks["block"].to_pylist()))
            problems.differ(f"images by class of {unit.name}", stated, wanted * many)
            of_it[domain["name"]] = read_blocks(blocks)
            if len(seen) == 0:
                aside += record["problems"]
        seen[checkpoint] = of_it
    if aside:
        expected.add(QUARANTINE)
    problems.differ("units", sorted(units), sorted(names))
    problems.differ("images set aside", aside, quarantined(analysis.path, manifest))
    problems.differ("files", sorted(files), sorted(expected))
    problems.differ("kind", manifest["kind"], "analyze")
    return f"{images:,} images in {len(names):,} passes"


def _check_pairs(analysis: Analysis, seen: Mapping[str, Domains], problems: Problems) -> str:
    """Every table, made again of what each block gave and did, is what is there."""
    settings, count = analysis.manifest["settings"], 0
    again: dict[str, list[dict[str, Any]]] = {}
    for checkpoint, domains in seen.items():
        edges = {name: analysis.table(Unit(checkpoint, name).edges) for name in domains}
        drawn = settings["draws"], settings["seed"]
        for file, rows in derived(checkpoint, domains, edges, *drawn):
            again.setdefault(file, []).extend(rows)
        if settings["concepts"]:
            tops = analysis.table(TOPS)
            mine = tops.filter(pc.equal(tops["checkpoint"], checkpoint))
            images = sum(analysis.manifest["units"][f"{checkpoint}/{d}"]["images"] for d in domains)
            problems.differ(f"images of {checkpoint} in {TOPS}", mine.num_rows, images)
            again.setdefault(CONCEPTS, []).extend(concept_rows(checkpoint, mine, *drawn))
    for file, wanted in again.items():
        stated = analysis.table(file).to_pylist()
        problems.differ(f"rows of {file}", len(stated), len(wanted))
        for number, (was, should) in enumerate(zip(stated, wanted, strict=False)):
            if not all(_alike(was[name], should[name]) for name in should):
                problems.add(f"{file}, row {number:,}: is {was}, should be {should}")
        count += len(wanted)
    return f"{count:,} rows derived anew"


def _check_cka(analysis: Analysis, seen: Mapping[str, Domains], problems: Problems) -> str:
    """CKA by the formula as it was published, which the tables are not made by."""
    rows = analysis.table(CKA).to_pylist()
    for number, row in enumerate(rows):
        domains = seen[row["checkpoint"]]
        blocks = [domains[row[name]][row["block"]] for name in ("first", "second")]
        classes = shared_classes(blocks[0].classes, blocks[1].classes)
        kernels = [KERNELS[row["kernel"]](block.of(classes)) for block in blocks]
        if row["value"] is not None and not _alike(row["value"], _published(*kernels)):
            problems.add(f"{CKA}, row {number:,}: is {row['value']}, not {_published(*kernels)}")
    return f"{len(rows):,} values by the published formula"


def _published(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Song et al. (2012), equation 5, three times."""

    def hsic(k: NDArray[np.float64], m: NDArray[np.float64]) -> float:
        n = len(k)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        product = k @ m
        outer = k.sum() * m.sum() / ((n - 1) * (n - 2))
        return float((np.trace(product) + outer - 2 / (n - 2) * product.sum()) / (n * (n - 3)))

    return hsic(first, second) / math.sqrt(hsic(first, first) * hsic(second, second))


def _check_map(analysis: Analysis, problems: Problems) -> str:
    """The map shows images of the domains; one of principal directions is drawn again."""
    manifest, start = analysis.manifest, 0
    table, settings = analysis.table(MAP), manifest["settings"]
    for checkpoint in (each["name"] for each in manifest["checkpoints"]):
        embeddings = {
            domain["name"]: analysis.table(Unit(checkpoint, domain["name"]).embeddings)
            for domain in manifest["domains"]
        }
        again, shares = map_table(checkpoint, embeddings, "pca", settings["seed"])
        part = table.slice(start, again.num_rows)
        start += again.num_rows
        names = ["checkpoint", "domain", "key", "class"]
        if part.select(names) != again.select(names):
            problems.add(f"{MAP}: the images of {checkpoint} are not those of its domains")
            continue
        if settings["map"] != "pca":
            continue
        was, now = (np.stack([t["x"].to_numpy(), t["y"].to_numpy()]) for t in (part, again))
        if not np.allclose(was, now, rtol=0, atol=_ON_MAP):
            problems.add(f"{MAP}: the images of {checkpoint} lie at other places")
        if not np.allclose(manifest["maps"][checkpoint], shares, atol=_ROUNDING):
            problems.differ(f"shares of {checkpoint}", manifest["maps"][checkpoint], shares)
    problems.differ(f"rows of {MAP}", table.num_rows, start)
    return f"{start:,} images"


def _alike(stated: Any, found: Any) -> bool:
    if isinstance(stated, float) and isinstance(found, float):
        return math.isclose(stated, found, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return bool(stated == found)
