"""Reports: every number by an oracle, every format, what is refused, and that equal is equal."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

import clipgap
from clipgap.__main__ import main
from clipgap.clip.eval.api import KIND as EVALUATION
from clipgap.errors import InputError, ResumeError, UsageError
from clipgap.files.documents import MANIFEST, write_document
from clipgap.files.parquet import FileSum
from clipgap.files.settings import HEADER, settings_file
from clipgap.keep.certificates import certificate_file, write_certificate
from clipgap.keep.lists import open_keep
from clipgap.report import contents, page
from clipgap.report.api import plan_report
from clipgap.report.paper import read_paper
from clipgap.report.parts import Figure, Findings, Note, Part, Section
from clipgap.report.sections import accuracy, pruning
from clipgap.report.sections.how_near import bin_of
from clipgap.report.sections.pruning import describe_rule, family_of
from clipgap.report.sources import Images
from clipgap.report.svg import Drawing, linear
from clipgap.report.tables import Cell, Column, Table, beside, to_csv, to_latex, to_markdown
from clipgap.report.thresholds import Thresholds
from clipgap.scan.tables import SetColumns
from clipgap.select.rules import Prune, Rand
from tests import report_oracle
from tests.report_worlds import CLASSES, Sizes, Study, make_study, put, shared_study
from tests.test_verify import sign
from tests.thorough import examples
from tests.worlds import edited_document, edited_manifest, flip_bit, tree

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

APPROXIMATE = {"slope", "intercept", "expected", "effective_robustness"}
APPROXIMATE |= {"accuracy_low", "accuracy_high"}
"""Where oracle and report round differently on the way: a fit, and Wilson's square root."""

