"""Audits: every row as likely, the same sample whenever drawn, decisions that fit it alone."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.domains.audit import DECISIONS, UNSEEN
from clipgap.errors import InputError
from clipgap.files.documents import MANIFEST
from clipgap.intervals import clopper_pearson, lower_bound
from clipgap.report.audit import DATA
from clipgap.report.pictures import data_of
from tests.report_worlds import write_images
from tests.test_heads import MODEL, planted
from tests.test_verify import failures, sign
from tests.worlds import edited_manifest, write_store

Row = dict[str, Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three shards with keys, its images, and what heads say of it."""
    folder = tmp_path_factory.mktemp("audit")
    rows, labels = planted(360, 3)
    parts = np.array_split(np.arange(360), 3)
    write_store(folder / "store", [rows[p] for p in parts], lambda s, r: f"web-{s * 120 + r:06d}")
    table = {"shard": np.repeat([0, 1, 2], 120), "row": np.tile(np.arange(120), 3)}
    domain = np.array(["natural", "ambiguous", "rendition"])[labels]
    lines = ["shard,row,domain"]
    lines += [f"{s},{r},{d}" for s, r, d in zip(table["shard"], table["row"], domain, strict=True)]
    (folder / "labels.csv").write_text("\n".join(lines))
    store = str(folder / "store")
    clipgap.fit_heads(
        store, folder / "labels.csv", out=folder / "heads", model=MODEL, precision=0.9
    )
    clipgap.label_domains(store, folder / "heads", out=folder / "domains", model=MODEL)
    write_images(folder / "images", "web", labels[:240], 2, hostile=True)  # a third is not there
    return folder


@pytest.fixture(scope="module")
def made(world: Path) -> Any:
    return clipgap.audit_domains(
        world / "domains", out=world / "audit", images=world / "images", sample=40
    )


