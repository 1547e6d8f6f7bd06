"""Sections of domains, groups and mixes: what is drawn is what folders say, and sums by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.clip.eval.api import KIND as EVALUATION
from clipgap.clip.eval.api import PAIRED, SUMMARY
from clipgap.clip.eval.subset_tables import as_files, subset_tables
from clipgap.clip.eval.tables import (
    PAIRED_SCHEMA,
    SUMMARY_SCHEMA,
    as_table,
    compare,
    samples_schema,
    summarise,
)
from clipgap.errors import InputError, UsageError
from clipgap.files.documents import MANIFEST, write_document
from clipgap.files.parquet import FileSum
from clipgap.heads.heads import HEADS
from clipgap.report.sections.groups import places_of
from tests import test_report_pages
from tests.report_worlds import put
from tests.test_heads import MODEL, fitted, write_world

browser = test_report_pages.browser

CLASSES = ("axe", "bed", "cup")
SUBSETS = [
    {"name": "queried", "classes": [0], "keys_sha256": None},
    {"name": "other", "classes": [1, 2], "keys_sha256": None},
    {"name": "clean", "classes": [0, 2], "keys_sha256": "0"},
]
RIGHT = {"low": 0.3, "half": 0.5, "upper": 0.8, "web": 0.6}
"""How often models are right."""

RECIPE = """
[pool]
store = "store"
labels = ["labels.parquet"]
[task]
natural = "natural"
test = "rendition"
queried = ["axe"]
[mixes.low]
rule = "low-diversity"
rows = 60
[mixes.half]
rule = "share-seen"
share = 0.5
diversity = "low"
rows = 60
[mixes.upper]
rule = "upper-bound"
diversity = "low"
rows = 60
[mixes.even]
rule = "ratio"
rows = 60
parts = { natural = 1, rendition = 1 }
[mixes.photos]
rule = "natural-only"
rows = 60
[mixes.any]
rule = "random"
rows = 60
"""
MIXES = ("low", "half", "upper", "even", "photos", "any")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads, domains, mixes, and an evaluation of models that were trained on mixes."""
    folder = write_world(tmp_path_factory.mktemp("report-domains"))
    fitted(folder, precision=0.97)
    clipgap.label_domains(str(folder / "store"), folder / "heads", out=folder / "d", model=MODEL)
    (folder / "mixes.toml").write_text(RECIPE)
    for name in MIXES:
        clipgap.mix(folder / "mixes.toml", mix=name, out=folder / name)
    checkpoints = {f"{name}-{seed}": share for name, share in RIGHT.items() for seed in (0, 1)}
    pools = {name: [f"{name}-0", f"{name}-1"] for name in RIGHT}
    write_grouped(folder / "pooled", checkpoints, pools)
    plain = {"photos": 0.4, "even": 0.7, "any": 0.6}
    write_grouped(folder / "plain", plain, {}, [])
    return folder


def write_grouped(
    out: Path,
    checkpoints: Mapping[str, float],
    pools: Mapping[str, list[str]],
    subsets: list[dict[str, Any]] = SUBSETS,
) -> None:
    """An evaluation on one set, by the functions that make its tables of samples."""
    n, files = 60, dict[str, FileSum]()
    label = np.arange(n) % len(CLASSES)
    test = "sketch" if subsets else "val"
    tables = {}
    for number, (name, share) in enumerate(checkpoints.items()):
        correct = np.random.default_rng(number).random(n) < share
        said = np.where(correct, label, (label + 1) % len(CLASSES)).astype(np.int32)
        columns: dict[str, Any] = {
            "row": np.arange(n),
            "key": [f"{row}.jpg" for row in range(n)],
            "group": pa.nulls(n, pa.string()),
            "label": label.astype(np.int32),
            "prediction": said,
            "correct": correct,
            "correct5": np.ones(n, bool),
            "margin": np.where(correct, 1.0, -1.0),
        }
        for each in subsets:
            inside = np.isin(label, each["classes"])
            if each["name"] == "clean":
                inside &= np.arange(n) % 4 == 0
            own = np.where(np.isin(said, each["classes"]), said, label).astype(np.int32)
            columns[f"within_{each['name']}"] = pa.array(own, mask=~inside)
        schema = samples_schema([each["name"] for each in subsets])
        columns = {field.name: pa.array(columns[field.name], field.type) for field in schema}
        tables[name] = pa.table(columns, schema=schema)
        put(out, f"samples/{name}/{test}.parquet", tables[name], files)
    lists = {"classes": list(CLASSES), "keys": list(CLASSES), "templates": [], "groups": []}
    entry = {"name": test, "path": test, "samples": n, "identity": "", "border": 0, **lists}
    entry |= {"quarantined": 0, **({"subsets": subsets} if subsets else {})}
    summary = [row for name, t in tables.items() for row in summarise(name, test, 3, t)]
    put(out, SUMMARY, as_table(summary, SUMMARY_SCHEMA), files)
    paired = as_table(list(compare(test, tables, 100, 0)), PAIRED_SCHEMA)
    put(out, PAIRED, paired, files)
    rows = subset_tables(entry, tables, pools, 100, 0)
    for name, schema, found in as_files(*rows) if subsets else ():
        put(out, name, as_table(list(found), schema), files)
    model = {"model": "tiny", "pretrained": "", "sha256": None, "config_sha256": None}
    write_document(
        out / MANIFEST,
        EVALUATION.form,
        {
            "kind": "eval",
            "checkpoints": [{"name": name, **model} for name in checkpoints],
            "sets": [entry],
            **({"pools": pools} if pools else {}),
            "settings": {"precision": "fp32", "draws": 100, "seed": 0},
            "units": {},
            "versions": {},
            "files": {name: asdict(one) for name, one in files.items()},
        },
    )


