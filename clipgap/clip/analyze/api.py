"""Look into checkpoints: how alike images of different domains are inside of them.

OUT/blocks/CHECKPOINT/DOMAIN.parquet        means and effects by block and class
OUT/embeddings/CHECKPOINT/DOMAIN.parquet    the normalised features of each image
OUT/edges/CHECKPOINT/DOMAIN.parquet         what leads to the top neurons, by class
OUT/cka.parquet             CKA of each pair of domains, by block
OUT/neurons.parquet         shared top neurons, against chance
OUT/completeness.parquet    by how much effects do not add up
OUT/circuits.parquet        how alike circuits are
OUT/tops.parquet            the strongest concepts of each image
OUT/concepts.parquet        shared concepts, against chance
OUT/map.parquet             images on a map
OUT/quarantine.parquet      what could not be used; only if there is any
OUT/manifest.json           written last
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipgap.clip.analyze.circuits import (
    CIRCUITS_SCHEMA,
    circuit_rows,
    read_circuits,
)
from clipgap.clip.analyze.concepts import CONCEPTS_SCHEMA, TOPS_SCHEMA, concept_rows, tops_table
from clipgap.clip.analyze.options import AnalyzeOptions, Reading
from clipgap.clip.analyze.plan import AnalysisPlan, plan_analysis, require_shared
from clipgap.clip.analyze.tables import (
    CKA_SCHEMA,
    COMPLETENESS_SCHEMA,
    MAP_SCHEMA,
    NEURONS_SCHEMA,
    Domains,
    cka_rows,
    classes_of,
    completeness_rows,
    map_table,
    neuron_rows,
    read_blocks,
)
from clipgap.clip.analyze.work import BLOCKS, EDGES, EMBEDDINGS, AnalysisWork, Unit, units_of
from clipgap.clip.models import fetch
from clipgap.clip.passes import do_passes
from clipgap.files.documents import FILES, Each, Form, is_count, read_manifest
from clipgap.files.folders import remove
from clipgap.files.parquet import read_table, write_tables
from clipgap.files.remote import path_of
from clipgap.files.sums import FileSum
from clipgap.machine import versions
from clipgap.options import takes_options
from clipgap.runs.how import How
from clipgap.runs.output import Complete, Damaged, Kind, Output, open_output
from clipgap.shards.problems import PROBLEM, QUARANTINE, Problem, write_quarantine

CKA, NEURONS, COMPLETENESS = "cka.parquet", "neurons.parquet", "completeness.parquet"
CIRCUITS, TOPS, CONCEPTS = "circuits.parquet", "tops.parquet", "concepts.parquet"
MAP = "map.parquet"
SCHEMAS = {
    CKA: CKA_SCHEMA,
    NEURONS: NEURONS_SCHEMA,
    COMPLETENESS: COMPLETENESS_SCHEMA,
    CIRCUITS: CIRCUITS_SCHEMA,
    TOPS: TOPS_SCHEMA,
    CONCEPTS: CONCEPTS_SCHEMA,
    MAP: MAP_SCHEMA,
}
"""The tables that are about all domains together."""

_TEXT = (None, str)
_RECORD = {"files": FILES, "images": is_count, "problems": [PROBLEM]}
_PACKAGES = ("clipgap", "numpy", "torch", "torchvision", "open_clip_torch", "pillow")

KIND = Kind(
    Form(
        "clipgap-analysis",
        "analysis",
        {
            "kind": "analyze",
            "checkpoints": [{"name": str, "model": _TEXT, "pretrained": _TEXT, "sha256": _TEXT}],
            "domains": [
                {
                    "name": str,
                    "path": str,
                    "identity": str,
                    **{key: [str] for key in ("keys", "classes", "templates")},
                    "border": is_count,
                }
            ],
            "classes": [str],
            "settings": {
                "blocks": [str],
                **dict.fromkeys(("neurons", "steps", "circuits", "concepts"), is_count),
                **dict.fromkeys(("draws", "seed", "batch_size"), is_count),
                **dict.fromkeys(("map", "device"), str),
            },
            "maps": Each([float]),
            "dictionaries": Each({"missed": float, "active": float}),
            "units": Each(_RECORD),
            "versions": Each(str),
            "files": FILES,
        },
    ),
    owns=(
        *SCHEMAS,
        *(f"{folder}/*/*.parquet" for folder in (BLOCKS, EMBEDDINGS, EDGES)),
        QUARANTINE,
    ),
    inner=(BLOCKS, EMBEDDINGS, EDGES),
    labels={"settings": "setting", "checkpoints": "checkpoint", "domains": "domain"},
    free=("path",),
    record=_RECORD,
)


@dataclass(frozen=True)
class Analysis:
    """A finished analysis; its tables are checked when they are read."""

    path: Path
    manifest: Mapping[str, Any]
    already_complete: bool = False
    repaired: Sequence[str] = ()

    def table(self, name: str) -> pa.Table:
        """One of its tables by the name of its file, such as "cka.parquet"."""
        return read_table(self.path / name, FileSum(**self.manifest["files"][name]))

    @property
    def problems(self) -> int:
        """Images, samples and shards in quarantine."""
        return len(_problems(self.manifest))


def open_analysis(path: str | Path) -> Analysis:
    """A finished analysis."""
    unfinished = "Run the same command again with --resume."
    folder = path_of(path)
    return Analysis(folder, read_manifest(folder, KIND.form, unfinished))


@takes_options
def analyze(
    checkpoints: str | Sequence[str],
    data: str | Sequence[str],
    out: str | Path,
    *,
    reading: Reading,
    options: AnalyzeOptions,
    how: How,
) -> Analysis:
    """How alike images of different domains are inside of CLIP models, block by block.

    `checkpoints` are files (`path` or `name=path`) or pretrained tags of `model`; `data` are
    `name=path`, one for each domain, as `evaluate` takes them. Domains are compared by their
    classes: those that a pair of them shares. When `stop` is set, the run ends with `Interrupted`;
    `resume=True` goes on after the last finished checkpoint and domain.
    """
    how.tell("reading headers")
    plan = plan_analysis(_listed(checkpoints), _listed(data), reading=reading, options=options)
    with open_output(out, KIND, how) as output:
        return _fill(output, plan)


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _fill(output: Output, plan: AnalysisPlan) -> Analysis:
    if output.wants_work:
        output.how.tell("loading")
        for each in plan.checkpoints:
            assert each.model is not None, "classifiers have been refused"
            fetch(each.model, each.pretrained)
    output.how.tell("reading domains")
    described = plan.describe()
    answer = output.begin(described)
    repaired: list[str] = []
    if isinstance(answer, Complete):
        return Analysis(output.path, answer.manifest, already_complete=True)
    if isinstance(answer, Damaged):
        repaired = answer.files
        done = answer.manifest["units"]
        whole = [unit for unit in units_of(plan) if not set(unit.files) & set(repaired)]
        output.reopen({unit.name: done[unit.name] for unit in whole})
    remove(output.path, [*SCHEMAS, QUARANTINE])  # they are about all units together
    _look(output, plan)
    return Analysis(output.path, _finish(output, plan, described), repaired=repaired)


def _look(output: Output, plan: AnalysisPlan) -> None:
    """Do all units that the ledger does not have."""
    units, sizes = units_of(plan), {domain.name: domain.images.samples for domain in plan.domains}
    images = [sizes[unit.domain] for unit in units]
    work = AnalysisWork(output.path, plan)
    do_passes(output, work, units, images, plan.reading.device, "pass")


def _finish(output: Output, plan: AnalysisPlan, described: Mapping[str, Any]) -> dict[str, Any]:
    """What is about all domains together, and the manifest."""
    records, options = output.ledger.records, plan.options
    units = {unit.name: records[unit.name] for unit in units_of(plan)}
    sums = [entry for record in units.values() for entry in record["files"].items()]
    files = {name: FileSum(**entry) for name, entry in sums}
    made: dict[str, list[pa.Table]] = {name: [] for name in SCHEMAS}
    maps: dict[str, list[float]] = {}
    dictionaries: dict[str, dict[str, float]] = {}

    def check() -> None:
        output.how.check("; --resume goes on")

    for name in (checkpoint.name for checkpoint in plan.checkpoints):
        output.how.tell("comparing", works=True, at=name)
        blocks, edges, embeddings = (
            {
                domain.name: read_table(output.path / file, files[file])
                for domain in plan.domains
                for file in [getattr(Unit(name, domain.name), kind)]
            }
            for kind in ("blocks", "edges", "embeddings")
        )
        domains = {domain: read_blocks(table) for domain, table in blocks.items()}
        require_shared(classes_of(domains))
        for file, rows in derived(name, domains, edges, options.draws, options.seed):
            check()
            made[file].append(_table(file, rows))
        if options.concepts:
            output.how.tell("learning concepts", works=True, at=name)
            tops, dictionaries[name] = tops_table(
                name, embeddings, options.concepts, options.seed, check
            )
            made[TOPS].append(tops)
            made[CONCEPTS].append(
                _table(CONCEPTS, concept_rows(name, tops, options.draws, options.seed))
            )
        table, maps[name] = map_table(name, embeddings, options.map, options.seed)
        made[MAP].append(table)
    for file, tables in made.items():
        files[file] = write_tables(output.path / file, SCHEMAS[file], tables)
    entries = {
        "kind": "analyze",
        **described,
        "maps": maps,
        "dictionaries": dictionaries,
        "units": units,
        "versions": versions(*_PACKAGES),
    }
    if problems := _problems(entries):
        files[QUARANTINE] = write_quarantine(output.path, problems)
    return output.finish(entries, files)


def derived(
    checkpoint: str, domains: Domains, edges: Mapping[str, pa.Table], draws: int, seed: int
) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """The rows of a checkpoint in the tables that follow from what its blocks gave and did."""
    circuits = {domain: read_circuits(edges[domain], list(domains[domain])) for domain in domains}
    yield CKA, cka_rows(checkpoint, domains, draws, seed)
    yield NEURONS, neuron_rows(checkpoint, domains, draws, seed)
    yield COMPLETENESS, completeness_rows(checkpoint, domains)
    yield CIRCUITS, circuit_rows(checkpoint, circuits, draws, seed)


def _table(name: str, rows: Iterator[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMAS[name])


def _problems(manifest: Mapping[str, Any]) -> list[Problem]:
    """What could not be used of each domain; all checkpoints have met the same."""
    first = manifest["checkpoints"][0]["name"]
    return [
        Problem(**problem)
        for domain in manifest["domains"]
        for problem in manifest["units"][f"{first}/{domain['name']}"]["problems"]
    ]