ENDS = ("", " low", " high")
"""Of the columns of a number with its interval."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return shared_study(tmp_path_factory)


@pytest.fixture(scope="module")
def report(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report"
    return clipgap.report(**study.inputs, out=out, title="A study").path


def read(report: Path) -> Any:
    return json.loads((report / "report.json").read_text())


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, dict):
        for name in expected:
            assert_same(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{where}[{number}]")
    elif where.rpartition(".")[2] in APPROXIMATE:
        assert found == pytest.approx(expected, rel=1e-11, abs=1e-14), where
    else:
        assert found == expected, where


def test_every_number_by_an_oracle(study: Study, report: Path) -> None:
    paper = tomllib.loads((study.folder / "paper.toml").read_text())
    expected = report_oracle.findings(study.inputs, paper)
    found = read(report)
    assert_same(found, expected)
    # Nothing is reported that the oracle does not know of.
    beyond = {
        "format",
        "version",
        "title",
        "paper",
        "models",
        "versions",
        "embeddings",
        "made_from",
    }
    assert found.keys() - expected.keys() == beyond
    assert any(test["training"]["web"]["near_duplicates_l2"] for test in found["tests"])
    assert found["paper"]["rows"] == paper["rows"]


def test_the_finding_is_held_against_a_control(study: Study, tmp_path: Path) -> None:
    """A random split of the same size, whose difference stands the other way round."""
    kept = open_keep(study.folder / "sketch-pruned").kept
    clipgap.split(study.folder / "scan", Rand(kept, 3), out=tmp_path / "rand-90")
    folder = copied(study, tmp_path, "eval")
    row = {"set": "sketch", "group": None, "first": "sketch-pruned", "second": "rand-90"}
    row |= {"difference": -0.165, "low": -0.211, "high": 0.004, "draws": 10, "seed": 0}
    schema = pq.read_schema(folder / "paired.parquet")
    sums: dict[str, FileSum] = {}
    put(folder, "paired.parquet", pa.Table.from_pylist([row], schema=schema), sums)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["paired.parquet"] = vars(sums["paired.parquet"])
    write_document(folder / MANIFEST, EVALUATION.form, manifest)
    splits = [study.folder / "sketch-pruned", tmp_path / "rand-90", study.folder / "rand-70"]
    inputs = {"scans": study.inputs["scans"], "evals": folder, "splits": splits}
    found = read(clipgap.report(**inputs, out=tmp_path / "r", format="json").path)["finding"]
    assert (found["split"], found["control"]) == ("sketch-pruned", "rand-90")
    assert found["difference"] == {"difference": 0.165, "low": -0.004, "high": 0.211}
    assert [bar["name"] for bar in found["bars"]] == ["web", "rand-90", "sketch-pruned"]
    assert (
        " when as many go at random: a difference of 16.5 points (95\u00a0% −0.4 to 21.1)."
        in (found["says"])
    )


def test_without_models_the_finding_is_of_similarity(study: Study, tmp_path: Path) -> None:
    near = clipgap.report(study.folder / "scan", out=tmp_path / "r")
    found, test = read(near.path)["finding"], read(near.path)["tests"][1]
    assert (found["kind"], found["test"], test["name"]) == ("similarity", "sketch", "sketch")
    share = test["training"]["scan"]["nearer_share"]
    nearer = test["training"]["scan"]["nearer"]
    assert found["bars"][1]["share"] == share
    assert found["says"].startswith(
        f"{nearer} of 110 test points of sketch are nearer to scan than to reference: {share:.1%} ("
    )
    assert found["says"] in near.page.read_text()
    plain = clipgap.report(study.folder / "gap", out=tmp_path / "s", format="json")
    found, tests = read(plain.path)["finding"], read(plain.path)["tests"]
    shares = [test["training"]["gap"]["near_duplicates"] / test["points"] for test in tests]
    assert [bar["share"] for bar in found["bars"]] == shares
    assert "have a near duplicate in gap (similarity above 0.95)" in found["says"]
    assert found["split"] is None and read(plain.path)["training"][0]["pruned"] == {}


def test_the_finding_goes_by_the_limit_of_a_split(study: Study, tmp_path: Path) -> None:
    """As `clipgap check --above` makes it: the page and the terminal say the same."""
    clipgap.split(study.folder / "gap", below=0.8, by=["sketch"], out=tmp_path / "cut")
    made = clipgap.report(
        study.folder / "gap", splits={"cut": tmp_path / "cut"}, out=tmp_path / "r", format="json"
    )
    found = read(made.path)["finding"]
    shares = {bar["name"]: bar["near"] for bar in found["bars"]}
    scan = clipgap.open_scan(study.folder / "gap")
    above = {"val": 0.95, "sketch": 0.8}
    assert shares == {test: int((scan.tau(test) > above[test]).sum()) for test in above}
    assert (found["test"], found["split"]) == ("sketch", "cut")
    assert shares["sketch"] > 0 and found["says"].startswith(
        f"{shares['sketch']} of 110 test points of sketch have a row of gap more similar than 0.8: "
    )


def test_differences_are_a_matrix_a_test_set() -> None:
    names = ["web", "far", "near"]
    pairs = [
        {
            "set": test,
            "group": None,
            "first": a,
            "second": b,
            "difference": d,
            "low": low,
            "high": d,
        }
        for test in ("val", "sketch")
        for a, b, d, low in (
            ("web", "far", 0.2, 0.1),
            ("web", "near", -0.2, -0.3),
            ("far", "near", 0.1, -0.1),
        )
    ]
    tables = list(accuracy._differences({"paired": pairs}))
    assert [table.name for table in tables] == ["differences-1", "differences-2"]
    for table in tables:
        assert [column.title for column in table.columns] == ["model", *names[1:]]
        assert [[cell.value for cell in row] for row in table.rows] == [
            ["web", 0.2, -0.2],
            ["far", None, 0.1],
        ]
        shades = [[page._heat(table, row, cell) for cell in row[1:]] for row in table.rows]
        assert shades == [["more", "less"], ["", ""]]


def test_how_far_ours_is_from_the_paper() -> None:
    cell = Cell(0.6454, paper=0.5021)
    assert beside(cell, "percent") == "paper 50.21, +14.33"
    assert beside(Cell(0.5, paper=0.5021), "percent") == "paper 50.21, −0.21"
    assert beside(Cell(90, paper=100), "count") == "paper 100, −10.0%"
    assert beside(Cell(0.9, paper=0.87), "score") == "paper 0.8700, +0.0300"
    for value in (None, "far"):
        assert beside(Cell(value, paper=100), "count") == "paper 100"
    assert beside(Cell(3, paper=0), "count") == "paper 0"


def test_tables_hold_the_numbers_of_the_report(report: Path) -> None:
    found = read(report)
    lines = list(csv.DictReader((report / "tables/accuracies.csv").open()))
    rows = {(r["checkpoint"], r["set"]): r for r in found["accuracy"] if r["metric"] == "top1"}
    removed = {split["name"]: split["removed"] for split in found["splits"]}
    assert len(lines) == 10
    for line in lines:
        for test in ("val", "sketch"):
            row = rows[line["training set"], test]
            assert float(line[test]) == row["accuracy"]
            assert float(line[f"{test} low"]) == row["low"]
        name = line["training set"]
        assert line["removed"] == str(removed.get(name, ""))
        if name == "sketch-pruned":
            assert (line["removed paper"], float(line["sketch paper"])) == ("8342783", 0.4478)
    near = list(csv.DictReader((report / "tables/test-sets.csv").open()))
    for line in near:
        test = next(t for t in found["tests"] if t["name"] == line["test set"])
        of = test["training"][line["training set"]]
        assert int(line["near duplicates"]) == of["near_duplicates"]
        assert float(line["median s"]) == of["median"]
    latex = (report / "tables/accuracies.tex").read_text()
    assert latex.count(r"\\") == 11
    assert r"\toprule" in latex


def test_what_a_training_noted_is_on_the_page(study: Study, tmp_path: Path) -> None:
    lacking = shutil.copytree(study.folder / "eval", tmp_path / "eval")
    with edited_manifest(lacking) as manifest:
        far = next(c for c in manifest["checkpoints"] if c["name"] == "far-90")
        far["missing"] = 1_234
        far["trained"] = {
            "seed": 77_123,
            "device": "8 x A100",
            "cpu": "a cpu",
            "cores": 96,
            "memory_gib": 1000.5,
        }
    inputs = {"splits": {"far-90": study.folder / "far-90"}, "evals": [lacking]}
    made = clipgap.report({"web": study.folder / "scan"}, out=tmp_path / "r", **inputs)
    assert read(tmp_path / "r")["missing"] == {"far-90": 1_234}
    text = made.page.read_text()
    assert "1,234" in text and "since no shard held them" in text
    assert "77123" in text and "8 x A100, 96 cores of a cpu, 1000.5 GiB" in text
    lines = csv.DictReader((tmp_path / "r/tables/accuracies.csv").open())
    found = {line["training set"]: line["missing"] for line in lines}
    assert found["far-90"] == "1234" and found["near-90"] == ""


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        (["a/1", "a/2"], ["a/1", "a/2"], True),
        (["/data/val/a/1", "/data/val/a/2"], ["a/1", "a/2"], True),
        ([None, "/data/val/a/2"], ["a/1", "a/2"], True),
        (["/data/val/a/1", "/data/test/a/2"], ["a/1", "a/2"], False),
        (["/data/val/aa/1", "/data/val/a/2"], ["a/1", "a/2"], False),
        (["/data/val/a/2", "/data/val/a/1"], ["a/1", "a/2"], False),
    ],
)
def test_paths_of_test_points_may_be_whole(
    ours: list[str | None], theirs: list[str], fits: bool
) -> None:
    """As clip-retrieval's input format `files`, and clip-ood, have them: behind one folder."""
    keys = SimpleNamespace(keys=pa.array(ours, pa.string()))
    large = SimpleNamespace(points=lambda test: keys, scan=SimpleNamespace(label="scan"))
    columns = {"row": [0, 1], "key": theirs, "label": [0, 1], "correct": [True, False]}
    with nullcontext() if fits else pytest.raises(InputError, match="in the same order"):
        found = accuracy._joined(pa.table(columns), large, "val", "eval")
        assert found.correct.tolist() == [True, False]


