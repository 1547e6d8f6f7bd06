"""The worlds that are drawn, and the demo from end to end at a tiny size."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import clipgap
from clipgap.__main__ import main
from clipgap.cli.config import tomllib
from clipgap.errors import InputError, ResumeError
from clipgap.files.parquet import FileSum, write_tables
from clipgap.keep.lists import open_keep
from clipgap.scan.result import open_scan
from clipgap.store.writer import StoreWriter
from clipgap.study.endings import ending_of
from clipgap.study.recipe import find_recipe, read_recipe
from clipgap.synthetic.options import RenderOptions
from clipgap.synthetic.render import chosen_world, render
from clipgap.synthetic.samples import LABELS, labels
from clipgap.synthetic.worlds import WORLDS
from clipgap.verify.api import verify
from tests.worlds import edited_manifest, tree, unit_rows

SMALL = {"web": 60, "reference": 30, "points": 24, "planted": 12}


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        return {name: file.read() for name, file in files.items() if file is not None}


def small(content: bytes) -> np.ndarray:
    """At a quarter of the size: thin lines of a copy need not lie on the same pixels."""
    return np.asarray(Image.open(io.BytesIO(content)).reduce(4), np.float64)


@pytest.mark.parametrize("world", WORLDS)
def test_worlds_are_labelled_and_the_same_each_time(world: str, tmp_path: Path) -> None:
    found = render(world, tmp_path / "one", **SMALL)
    render(world, tmp_path / "two", **SMALL)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert found.sets["web"] == 72
    classes = (tmp_path / "one" / "classes.txt").read_text().splitlines()
    web = members(tmp_path / "one" / "web" / "00000.tar")
    assert len(web) == 4 * 72
    copies = {
        name.removesuffix(".json"): json.loads(content)["origin"].rpartition(" ")[2]
        for name, content in web.items()
        if name.endswith(".json") and json.loads(content)["origin"].startswith("near-duplicate")
    }
    assert len(copies) == 12
    (near,) = {original[:-6] for original in copies.values()}
    originals = members(tmp_path / "one" / near / "00000.tar")
    for copy, original in copies.items():
        assert web[f"{copy}.cls"] == originals[f"{original}.cls"]
        # Nearer to its original than to any other image of that test set.
        far = {
            name: np.abs(small(web[f"{copy}.jpg"]) - small(content)).mean()
            for name, content in originals.items()
            if name.endswith(".jpg")
        }
        assert min(far, key=lambda name: far[name]) == f"{original}.jpg"
        assert classes[int(web[f"{copy}.cls"])] in web[f"{copy}.txt"].decode()
    for name in found.sets:
        shown = members(tmp_path / "one" / name / "00000.tar")
        for row in pq.read_table(tmp_path / "one" / f"labels/{name}.parquet").to_pylist():
            assert row["class"] == classes[int(shown[f"{row['key']}.cls"])]
            assert row["source"] == name


def test_domains_of_drawn_images_are_what_heads_and_mixes_take(tmp_path: Path) -> None:
    def domains(world: str, name: str) -> dict[str, int]:
        table = pq.read_table(tmp_path / world / f"labels/{name}.parquet")
        return Counter(table["domain"].to_pylist())

    for world in ("domains", "compositions"):
        render(world, tmp_path / world, **{**SMALL, "web": 90, "planted": 0})
        assert verify(tmp_path / world).ok
    labelled = domains("domains", "reference")
    assert set(labelled) == {"natural", "ambiguous", "rendition"}
    assert set(domains("domains", "sketch")) == {"natural", "rendition"}
    assert len(domains("compositions", "web")) == 6
    assert domains("compositions", "quickdraw") == {"quickdraw": 24}

    table = tmp_path / "domains" / "labels" / "web.parquet"
    rows = pq.read_table(table).to_pylist()
    rows[0]["domain"] = "sculpture"
    write_tables(table, LABELS, [pa.Table.from_pylist(rows, LABELS)])
    with edited_manifest(tmp_path / "domains") as manifest:
        manifest["files"]["labels/web.parquet"] = asdict(FileSum.of(table))
    (wrong,) = (check for check in verify(tmp_path / "domains").checks if not check.ok)
    assert "labels/web.parquet: says something else" in str(wrong)


@pytest.mark.parametrize("name", ["demo-domains", "demo-compositional"])
def test_mixes_of_the_demos_can_be_drawn(name: str, tmp_path: Path) -> None:
    """From as many rows as the recipe draws, without drawing them."""
    recipe = read_recipe(find_recipe(name))
    mixes = Path(recipe.paths["mixes"].where)
    options = RenderOptions(int(recipe.values["web"]), points=12, planted=0)
    drawn = chosen_world(recipe.stages["render"]["world"], int(recipe.values["classes"]))
    blank = dict.fromkeys(drawn.looks, lambda *_: np.zeros((2, 2, 3)))
    web = replace(drawn, looks=blank).sets(options)["web"]
    table = labels("web", web, drawn.names)
    table = table.append_column("domain_strict", table["domain"])
    pq.write_table(table, tmp_path / "labels.parquet")
    with StoreWriter(tmp_path / "store", 8) as writer:
        writer.add(unit_rows(len(web), 8, 0), table["key"].to_pylist())

    def cells(mix: str) -> Counter[tuple[str, str]]:
        given = {"store": str(tmp_path / "store"), "labels": (str(tmp_path / "labels.parquet"),)}
        made = clipgap.mix(mixes, mix=mix, **given).sizes
        return Counter({(c["domain"], c["class"]): c["after"] for c in made["cells"]})

    found = {mix: cells(mix) for mix in recipe.lists["mix"]}
    assert set(found) == set(tomllib.loads(mixes.read_text())["mixes"])
    assert len({each.total() for each in found.values()}) == 1
    if name == "demo-domains":
        domains = {m: Counter() for m in found}
        for mix, each in found.items():
            for (domain, _), rows in each.items():
                domains[mix][domain] += rows
        assert domains["natural"] == {"natural": 1_200, "rendition": 0, "ambiguous": 0}
        assert domains["few"] == {"natural": 1_050, "rendition": 150, "ambiguous": 0}
        assert domains["quarter"]["rendition"] == 300
    else:
        queried = tomllib.loads(mixes.read_text())["task"]["queried"]
        groups = Path(recipe.paths["groups"].where)
        assert tomllib.loads(groups.read_text())["queried"]["classes"] == queried
        seen = {m: sum(each["sketch", name] for name in queried) for m, each in found.items()}
        assert seen["low"] == seen["high"] == seen["leave-out"] == 0 < seen["seen-25"]
        assert seen["seen-25"] < seen["upper"]


@pytest.mark.parametrize(
    ("name", "pools", "tests", "subset", "said"),
    [
        ("demo-domains", ("natural", "few"), ("val",), None, "  val, few: +20.0 (95 %: 10.0 to"),
        (
            "demo-compositional",
            ("low", "high"),
            ("sketch", "photo"),
            "queried",
            "+20.0 points by high diversity over low diversity (95 %: 10.0 to 30.0).",
        ),
    ],
)
def test_demos_end_with_their_finding(
    name: str,
    pools: tuple[str, ...],
    tests: tuple[str, ...],
    subset: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of all seeds together, whichever way round two mixes were compared."""
    place = {"among": "all", "over": "images"}
    share = {"accuracy": 0.5, "low": 0.4, "high": 0.6}
    accuracies = [
        {"checkpoint": each, "set": test, "subset": part, **place, **share}
        for each in (*pools, "low-1")
        for test in tests
        for part in {subset, "other" if subset else None}
    ]
    worse, better = pools
    differences = [
        {**place, "set": test, "subset": subset, "first": worse, "second": better,
         "difference": -0.2, "low": -0.3, "high": -0.1}
        for test in tests
    ]  # fmt: skip
    stub = SimpleNamespace(
        manifest={"pools": dict.fromkeys(pools)},
        subsets=pa.Table.from_pylist(accuracies),
        subsets_paired=pa.Table.from_pylist(differences),
    )
    monkeypatch.setattr("clipgap.clip.eval.api.open_evaluation", lambda folder: stub)
    ending = ending_of(find_recipe(name))
    assert ending is not None and ending_of(find_recipe("digits")) is None
    *words, table, page = ending(SimpleNamespace(folder=Path("out")))
    assert any(said in each for each in words)
    assert [row[0][0] for row in table.rows] == list(pools)
    assert table.rows[0][0][1] == "50.0% (40%–60%)"
    assert page == f"Open {Path('out/report/index.html')}"


