"""What a report is made from: inputs with their sums, models and seeds, and the calls that made it.

All of it is said by the inputs' own manifests, and by the settings and certificates that lie beside
their folders. Of machines only trainings have a note: nothing else depends on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipgap.files.documents import checksum
from clipgap.files.settings import read_settings
from clipgap.report.parts import File, Files, Findings, Section
from clipgap.report.sources import Sources
from clipgap.report.tables import Cell, Column, Table
from clipgap.scan.result import ScanResult


def findings(sources: Sources) -> Findings:
    scans = {
        "scan": sources.scans,
        "reference": () if sources.reference is None else (sources.reference,),
        "other embedding": sources.embeddings,
    }
    inputs = [
        _input(kind, one.name, one.scan.path, one.scan.manifest, one.scan.rows)
        for kind, given in scans.items()
        for one in given
    ]
    inputs += [
        _input("split", name, keep.path, keep.manifest, keep.rows)
        for name, keep in sources.splits.items()
    ]
    inputs += [
        _input("evaluation", one.path.name, one.path, one.manifest, None)
        for one in sources.evaluations
    ]
    inputs += [
        _input("analysis", one.path.name, one.path, one.manifest, None) for one in sources.analyses
    ]
    inputs += [
        _input("domains", name, one.path, one.manifest, one.counts["rows"])
        for name, one in sources.domains.items()
    ]
    inputs += [
        _input("heads", name, one.path, one.manifest, None) for name, one in sources.heads.items()
    ]
    return {
        "made_from": {
            "inputs": inputs,
            "images": [
                {"name": name, **one.identity(), "bytes": sum(file.size for _, file in one.files)}
                for name, one in sources.images.items()
            ],
            "models": _models(one.scan for given in scans.values() for one in given),
            "checkpoints": [
                {key: each.get(key) for key in ("name", "model", "pretrained", "sha256", "trained")}
                for one in sources.evaluations
                for each in one.manifest["checkpoints"]
            ],
            "certificates": sources.certificates,
        }
    }


def _input(
    kind: str, name: str, path: Path | None, manifest: Mapping[str, Any], rows: int | None
) -> dict[str, Any]:
    """What an input's manifest says of it, and the call that made it, if that is there."""
    rule = manifest.get("rule", {})
    seeds = {"seed": rule["seed"]} if "seed" in rule else {}
    call = None if path is None else read_settings(path)
    return {
        "kind": kind,
        "name": name,
        "rows": rows,
        "bytes": sum(int(entry["size"]) for entry in manifest.get("files", {}).values()),
        "settings": dict(manifest.get("settings", seeds)),
        "versions": dict(manifest["versions"]),
        "manifest_sha256": checksum(manifest),
        "call": call,
    }


def _models(scans: Iterator[ScanResult]) -> list[dict[str, Any]]:
    """Each model that embedded one of the stores, with the stores; an unknown one as null."""
    found: dict[str, dict[str, Any]] = {}
    for scan in scans:
        inputs = scan.manifest["inputs"]
        for store in (inputs["train"], *inputs["tests"]):
            for model in store.get("models") or [None]:
                entry = found.setdefault(json.dumps(model, sort_keys=True), {"model": model})
                stores = entry.setdefault("stores", [])
                if store["path"] not in stores:
                    stores.append(store["path"])
    return list(found.values())


def _inputs(findings: Findings) -> Iterator[Table]:
    made = findings["made_from"]
    images = [
        {**one, "kind": "images", "rows": None, "settings": {}, "versions": {}}
        | {"manifest_sha256": one["sha256"]}
        for one in made["images"]
    ]
    yield Table(
        "inputs",
        "Inputs",
        "What this report was made from, as it says itself. SHA-256 of its manifest; of images, of "
        "names, sizes and sampled bytes.",
        (
            Column("input"),
            Column("name"),
            Column("rows", "count"),
            Column("bytes", "count"),
            Column("settings"),
            Column("versions"),
            Column("SHA-256"),
        ),
        tuple(
            (
                Cell(one["kind"]),
                Cell(one["name"]),
                Cell(one["rows"]),
                Cell(one["bytes"]),
                Cell(_said(one["settings"])),
                Cell(_said(one["versions"])),
                Cell(one["manifest_sha256"]),
            )
            for one in (*made["inputs"], *images)
        ),
    )


def _embedded_by(findings: Findings) -> Iterator[Table]:
    yield Table(
        "models",
        "Models of the embeddings",
        "As the stores name them; a store that names none was made elsewhere.",
        (Column("stores"), Column("model"), Column("weights"), Column("SHA-256 of the weights")),
        tuple(
            (
                Cell(", ".join(one["stores"])),
                *(
                    Cell((one["model"] or {}).get(key))
                    for key in ("model", "pretrained", "checkpoint_sha256")
                ),
            )
            for one in findings["made_from"]["models"]
        ),
    )


def _checkpoints(findings: Findings) -> Iterator[Table]:
    yield Table(
        "checkpoints",
        "Checkpoints",
        "What was evaluated, and what its training noted: another machine, or more of them, may "
        "round otherwise.",
        (
            Column("checkpoint"),
            Column("model"),
            Column("weights"),
            Column("SHA-256"),
            Column("seed"),
            Column("trained on"),
        ),
        tuple(
            (
                *(Cell(one[key]) for key in ("name", "model", "pretrained", "sha256")),
                Cell((one["trained"] or {}).get("seed")),
                Cell(_machine(one["trained"] or {})),
            )
            for one in findings["made_from"]["checkpoints"]
        ),
    )


def _machine(trained: Mapping[str, Any]) -> str | None:
    if not trained:
        return None
    cores = f"{trained['cores']:,} cores of {trained['cpu']}"
    return f"{trained['device']}, {cores}, {trained['memory_gib']:g} GiB"


def _calls(findings: Findings) -> Iterator[Files]:
    made = findings["made_from"]
    calls = [
        File(f"{one['call']['command']} · {one['name']}", f"call-{n}.toml", one["call"]["settings"])
        for n, one in enumerate(made["inputs"], 1)
        if one["call"]
    ]
    yield Files(
        "calls",
        "Calls",
        "The settings beside each input's folder: --config takes them, and makes it again.",
        calls,
    )
    yield Files(
        "certificates",
        "Certificates",
        "What clipgap verify proved of the splits, in full.",
        [
            File(name, f"certificate-{n}.json", json.dumps(found, indent=2, sort_keys=True))
            for n, (name, found) in enumerate(made["certificates"].items(), 1)
        ],
    )


def _said(values: Mapping[str, Any]) -> str:
    """Settings or versions in a line."""
    return " · ".join(
        f"{name} {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in values.items()
        if value is not None
    )


PROVENANCE = Section(
    "made-from", "Made from", findings, (_inputs, _embedded_by, _checkpoints, _calls)
)