def test_what_a_section_makes_is_on_the_page(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A figure that nobody has heard of, in a section of its own and in one that is there."""

    def points(findings: Findings) -> Iterator[Part]:
        drawing = Drawing("Every <b>", linear(0, 1, "x"), linear(0, 100, "y"))
        for number, test in enumerate(findings["tests"]):
            drawing.dot(number / 2, test["points"], 1, test["name"])
        yield Figure("points", "Points", "Of each test set.", [drawing])
        yield Figure("nothing", "Nothing", "To be seen.", [])
        yield Note("What strangers <i>wrote</i>.")

    new = Section("new", "New & shiny", lambda sources: {"new": 3}, (points,))
    old = replace(contents.SECTIONS[0], parts=(points, *contents.SECTIONS[0].parts))
    monkeypatch.setattr(contents, "SECTIONS", (old, *contents.SECTIONS[1:], new))
    made = clipgap.report(study.folder / "scan", out=tmp_path / "r")
    text = made.page.read_text()
    before, after = text.split('<section id="new">\n<h2>New &amp; shiny</h2>')
    for part in (before, after):
        assert part.count('<figure id="points">') == 1
        assert part.count('href="figures/points-1-every-b.svg"') == 1
        assert "What strangers &lt;i&gt;wrote&lt;/i&gt;." in part
    assert "Every <b>" not in text
    assert 'id="nothing"' not in text
    assert (made.path / "figures/points-1-every-b.svg").is_file()
    assert read(made.path)["new"] == 3


def gallery(report: Path, name: str) -> Any:
    return loaded(report, f"data/{name}")


def loaded(report: Path, name: str) -> Any:
    text = (report / name).read_text()
    assert text.startswith("clipgapData(")
    assert "<" not in text
    return json.loads(f"[{text.strip()[len('clipgapData(') : -2]}]")[1]


def test_gallery_shows_what_the_tables_say(study: Study, report: Path) -> None:
    about = gallery(report, "gallery.js")
    packs = [
        loaded(report, f"thumbs/{path.name}") for path in sorted((report / "thumbs").iterdir())
    ]
    assert [len(pack) for pack in packs[:-1]] == [about["pack"]] * (len(packs) - 1)
    for number, of in enumerate(about["sets"]):
        scan = pq.read_table(study.folder / f"scan/test/{of['name']}.parquet").to_pylist()
        gap = pq.read_table(study.folder / f"gap/test/{of['name']}.parquet").to_pylist()
        answers = {
            name: pq.read_table(study.folder / f"eval/samples/{name}/{of['name']}.parquet")
            for name in of["checkpoints"]
        }
        index = gallery(report, f"{number}/index.js")
        pages = sorted((report / f"data/{number}").glob("0*.js"))
        points = [p for page in pages for p in gallery(report, f"{number}/{page.name}")]
        assert sorted(point[0] for point in points) == list(range(len(scan)))
        assert index["similarity"] == sorted(index["similarity"], reverse=True)
        kept = {name: clipgap_keep(study.folder / name) for name in of["splits"]}
        for place, point in enumerate(points):
            row, key, picture, marks, near, listed, splits, in_reference, of_reference = point
            line = scan[row]
            assert key == line["key"]
            thumbnail = packs[picture // about["pack"]][picture % about["pack"]]
            assert b64decode(thumbnail.removeprefix("data:image/webp;base64,"))[8:12] == b"WEBP"
            assert index["similarity"][place] == round(line["nn_sim"][0], 6)
            assert index["threshold"][place] == round(gap[row]["nn_sim"][0], 6)
            assert index["label"][place] == answers["web"]["label"][row].as_py()
            assert marks == "".join("01"[a["correct"][row].as_py()] for a in answers.values())
            neighbours = list(
                zip(line["nn_key"], line["nn_sim"], line["nn_shard"], line["nn_row"], strict=True)
            )
            assert shown(near, listed) == folded(neighbours)
            other = zip(gap[row]["nn_key"], gap[row]["nn_sim"], strict=True)
            assert shown(in_reference, of_reference) == folded(list(other))
            for name, left, moved in zip(of["splits"], splits, index["moved"], strict=True):
                rest = [n for n in neighbours if n[2:] in kept[name]]
                assert shown(near, listed if left == 0 else left) == folded(rest)
                best = rest[0][1] if rest else None
                assert moved[place] == "01"[best != line["nn_sim"][0]]
    assert any("1" in moved for moved in index["moved"])
    assert any(copies > 1 for point in points for copies in point[5][1::2])


def clipgap_keep(path: Path) -> set[tuple[int, int]]:
    parts = [pq.read_table(part) for part in sorted((path / "keep").iterdir())]
    table = pa.concat_tables(parts)
    return set(zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True))


def shown(near: list[Any], places: list[int]) -> list[tuple[str, float, int]]:
    pairs = zip(places[::2], places[1::2], strict=True)
    return [(near[place][0], near[place][1], copies) for place, copies in pairs]


def folded(neighbours: list[Any]) -> list[tuple[str, float, int]]:
    """The first six scores that differ, each with its first key and how many have it."""
    scores = list(dict.fromkeys(n[1] for n in neighbours))[:6]
    same = {score: [n[0] for n in neighbours if n[1] == score] for score in scores}
    return [(keys[0], round(score, 6), len(keys)) for score, keys in same.items()]


def test_equal_inputs_give_equal_folders(study: Study, tmp_path: Path) -> None:
    some = {name: study.inputs["images"][name] for name in ("val", "sketch")}
    inputs = {**study.inputs, "images": some, "title": "A study"}
    report = clipgap.report(**inputs, out=tmp_path / "report").path
    again = clipgap.report(**inputs, out=tmp_path / "again").path
    assert tree(again) == tree(report)
    assert clipgap.report(**inputs, out=again, resume=True).already_complete
    with pytest.raises(InputError, match="already holds a finished report"):
        clipgap.report(**inputs, out=again)
    with pytest.raises(ResumeError, match="settings title"):
        clipgap.report(**{**inputs, "title": "Another"}, out=again, resume=True)
    flip_bit(again / "report.json", 100)
    assert not clipgap.report(**inputs, out=again, resume=True).already_complete
    assert tree(again) == tree(report)
    fewer = {**inputs, "splits": {}, "evals": []}
    clipgap.report(**fewer, out=again, overwrite=True)
    assert not (again / "split-1.html").exists()  # nothing is left of the report before
    assert not (again / "tables/accuracies.csv").exists()


def test_images_that_became_others(study: Study, tmp_path: Path) -> None:
    """Of the same size, under the same names, at the same time; and the same ones elsewhere."""
    images = tmp_path / "images"
    shutil.copytree(study.folder / "images/web", images)
    inputs = {"scans": {"web": study.folder / "scan"}, "out": tmp_path / "r", "gallery": 2}
    clipgap.report(**inputs, images={"web": images})
    images.rename(tmp_path / "moved")
    assert clipgap.report(
        **inputs, images={"web": tmp_path / "moved"}, resume=True
    ).already_complete
    shard = tmp_path / "moved/web-00000.tar"
    before = shard.stat()
    flip_bit(shard, 700)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ResumeError, match="inputs images web sha256"):
        clipgap.report(**inputs, images={"web": tmp_path / "moved"}, resume=True)


def test_passwords_in_addresses_stay_out(study: Study) -> None:
    """Of a store, of images, in a rule, in a title."""
    address = "https://someone:s3cret@host/web-00000.tar?token=s3cret"
    sources = plan_report({"web": study.folder / "scan"}, splits=study.folder / "near-90")
    sources.scans[0].scan.manifest["inputs"]["train"]["path"] = address
    sources.splits["near-90"].manifest["rule"]["of"] = [{"path": address}]
    images = Images(address)
    vars(images)["shards"] = []
    found = contents.gather(replace(sources, images={"web": images}), address)
    pages: dict[str, bytes] = {}
    page.write_pages(found, {"sets": {}}, pages.__setitem__)
    for text in (str(found), str(images.identity()), *map(bytes.decode, pages.values())):
        assert "s3cret" not in text
    for name in ("index.html", "split-1.html"):
        assert "https://***@host/web-00000.tar?token=***" in pages[name].decode()


def test_a_scan_alone_is_enough(study: Study, tmp_path: Path) -> None:
    """What has no input is left out; thresholds come from the scan."""
    made = clipgap.report(study.folder / "scan", out=tmp_path / "r")
    page = made.page.read_text()
    assert 'id="how-near"' in page
    assert 'id="pruning"' in page
    for absent in ('id="accuracy"', 'id="robustness"', 'id="splits"', "split-1.html", "paper"):
        assert absent not in page
    found, full = read(made.path), report_oracle.best(study.folder / "gap", "val")
    val = found["tests"][0]
    assert set(val["training"]) == {"scan", "reference"}
    assert val["training"]["reference"]["near_duplicates"] == sum(s > 0.95 for s in full)
    about = gallery(made.path, "gallery.js")
    assert about["sets"][0]["neighbours_in_reference"] is False
    assert not (made.path / "thumbs").exists()


def test_an_evaluation_alone_has_no_columns_of_scans(study: Study, tmp_path: Path) -> None:
    made = clipgap.report(evals=[study.folder / "eval"], out=tmp_path / "r")
    line = next(csv.DictReader((made.path / "tables/accuracies.csv").open()))
    assert [*line] == ["training set", *(f"{s}{end}" for s in ("val", "sketch") for end in ENDS)]
    assert "scanned set" not in made.page.read_text()


def test_without_thresholds_nothing_is_said_of_them(study: Study, tmp_path: Path) -> None:
    made = clipgap.report(study.folder / "gap", out=tmp_path / "r")
    assert [s["name"] for s in read(made.path)["tests"]] == ["val", "sketch"]
    tests = {name: study.folder / "stores" / name for name in ("val",)}
    clipgap.scan(study.folder / "stores/web", tests, out=tmp_path / "plain", train_table=False)
    found = clipgap.report(tmp_path / "plain", out=tmp_path / "s", format="json")
    assert read(found.path)["normalised"] == []
    assert read(found.path)["tests"][0]["reference"] is None
    assert sorted(tree(found.path)) == ["manifest.json", "report.json"]


def test_other_embeddings(study: Study, tmp_path: Path) -> None:
    """Rank correlations, with ties: scores of few digits."""
    tests = {}
    for name, n in study.sizes.tests.items():
        rows = np.random.default_rng(n).normal(size=(n, 8)).round(1)
        tests[name] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    clipgap.gap(tests["val"][:3], tests, out=tmp_path / "small", k=1)
    (tmp_path / "p.toml").write_text('title = "Table 5"\nrho = {val = 0.93}')
    inputs = {"embeddings": {"small": tmp_path / "small"}, "paper": tmp_path / "p.toml"}
    made = clipgap.report({"web": study.folder / "scan"}, **inputs, out=tmp_path / "r", gallery=1)
    from scipy.stats import spearmanr  # which takes long to import

    for row in read(made.path)["embeddings"]:
        pair = [report_oracle.best(tmp_path / "small", row["test"])]
        pair.append(report_oracle.best(study.folder / "scan", row["test"]))
        assert row["rho"] == pytest.approx(spearmanr(*pair).statistic, rel=1e-12)
        assert row["histogram"] == report_oracle.histogram(pair[0], 50)
    lines = list(csv.DictReader((made.path / "tables/embeddings.csv").open()))
    assert [(line["test set"], line["ρ paper"]) for line in lines] == [
        ("val", "0.93"),
        ("sketch", ""),
    ]
    clipgap.gap(tests["val"], {"val": tests["val"][:4]}, out=tmp_path / "other")
    with pytest.raises(InputError, match=r"'val' has 90 points in .* and 4 in"):
        clipgap.report(study.folder / "scan", embeddings=tmp_path / "other", out=tmp_path / "s")


def test_fewer_points_in_the_gallery(study: Study, tmp_path: Path) -> None:
    made = clipgap.report(study.folder / "scan", out=tmp_path / "r", gallery=7)
    index = gallery(made.path, "0/index.js")["similarity"]
    best = sorted(report_oracle.best(study.folder / "scan", "val"), reverse=True)
    assert len(index) == 7
    assert [index[0], index[-1]] == [round(best[0], 6), round(best[-1], 6)]


def test_pictures_that_are_not_there(study: Study, tmp_path: Path) -> None:
    """A damaged image, a bomb, a missing shard and a double key cost their pictures, no more."""
    images = tmp_path / "images"
    shutil.copytree(study.folder / "images/web", images)
    first = images / "web-00000.tar"
    content = bytearray(first.read_bytes())
    content[512:1024] = b"\0" * 512  # the first image's bytes
    first.write_bytes(content)
    (images / "web-00001.tar").unlink()
    shutil.copy(images / "web-00002.tar", images / "web-00003.tar")
    inputs = {"scans": {"web": study.folder / "scan"}, "images": {"web": images}}
    made = clipgap.report(**inputs, out=tmp_path / "r")
    pictures = made.manifest["gallery"]["pictures"]
    assert 0 < pictures["found"] < pictures["wanted"]
    problems = "\n".join(pictures["problems"])
    assert "are of several samples" in problems
    point = gallery(made.path, "0/0000.js")[0]
    assert point[2] is None  # no images were given for the test set


def test_what_people_read(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "typed")
    assert main(["report", *study.arguments, "--dry-run"]) == 0
    planned = capsys.readouterr().out
    for words in ("web: 900 rows", "sketch: 110 points", "near-90: 810 rows kept", "Table 1"):
        assert words in planned
    assert not Path(out).exists()
    assert main(["report", *study.arguments, "-o", out, "--format", "md", "--json", "-q"]) == 0
    told = json.loads(capsys.readouterr().out)
    text = Path(told["page"]).read_text()
    assert "| sketch-pruned |" in text
    assert "Accuracy by training set" in text
    assert main(["report", "--config", f"{out}.toml", "--resume"]) == 0
    assert "already complete" in capsys.readouterr().out
    assert main(["report", *study.arguments, "-o", out]) == 3


def test_calls_that_do_not_fit_together(
    study: Study, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    scan, out = f"web={study.folder / 'scan'}", ["-o", str(tmp_path / "r")]
    cases = [
        (["--scan", scan], 2, "--out is missing"),
        (["--scan", scan, "--scan", scan, *out], 2, "both called 'web'"),
        (["--scan", "web=", *out], 2, "NAME=PATH"),
        (["--scan", scan, "--images", "nope", *out], 2, "NAME=SHARDS"),
        (["--scan", scan, "--images", "nope=x", *out], 2, "no such training or test set"),
        (["--scan", f"val={study.folder / 'scan'}", *out], 2, "'val' names two of the inputs"),
        (
            ["--scan", scan, "--format", "pdf", *out],
            2,
            "unknown format 'pdf'; choose one of: html, single, md, json",
        ),
        (["--scan", scan, "-o", str(study.folder / "scan")], 2, "both input and output"),
        (["--scan", str(tmp_path), *out], 3, "not a finished scan"),
        (["--scan", scan, "--split", str(study.folder / "scan"), *out], 3, "keep-list"),
        (["--scan", scan, "--eval", str(study.folder / "scan"), *out], 3, "evaluation"),
        (["--scan", scan, "--paper", str(tmp_path / "none.toml"), *out], 3, "cannot read"),
        (["--scan", scan, "--images", f"web={tmp_path}", *out], 3, "no .tar files"),
    ]
    for arguments, code, message in cases:
        assert main(["report", *arguments]) == code, arguments
        assert message in capsys.readouterr().err, arguments


def copied(study: Study, tmp_path: Path, part: str) -> Path:
    shutil.copytree(study.folder / part, tmp_path / part)
    return tmp_path / part


def test_inputs_that_do_not_belong_together(study: Study, tmp_path: Path) -> None:
    other = make_study(
        tmp_path / "other", Sizes(train=200, reference=60, tests={"val": 40, "sketch": 30})
    )
    scan = study.folder / "scan"
    with pytest.raises(InputError, match="'val' is another one"):
        clipgap.report(scan, reference=other.folder / "gap", out=tmp_path / "r")
    with pytest.raises(InputError, match="a store that none of the scans is about"):
        clipgap.report(scan, splits=other.folder / "rand-90", out=tmp_path / "r")
    with pytest.raises(InputError, match="evaluated on 'val' in 2 evaluations"):
        clipgap.report(scan, evals=[study.folder / "eval"] * 2, out=tmp_path / "r")
    with pytest.raises(UsageError, match="one reference"):
        clipgap.report(scan, reference=[scan, other.folder / "gap"], out=tmp_path / "r")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.slice(0, t.num_rows - 1).append_column("x", pa.nulls(89)), None),
        (lambda t: t.set_column(0, "row", pa.array(range(1, 91), pa.int64())), "90 test points"),
        (lambda t: t.set_column(1, "key", pa.array(["no"] * 90)), "sample 0 is 'no'"),
        (lambda t: t.drop_columns(["correct"]), "lacks the columns correct"),
    ],
)
def test_evaluations_of_other_points(
    study: Study, tmp_path: Path, damage: Callable[[Any], Any], message: str | None
) -> None:
    """Samples that were set aside may lack; samples that are others may not be there."""
    folder = copied(study, tmp_path, "eval")
    name = "samples/web/val.parquet"
    manifest = json.loads((folder / "manifest.json").read_text())
    sums: dict[str, FileSum] = {}
    put(folder, name, damage(pq.read_table(folder / name)), sums)
    manifest["files"][name] = vars(sums[name])
    write_document(folder / MANIFEST, EVALUATION.form, manifest)
    inputs = {"scans": study.inputs["scans"], "evals": folder, "out": tmp_path / "r"}
    if message is None:
        clipgap.report(**inputs)
        points = [p for p in gallery(tmp_path / "r", "0/0000.js") if p[0] == 89]
        assert points[0][3][0] == "-"
    else:
        with pytest.raises(InputError, match=message):
            clipgap.report(**inputs)


@pytest.mark.parametrize("seed", range(12))
def test_damage_is_refused_or_harmless(study: Study, tmp_path: Path, seed: int) -> None:
    """A bit, a piece or an end of any file that is read: the same numbers, or the file is named."""
    parts = ("scan", "gap", "eval", "sketch-pruned", "images/val")
    for part in parts:
        shutil.copytree(study.folder / part, tmp_path / part)
    shutil.copy(study.folder / "paper.toml", tmp_path)
    inputs = {
        "scans": {"web": tmp_path / "scan"},
        "reference": {"curated": tmp_path / "gap"},
        "splits": tmp_path / "sketch-pruned",
        "evals": tmp_path / "eval",
        "images": {"val": tmp_path / "images/val"},
        "paper": tmp_path / "paper.toml",
        "gallery": 2,
    }
    whole = clipgap.report(**inputs, out=tmp_path / "whole").path
    files = sorted(p for part in parts for p in (tmp_path / part).rglob("*") if p.is_file())
    chance = random.Random(seed)
    for n, file in enumerate(chance.choices([*files, tmp_path / "paper.toml"], k=6)):
        content = file.read_bytes()
        at, kind = chance.randrange(len(content)), chance.choice(("flip", "cut", "blank"))
        changed = bytearray(content)
        if kind == "flip":
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del changed[at:]
        else:
            changed[at : at + 16] = bytes(len(changed[at : at + 16]))
        file.write_bytes(changed)
        try:
            made = clipgap.report(**inputs, out=tmp_path / f"{n}").path
        except InputError as error:
            assert file.name in str(error) or str(file.parent) in str(error)
        else:
            if has_sum(file):
                assert read(made) == read(whole), file
        file.write_bytes(content)


def has_sum(file: Path) -> bool:
    """Whether a manifest tells what is in the file; some manifests do not tell it of themselves."""
    of_others = file.suffix in (".tar", ".toml")
    return not of_others and (file.name != MANIFEST or b'\n "sha256": ' in file.read_bytes())


def test_damaged_inputs_are_named(study: Study, tmp_path: Path) -> None:
    scan = copied(study, tmp_path, "scan")
    flip_bit(scan / "test/val.parquet", 2000)
    with pytest.raises(InputError, match=r"test/val.parquet is damaged"):
        clipgap.report(scan, out=tmp_path / "r")
    evaluation = copied(study, tmp_path, "eval")
    flip_bit(evaluation / "summary.parquet", 300)
    with pytest.raises(InputError, match=r"summary.parquet is damaged"):
        clipgap.report(study.folder / "scan", evals=evaluation, out=tmp_path / "r")


def test_certificates(study: Study, tmp_path: Path) -> None:
    keep = copied(study, tmp_path, "sketch-pruned")
    assert main(["verify", str(keep), "-q"]) == 0
    made = clipgap.report({"web": study.folder / "scan"}, splits=keep, out=tmp_path / "r")
    proof = read(made.path)["splits"][0]["certificate"]
    assert proof["holds"] is True
    assert all(claim["holds"] for claim in proof["claims"].values())
    page = (made.path / "split-1.html").read_text()
    assert all(str(escape(claim["says"])) in page for claim in proof["claims"].values())
    # All of it goes with the report, and the call that made the split.
    made_from = read(made.path)["made_from"]
    document = json.loads(certificate_file(keep).read_text())
    assert made_from["certificates"] == {"sketch-pruned": document}
    assert json.loads((made.path / "certificates" / "certificate-1.json").read_text()) == document
    assert clipgap.verify(made.path).ok
    write_settings(keep, "clipgap split", 'prune = ["sketch"]\n')
    with pytest.raises(InputError, match="calls"):
        clipgap.report({"web": study.folder / "scan"}, splits=keep, out=tmp_path / "r", resume=True)
    # One that is about another keep-list proves nothing.
    path = certificate_file(keep)
    document = json.loads(path.read_text())
    document["keep"]["manifest_sha256"] = "0" * 64
    write_certificate(path, document)
    made = clipgap.report({"web": study.folder / "scan"}, splits=keep, out=tmp_path / "s")
    assert read(made.path)["splits"][0]["certificate"] is None
    # Nor does one that somebody edited.
    path.write_text(path.read_text().replace('"holds": true', '"holds": false'))
    with pytest.raises(InputError, match=r"certificate\.json was damaged or edited"):
        clipgap.report({"web": study.folder / "scan"}, splits=keep, out=tmp_path / "t")


def write_settings(folder: Path, command: str, settings: str) -> None:
    settings_file(folder).write_text(f"{HEADER} {command}\n# Again: …\n\n{settings}")


def test_what_it_was_made_from(
    study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Sums, sizes, seeds, models and calls, as the inputs' manifests and settings say them."""
    folders = {name: copied(study, tmp_path, name) for name in ("scan", "rand-90", "eval")}
    write_settings(folders["rand-90"], "clipgap split", 'rand = 810\nsource = ["<b>"]\n')
    (tmp_path / "eval.toml").write_text("somebody's own")
    made = clipgap.report(
        {"web": folders["scan"]},
        splits=folders["rand-90"],
        evals=folders["eval"],
        images={"val": study.folder / "images" / "val"},
        out=tmp_path / "r",
        gallery=2,
    )
    assert "rand-90.toml was edited, or damaged" in caplog.text, "it has no sum"
    found = read(made.path)["made_from"]
    for one, folder in zip(found["inputs"], folders.values(), strict=True):
        manifest = json.loads((folder / MANIFEST).read_text())
        assert one["manifest_sha256"] == manifest["sha256"]
        assert one["versions"] == manifest["versions"]
        assert one["bytes"] == sum(
            path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file() and path.name != MANIFEST
        )
    scan, split, evaluation = found["inputs"]
    assert scan["settings"]["k"] == clipgap.open_scan(folders["scan"]).manifest["settings"]["k"]
    assert (split["settings"], split["rows"]) == ({"seed": 1}, 900)
    assert split["call"] == {
        "command": "clipgap split",
        "settings": 'rand = 810\nsource = ["<b>"]\n',
    }
    assert scan["call"] is evaluation["call"] is None
    assert {one["name"] for one in found["checkpoints"]} > {"web", "rand-90"}
    assert found["images"][0]["bytes"] > 1_000
    page = made.page.read_text()
    assert scan["manifest_sha256"] in page and "rand = 810" in page and "<b>&#34;]" not in page
    assert (made.path / "calls" / "call-2.toml").read_text() == split["call"]["settings"]
    assert clipgap.verify(made.path).ok
    report = read(made.path)
    report["made_from"]["inputs"][1]["call"]["settings"] = "rand = 811"
    (made.path / "report.json").write_text(json.dumps(report))
    sign(made.path, "report.json")
    verified = clipgap.verify(made.path)
    assert [check.name for check in verified.checks if not check.ok] == ["inputs"]


@pytest.mark.parametrize(
    ("place", "lie"),
    [
        ("settings gallery", 3),
        ("settings gallery", None),
        ("settings format", "md"),
        ("inputs scans", {"web": "0" * 64}),
        ("inputs reference", None),
        ("inputs splits", {}),
        ("inputs evaluations", []),
        ("inputs paper", None),
        ("inputs images", {}),
        ("inputs images", {"nobody": {"path": "x", "sha256": "0" * 64}}),
        ("gallery sets val", 1),
        ("gallery pictures found", 0),
        ("gallery pictures wanted", 0),
    ],
)
def test_what_a_manifest_says_follows_from_the_pages(
    study: Study, tmp_path: Path, place: str, lie: Any
) -> None:
    folder = clipgap.report(**study.inputs, out=tmp_path / "r", gallery=2).path
    assert clipgap.verify(folder).ok
    with edited_document(folder / MANIFEST) as document:
        *path, last = place.split()
        for name in path:
            document = document[name]
        document[last] = lie
    assert not clipgap.verify(folder).ok


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no title"),
        ("title = 1", "title is not text"),
        ('title = "t"\nextra = 1', "unknown entry 'extra'"),
        ('title = "t"\nrows = 3', "rows is not a list"),
        ('title = "t"\n[[rows]]\nsize = 3', "rows, entry 1: no name"),
        ('title = "t"\n[[rows]]\nname = "a"\naccuracy = {v = 101.0}', "accuracy is not perc"),
        ('title = "t"\n[[tests]]\nname = "a"\npoints = 1.5', "points is not a count"),
        ('title = "t"\n[[models]]\nname = "a"', "models, entry 1: no accuracy"),
        ("title", "cannot read"),
    ],
)
def test_paper_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "paper.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_paper(tmp_path / "paper.toml")