def test_a_rendered_folder_is_kept_mended_or_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    render("shapes", out, **SMALL)
    with pytest.raises(InputError, match="--resume"):
        render("shapes", out, **SMALL)
    assert render("shapes", out, **SMALL, resume=True).already_complete
    with pytest.raises(ResumeError, match="--overwrite"):
        render("shapes", out, **{**SMALL, "web": 61}, resume=True)
    before = tree(out)
    (out / "val" / "00000.tar").write_bytes(b"")
    assert not render("shapes", out, **SMALL, resume=True).already_complete
    assert tree(out) == before
    assert main(["render", "circles", "-o", str(tmp_path / "none")]) == 2


def test_a_rendered_folder_is_replaced_but_not_what_others_put_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    render("shapes", out, **SMALL)
    for name in ("notes.txt", "val/mine.tar", "more/00000.tar"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("stays")
    render("shapes", out, **{**SMALL, "web": 61}, overwrite=True)
    for name in ("notes.txt", "val/mine.tar", "more/00000.tar"):
        assert (out / name).read_text() == "stays"
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(out / "val")
    (out / "val").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link to"):
        render("shapes", out, **SMALL, overwrite=True)
    assert not list((tmp_path / "elsewhere").iterdir())
    manifest = json.loads((out.parent / "out" / ".progress/plan.json").read_text())
    assert "val/00000.tar" in manifest["outputs"]


def test_the_demo_is_the_paper_in_miniature(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = {**SMALL, "epochs": 2, "batch": 16, "workers": 0}
    settings = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    out = tmp_path / "demo"
    assert main(["demo", "-q", "-o", str(out), *settings]) == 0
    said = capfd.readouterr().out
    assert said.splitlines()[-1] == f"Open {out / 'report' / 'index.html'}"
    assert said.splitlines()[1].startswith("Accuracy on sketches goes from ")
    assert "when as many go at random" in said and "(95 %: " in said
    for name in ("web", "sketch-pruned", "rand-pruned"):
        assert name in said
    assert (out / "report" / "index.html").exists()

    # Of each training nothing but its last checkpoint.
    kept_checkpoints = [path.name for path in out.glob("*/checkpoints/*.pt")]
    assert kept_checkpoints == ["epoch_2.pt"] * 3

    # Equal sizes, and a gap that pruning closes: no kept row is above any threshold.
    kept = {
        name: open_keep(out / name).manifest["counts"]["kept"]
        for name in ("sketch-pruned", "rand-pruned")
    }
    assert kept["sketch-pruned"] == kept["rand-pruned"]
    margin = open_scan(out / "scan").train_table()["margin_sketch"].to_numpy()
    assert kept["sketch-pruned"] == np.count_nonzero(margin <= 0)

    before = tree(out)
    assert main(["run", "demo", "-q", "-o", str(out), *settings]) == 0
    again = capfd.readouterr().out
    assert "Nothing to do" in again
    assert again.splitlines()[1:] == said.splitlines()[1:], "the finding, whichever way it is run"
    assert tree(out) == before