def sample(folder: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(folder / "sample.parquet").to_pylist()
    return rows


def shown(folder: Path) -> list[Row]:
    rows: list[Row] = json.loads(data_of(DATA, (folder / DATA).read_bytes()))["rows"]
    return rows


def said(world: Path, column: str, domain: str) -> set[tuple[int, int]]:
    parts = sorted((world / "domains" / "train").glob("*.parquet"))
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return {(row["shard"], row["row"]) for row in rows if row[column] == domain}


def write(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["shard", "row", "key", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def decided(folder: Path, label: Callable[[int], str] = lambda _: "rendition") -> list[Row]:
    return [{**row, "label": label(place)} for place, row in enumerate(sample(folder))]


def test_a_sample_is_of_what_heads_accept(world: Path, made: Any) -> None:
    places = [(row["shard"], row["row"]) for row in sample(made.path)]
    accepted = said(world, "domain_strict", "rendition")
    assert len(set(places)) == 40 and set(places) <= accepted
    assert made.manifest["counts"]["accepted"] == len(accepted)
    page = shown(made.path)
    assert [{name: row[name] for name in ("shard", "row", "key")} for row in page] == sample(
        made.path
    )
    there = [row["shard"] < 2 for row in page]  # the images of the last shard are missing
    assert [row["picture"] is not None for row in page] == there
    assert made.manifest["counts"]["pictures"] == sum(there) < 40
    text = made.page.read_text() + (made.path / "assets/audit.js").read_text()
    assert "strict" not in text.replace('"use strict"', "")  # who labels is not told what heads say


def test_smaller_samples_lie_in_larger_ones(world: Path, made: Any, tmp_path: Path) -> None:
    def drawn(name: str, **more: Any) -> list[Row]:
        return sample(clipgap.audit_domains(world / "domains", out=tmp_path / name, **more).path)

    assert drawn("few", sample=15) == sample(made.path)[:15]
    assert drawn("threads", sample=40, threads=1) == sample(made.path)
    assert drawn("other", sample=40, seed=1) != sample(made.path)
    natural = drawn("natural", sample=9, domain="natural", by="default")
    places = {(row["shard"], row["row"]) for row in natural}
    assert places <= said(world, "domain", "natural")


def test_every_row_is_as_likely(world: Path, tmp_path: Path) -> None:
    """Of 60 samples of 20, each accepted row is in about as many as chance says."""
    from clipgap.domains.audit import draw
    from clipgap.domains.composition import open_said
    from clipgap.domains.options import AuditOptions
    from clipgap.runs.how import How

    domains, times = open_said(world / "domains"), Counter[tuple[int, int]]()
    for seed in range(60):
        rows = draw(domains, AuditOptions(sample=20, seed=seed), 1, How()).to_pylist()
        times.update((row["shard"], row["row"]) for row in rows)
    n = len(said(world, "domain_strict", "rendition"))
    share = 20 / n
    chi = sum(
        (times[place] - 60 * share) ** 2 for place in said(world, "domain_strict", "rendition")
    )
    chi /= 60 * share * (1 - share)
    assert abs(chi - (n - 1)) < 4 * math.sqrt(2 * n)


def test_decisions_become_a_precision(made: Any, tmp_path: Path) -> None:
    labels = [*["rendition"] * 36, "natural", "ambiguous", UNSEEN, "rendition"]
    rows = decided(made.path, labels.__getitem__)
    found = clipgap.audited(made.path, write(tmp_path / "labels.csv", rows[::-1]))
    assert found.labelled == {"natural": 1, "ambiguous": 1, "rendition": 37, "unseen": 1}
    assert (found.domain, found.by, found.sample) == ("rendition", "strict", 40)
    assert found.precision == clopper_pearson(37, 40)
    assert found.at_least == lower_bound(37, 40)


@pytest.mark.parametrize(("right", "n"), [(0, 7), (1, 7), (37, 40), (300, 300), (294, 300)])
def test_the_interval_by_its_definition(right: int, n: int) -> None:
    """At the lower bound, as many right or more come by a chance of 2.5 %; at the upper as few."""

    def at_most(k: int, p: float) -> float:
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))

    found = clopper_pearson(right, n)
    assert found.value == right / n
    if right:
        assert 1 - at_most(right - 1, found.low) == pytest.approx(0.025)
    else:
        assert found.low == 0
    if right < n:
        assert at_most(right, found.high) == pytest.approx(0.025)
    else:
        assert found.high == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:-2], "2 rows of the sample have no decision"),
        (lambda rows: [*rows, rows[3]], "1 rows are decided more than once"),
        (lambda rows: [*rows[1:], {**rows[0], "row": 10_000}], "1 rows are not in the sample"),
        (lambda rows: [*rows[1:], {**rows[0], "key": "x"}], "1 rows have another key"),
        (lambda rows: [*rows[1:], {**rows[0], "label": "photo"}], "a label that is none of"),
        (lambda rows: [*rows[1:], {**rows[0], "label": ""}], "a label that is none of"),
        (lambda rows: [*rows[1:], {**rows[0], "shard": "a"}], "shards and rows are numbers"),
    ],
)
def test_decisions_that_do_not_fit_are_refused(
    made: Any, tmp_path: Path, change: Callable[[list[Row]], list[Row]], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        clipgap.audited(made.path, write(tmp_path / "labels.csv", change(decided(made.path))))


def test_decisions_of_another_audit_are_refused(world: Path, made: Any, tmp_path: Path) -> None:
    other = clipgap.audit_domains(world / "domains", out=tmp_path / "o", sample=40, seed=9).path
    with pytest.raises(InputError, match="rows are not in the sample"):
        clipgap.audited(made.path, write(tmp_path / "labels.csv", decided(other)))
    (tmp_path / "none.csv").write_text("key,decision\n")
    with pytest.raises(InputError, match="has no column 'shard'"):
        clipgap.audited(made.path, tmp_path / "none.csv")


def test_samples_that_cannot_be(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="so a sample cannot have 400; ask for fewer"):
        clipgap.audit_domains(world / "domains", out=tmp_path / "a", sample=400)
    with pytest.raises(InputError, match="folder of domains"):
        clipgap.audit_domains(world / "heads", out=tmp_path / "a", sample=4)
    assert not (tmp_path / "a" / MANIFEST).exists()


def test_the_proof_of_an_audit(world: Path, made: Any, tmp_path: Path) -> None:
    report = clipgap.verify(made.path)
    assert report.ok, failures(report)
    again = clipgap.audit_domains(world / "domains", out=tmp_path / "a", sample=5).path
    with edited_manifest(again) as manifest:
        manifest["settings"]["seed"] = 1
    assert "another sample" in failures(clipgap.verify(again))["sample"]
    with edited_manifest(again) as manifest:
        manifest["settings"]["seed"] = 0
    rows = pq.read_table(again / "sample.parquet")
    pq.write_table(rows.slice(1), again / "sample.parquet")
    sign(again, "sample.parquet")
    assert set(failures(clipgap.verify(again))) == {"page", "sample"}


def test_on_the_command_line(
    world: Path, made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["domains", "audit", str(world / "domains"), "--sample", "10"]
    assert main([*call, "--dry-run"]) == 0
    accepted = made.manifest["counts"]["accepted"]
    assert f"Would draw 10 of {accepted} rows" in capsys.readouterr().out
    out = tmp_path / "audit"
    assert main([*call, "-o", str(out)]) == 0
    assert f"clipgap domains audit {out} --labels" in capsys.readouterr().out
    labels = write(tmp_path / "labels.csv", decided(out, lambda place: DECISIONS[2 * (place > 0)]))
    audit = ["domains", "audit", str(out), "--labels", str(labels)]
    assert main(audit) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Of 10 rows looked at: 1 natural, 9 rendition" in text
    assert "truly so: 90.00 % (95 %: 55.50 % to 99.75 %" in text
    assert main([*audit, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"]["value"] == 0.9
    assert main([*audit, "-o", "x"]) == 2
    assert "leave out -o and --images" in capsys.readouterr().err