@given(st.lists(st.floats(-1.1, 1.1), min_size=1), st.sampled_from([20, 50]))
@examples(50)
def test_bins_are_decided_by_their_edges(values: list[float], steps: int) -> None:
    bins = bin_of(np.array(values), steps).tolist()
    for value, b in zip(values, bins, strict=True):
        assert b / steps <= value < (b + 1) / steps


HOSTILE = "=1+1|`<b>&\\_{}%$#~^\n*"


def test_texts_are_harmless_in_every_format() -> None:
    table = Table(
        "t", HOSTILE, "", (Column(HOSTILE), Column("n", "count")), ((Cell(HOSTILE), Cell(3)),)
    )
    (line,) = csv.DictReader(to_csv(table).splitlines(keepends=True))
    assert line["n"] == "3"
    assert next(iter(line.values())) == "'" + HOSTILE
    markdown = to_markdown(table)
    assert "<b>" not in markdown
    assert markdown.count("\n") == 3
    latex = to_latex(table)
    assert r"\textbackslash{}\_\{\}\%\$\#\textasciitilde{}\textasciicircum{}" in latex


def test_rules_in_words() -> None:
    assert (
        describe_rule({"name": "prune", "sets": ["a", "b"], "offset": 0.0}) == "prune · sets a, b"
    )
    assert describe_rule({"name": "near", "n": 1000, "by": ["a"]}) == "near · n 1,000 · by a"
    assert (
        describe_rule({"name": "union", "of": [{"path": "x"}, {"path": "y"}]}) == "union · of x, y"
    )