@pytest.fixture(scope="module")
def report(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a scan: domains, heads, mixes and evaluations stand alone."""
    return clipgap.report(
        domains={"LAION-200M": world / "d"},
        heads=world / "heads",
        splits=[world / name for name in MIXES],
        evals=[world / "pooled", world / "plain"],
        out=tmp_path_factory.mktemp("made") / "r",
    ).path


def read(report: Path) -> Any:
    return json.loads((report / "report.json").read_text())


def figures(report: Path, name: str) -> dict[str, str]:
    """Drawings by the names of their files."""
    found = sorted((report / "figures").glob(f"{name}-[0-9]*.svg"))
    return {path.stem.removeprefix(f"{name}-"): path.read_text() for path in found}


def test_compositions_are_those_of_the_command(world: Path, report: Path) -> None:
    found = read(report)["compositions"]
    whole, *mixes = clipgap.composition(
        {"LAION-200M": world / "d"}, keep=[world / name for name in MIXES]
    )
    told = json.loads(json.dumps([each.to_json() for each in (whole, *mixes)]))
    assert found == [{name: each[name] for name in each if name != "path"} for each in told]
    first, *_, last = figures(report, "composition").values()
    assert len(list((report / "figures").glob("composition-*"))) == 6  # five sets in one, then two
    assert "any, truly rendition: " in last
    share = whole.said["strict"]["natural"] / whole.rows
    assert f"LAION-200M, natural, strict: {share:.2%}" in first
    assert first.count('class="rule"') == 3  # the paper's two, and one in the legend
    rows = (report / "tables/compositions.csv").read_text().splitlines()
    printed = next(row for row in rows if row.startswith("LAION-200M,strict")).split(",")
    assert {"0.284", "0.637", "0.079"} <= set(printed)


def test_curves_of_heads(world: Path, report: Path) -> None:
    (found,) = read(report)["heads"]
    curve = pq.read_table(world / "heads" / "curve.parquet").to_pylist()
    manifest = json.loads((world / "heads" / MANIFEST).read_text())
    drawn = figures(report, "heads")
    assert found["heads"] == manifest["heads"] and len(drawn) == len(HEADS)
    for head, drawing in zip(HEADS, drawn.values(), strict=True):
        assert found["curves"][head] == [row for row in curve if row["head"] == head]
        strict = manifest["heads"][head]["found"]["strict"]
        tip = f"{head}, strict: precision {strict['precision']:.2%}, {strict['accepted']} accepted"
        assert tip in drawing
        assert drawing.count("median s0") == 2  # both thresholds
    page = (report / "index.html").read_text()
    assert "even without an error it takes" in page  # a doubt is told
    assert "How similar" not in page and "training rows</dt>" not in page


def test_three_ways_and_groups(world: Path, report: Path) -> None:
    found = read(report)["subsets"]
    assert found["rows"] == pq.read_table(world / "pooled" / "subsets.parquet").to_pylist()
    assert found["clean"] == [["sketch", "clean"]]
    (clean,), (groups,) = (figures(report, name).values() for name in ("clean", "groups"))
    for name in RIGHT:
        for drawing, label, subset, among in (
            (clean, "standard", None, "all"),
            (clean, "clean", "clean", "all"),
            (clean, "fewer classes", "clean", "subset"),
            *((groups, each or "all", each, "all") for each in (None, "queried", "other")),
        ):
            (row,) = (
                row
                for row in found["rows"]
                if (row["checkpoint"], row["subset"], row["among"], row["over"])
                == (name, subset, among, "images")
            )
            assert f"{name}, {label}: {row['accuracy']:.2%} of {row['images']} images" in drawing
    assert "low-0" not in groups  # pools alone are drawn
    table = (report / "tables/subsets.csv").read_text()
    assert "sketch,queried,low-0," in table
    assert not any("low-0" in row.values() for row in read(report)["paired"])
    matrices = [path.read_text() for path in (report / "tables").glob("subset-differences-*.csv")]
    assert len(matrices) == 4 and "low-0" not in "".join(matrices)  # the whole set and its subsets


def test_places_on_curves_by_hand(world: Path, report: Path) -> None:
    """Shares of mixes, from their kept rows."""
    labels = pq.read_table(world / "labels.parquet").to_pylist()
    domain = {(row["shard"], row["row"]): row["domain"] for row in labels}
    found = read(report)["by_mix"]

    def points(by: str, test: str, series: str, subset: str | None = None) -> dict[str, float]:
        (curve,) = (
            one
            for one in found
            if (one["by"], one["set"], one["series"], one["subset"]) == (by, test, series, subset)
        )
        xs = [point["x"] for point in curve["points"]]
        assert xs == sorted(xs)
        return {point["name"]: point["x"] for point in curve["points"]}

    share = {}
    for name in MIXES:
        kept = [
            domain[row["shard"], row["row"]]
            for part in (world / name / "keep").glob("*.parquet")
            for row in pq.read_table(part).to_pylist()
        ]
        share[name] = sum(each != "natural" for each in kept) / len(kept)
    assert points("ratio", "val", "60 rows") == {n: share[n] for n in ("photos", "even")}
    assert points("ratio", "val", "60 rows, at random") == {"any": share["any"]}
    for subset in (None, "queried", "other", "clean"):
        seen = points("seen", "sketch", "low diversity", subset)
        assert seen == {"low": 0, "half": 0.5, "upper": 1}
    drawn = figures(report, "accuracy-by-seen")
    assert list(drawn) == ["1-sketch", "2-sketch-queried", "3-sketch-other", "4-sketch-clean"]
    accuracy = next(
        row["accuracy"]
        for row in read(report)["subsets"]["rows"]
        if (row["checkpoint"], row["subset"], row["over"]) == ("half", "queried", "images")
    )
    assert f"half: 50.0%, accuracy {accuracy:.2%}" in drawn["2-sketch-queried"]


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ({"rule": "high-diversity"}, ("seen", "high diversity", 0)),
        ({"rule": "share-seen", "share": "0.05"}, ("seen", "high diversity", 0.05)),
        ({"rule": "upper-bound", "diversity": "low"}, ("seen", "low diversity", 1)),
        ({"rule": "leave-domain-out"}, None),
        ({"rule": "steps"}, ("ratio", "40 rows", 0.25)),
    ],
)
def test_where_a_mix_lies(said: dict[str, Any], place: tuple[str, str, float] | None) -> None:
    rule = {"mix": "m", "mixes": {"m": said}, "task": {}, "base": [], "extra": []}
    rule |= {"domain": "domain", "seed": 0, "order": "hash"}
    cells = [{"domain": "natural", "after": 30}, {"domain": "sketch", "after": 10}]
    found = list(places_of(rule, {"cells": cells}))
    assert found == ([] if place is None else [place])
    if said["rule"] == "steps":  # nothing is called natural: no ratio
        assert list(places_of({**rule, "task": {"natural": "photo"}}, {"cells": cells})) == []


def test_a_scan_with_heads_says_its_composition(world: Path, tmp_path: Path) -> None:
    store, heads = str(world / "store"), world / "heads"
    clipgap.scan(store, {"val": store}, heads=heads, model=MODEL, out=tmp_path / "web", threads=1)
    made = clipgap.report(
        tmp_path / "web", splits=world / "even", out=tmp_path / "r", format="json"
    )
    found = read(made.path)["compositions"]
    assert [each["name"] for each in found] == ["web", "even"]
    whole = clipgap.composition(world / "d")[0]
    assert found[0]["said"] == whole.said
    assert "domains" not in made.manifest["inputs"]


@pytest.mark.parametrize("width", [1440, 1024, 390])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_nobody_is_kept_out(browser: Any, report: Path, width: int, mode: str) -> None:
    """As of the pages about similarity: axe finds nothing."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=mode)
    seen = test_report_pages.Watched(context, report)
    found = axe.run(seen.open("index.html")).response["violations"]
    assert [(rule["id"], [n["target"] for n in rule["nodes"]]) for rule in found] == []
    context.close()


def test_proofs_and_refusals(world: Path, report: Path, tmp_path: Path) -> None:
    assert clipgap.verify(report).ok
    manifest = json.loads((report / MANIFEST).read_text())
    assert set(manifest["inputs"]["domains"]) == {"LAION-200M"}
    with pytest.raises(UsageError, match="needs something to show"):
        clipgap.report(out=tmp_path / "r")
    with pytest.raises(UsageError, match="beside a scan"):
        clipgap.report(domains=world / "d", reference=world / "d", out=tmp_path / "r")
    with pytest.raises(InputError, match="folder of heads"):
        clipgap.report(heads=world / "d", out=tmp_path / "r")