def test_classes_have_names(report: Path) -> None:
    assert gallery(report, "gallery.js")["sets"][0]["classes"] == list(CLASSES)


def test_counts_of_thresholds_are_those_of_splits(study: Study, report: Path) -> None:
    found = gallery(report, "thresholds.js")
    scan = clipgap.open_scan(study.folder / "scan")
    table = scan.train_table().to_pydict()
    for one in found["sets"]:
        name = one["name"]
        margins, sims = (np.array(table[f"{c}_{name}"], np.float64) for c in ("margin", "sim"))
        steps = [Fraction(n, 1000) for n in range(-300, 301)]
        assert one["offsets"] == [
            sum(Fraction(m) > step for m in margins) for step in map(Fraction, map(float, steps))
        ]
        assert one["similarities"] == [int((sims > n / 1000).sum()) for n in range(1001)]
        for step in (-0.1, 0.0, 0.05):
            sizes = clipgap.split(scan, Prune((name,), step)).sizes
            assert one["offsets"][300 + round(1000 * step)] == scan.rows - sizes["kept"]
        assert len(one["rows"]) == one["scored"]
        rows = {row[0]: row[1:3] for row in one["rows"]}
        assert rows == dict(
            zip(table["key"], map(list, zip(margins, sims, strict=True)), strict=True)
        )
        near = dict(zip(table["key"], table[f"witness_{name}"], strict=True))
        keys = scan.test(name)["key"].to_pylist()
        assert all(row[5] == keys[near[row[0]]] for row in one["rows"])


def test_of_many_rows_some_of_each_height_are_listed() -> None:
    columns = SetColumns("t", False)
    one = Thresholds(columns, most=2)
    sims = np.repeat(np.array([0.101, 0.102, 0.5], np.float32), 3)
    for start in (0, 9):
        batch = pa.RecordBatch.from_pydict(
            {"sim_t": pa.array(sims), "nn_t": pa.array(range(9), pa.int32())}
        )
        one.add(batch, start)
    assert [row[0] for row in one.listed] == [0, 1, 6, 7]
    assert one.scored == 18
    one.finish(None)
    assert [row[0] for row in one.listed] == [6, 7, 0, 1]
    one.finish(2)
    assert [row[0] for row in one.listed] == [6, 1]
    assert one.similarities[[0, 101, 102, 499, 500]].tolist() == [18, 18, 6, 6, 0]


def test_rows_at_their_threshold_do_not_lie_above_it() -> None:
    tau = np.array([0.7])  # which no float32 is
    sim = np.array([0.7, np.nextafter(np.float32(0.7), np.float32(1))], np.float32)
    counted = pruning._Ratios()
    counted.add(pruning._normalised(sim, np.zeros(2, np.int32), tau)[0])
    bins = counted.to_json()["histogram"]
    assert [(b["low"], b["high"], b["count"]) for b in bins] == [
        (0.98, 1.0, 1),
        (1.0, 1.02, 1),
    ]


def test_random_splits_of_two_seeds_are_two_curves() -> None:
    rules = [
        {"name": "rand", "size": size, "seed": seed} for size, seed in [(9, 1), (5, 1), (5, 2)]
    ]
    assert [family_of(rule) for rule in rules] == ["rand, seed 1", "rand, seed 1", "rand, seed 2"]


def test_the_page_says_what_its_numbers_count(study: Study, tmp_path: Path) -> None:
    made = clipgap.report(**study.inputs, out=tmp_path / "page", gallery=1)
    index = " ".join(made.page.read_text().split())
    assert "<dt>test points with a near duplicate</dt>" in index
    assert "rows of the scanned set" in index
    assert "where a model trained on curated too, its 250 come on top" in index
    gallery = (tmp_path / "page" / "gallery.html").read_text()
    assert "copies of an image have them, and other images may" in gallery
