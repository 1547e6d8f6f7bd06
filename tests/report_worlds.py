"""A small study, whole: stores, scans, splits, evaluations, and shards with images."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import clipgap
from clipgap.clip.eval.api import KIND as EVALUATION
from clipgap.files.documents import MANIFEST, write_document
from clipgap.files.parquet import FileSum
from clipgap.intervals import wilson
from clipgap.select.rules import Far, Near, Prune, Rand
from clipgap.store.writer import StoreWriter
from tests.shards import member, tar_bytes

CLASSES = ("circle", "square", "triangle", "cross", "ring", "bars")
HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</script><script>document.title='owned'</script>",
    "\u202egnp.exe",
    "javascript:document.title='owned'",
)


@dataclass(frozen=True)
class Sizes:
    """How much to make."""

    train: int = 900
    reference: int = 250
    tests: Mapping[str, int] = field(default_factory=lambda: {"val": 90, "sketch": 110})
    dim: int = 48
    shards: int = 3


@dataclass(frozen=True)
class Study:
    """Where everything lies."""

    folder: Path
    sizes: Sizes

    @property
    def inputs(self) -> dict[str, Any]:
        """As `clipgap.report` takes it."""
        return {
            "scans": {"web": self.folder / "scan"},
            "reference": {"curated": self.folder / "gap"},
            "splits": {name: self.folder / name for name in RULES},
            "evals": [self.folder / "eval"],
            "images": {
                name: self.folder / "images" / name
                for name in ("web", "curated", *self.sizes.tests)
            },
            "paper": self.folder / "paper.toml",
        }

    @property
    def arguments(self) -> list[str]:
        """As the command line takes it."""
        given = self.inputs
        pairs = [
            ("--scan", given["scans"]),
            ("--split", given["splits"]),
            ("--images", given["images"]),
        ]
        words = [
            w for option, named in pairs for n, p in named.items() for w in (option, f"{n}={p}")
        ]
        words += ["--reference", f"curated={given['reference']['curated']}"]
        return [*words, "--eval", str(given["evals"][0]), "--paper", str(given["paper"])]


RULES: dict[str, Any] = {
    "sketch-pruned": Prune(("sketch",)),
    "val-pruned": Prune(("val",)),
    "all-pruned": Prune(("val", "sketch")),
    "near-90": lambda n: Near(n * 9 // 10, ("sketch",)),
    "near-70": lambda n: Near(n * 7 // 10, ("sketch",)),
    "far-90": lambda n: Far(n * 9 // 10, ("sketch",)),
    "far-70": lambda n: Far(n * 7 // 10, ("sketch",)),
    "rand-90": lambda n: Rand(n * 9 // 10, 1),
    "rand-70": lambda n: Rand(n * 7 // 10, 1),
}

PAPER = """\
title = "Table 1"
source = "Mayilvahanan et al., 2024"
[[rows]]
name = "web"
size = 200_966_589
accuracy = {val = 68.66, sketch = 50.21}
[[rows]]
name = "sketch-pruned"
removed = 8_342_783
accuracy = {val = 68.34, sketch = 44.78}
[[tests]]
name = "sketch"
points = 50_889
near_duplicates = {web = 1553, curated = 18}
nearer = {web = 97.94}
close = {web = 8_859_133, curated = 131_087}
[[models]]
name = "ResNet-18"
accuracy = {val = 45.0, sketch = 20.2}
[[models]]
name = "ResNet-50"
accuracy = {val = 56.13, sketch = 24.09}
[[models]]
name = "ResNet-101"
accuracy = {val = 67.37, sketch = 30.9}
[[models]]
name = "ViT-L"
accuracy = {val = 74.2, sketch = 33.1}
"""


def make_study(folder: Path, sizes: Sizes | None = None) -> Study:
    """Make it from seeds; a few seconds."""
    sizes = sizes or Sizes()
    study = Study(folder, sizes)
    random = np.random.default_rng(7)
    centres = random.normal(size=(2, len(CLASSES), sizes.dim))
    styles = {"web": 1, "curated": 0, "val": 0, "sketch": 1}

    def rows(name: str, n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        labels = random.integers(0, len(CLASSES), n)
        style = centres[styles.get(name, 0)]
        mixed = 0.55 * centres[0][labels] + 0.45 * style[labels] + 0.9
        return unit(
            mixed + random.gamma(2.0, 0.34, (n, 1)) * random.normal(size=(n, sizes.dim))
        ), labels

    data = {name: rows(name, n) for name, n in sizes.tests.items()}
    data["curated"] = rows("curated", sizes.reference)
    web, labels = rows("web", sizes.train)
    for test in sizes.tests:  # near duplicates of test points, and duplicates of those
        points, of = data[test]
        n = sizes.train // 12
        places, chosen = random.permutation(sizes.train)[:n], random.integers(0, len(points), n)
        noise = random.normal(size=(n, sizes.dim)) * np.linspace(0.0, 0.1, n)[:, None]
        web[places], labels[places] = unit(points[chosen] + noise), of[chosen]
    web[1::40], labels[1::40] = web[0::40], labels[0::40]
    data["web"] = web, labels

    for name, (each, of) in data.items():
        shards = sizes.shards if name == "web" else 1
        write_store(folder / "stores" / name, name, each, shards)
        write_images(folder / "images" / name, name, of, shards, hostile=name == "web")
    tests = {name: folder / "stores" / name for name in sizes.tests}
    gap = clipgap.gap(folder / "stores" / "curated", tests, out=folder / "gap", k=12)
    clipgap.scan(folder / "stores" / "web", tests, gap=gap, out=folder / "scan", k=12)
    for name, rule in RULES.items():
        made = rule(sizes.train) if callable(rule) else rule
        clipgap.split(folder / "scan", made, out=folder / name)
    write_eval(folder, sizes, {name: of for name, (_, of) in data.items()})
    (folder / "paper.toml").write_text(PAPER)
    return study


def shared_study(factory: pytest.TempPathFactory) -> Study:
    """One study for all tests of a run; they read it and write elsewhere."""
    folder = factory.getbasetemp() / "report-study"
    return Study(folder, Sizes()) if folder.exists() else make_study(folder)


def unit(rows: NDArray[Any]) -> NDArray[np.float16]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def key(name: str, row: int) -> str:
    return f"{name}-{row:06d}"


def write_store(folder: Path, name: str, rows: NDArray[Any], shards: int) -> None:
    with StoreWriter(folder, rows.shape[1]) as writer:
        for of_shard in np.array_split(np.arange(len(rows)), shards):
            writer.add(rows[of_shard], keys=[key(name, row) for row in of_shard.tolist()])


def write_images(folder: Path, name: str, labels: NDArray[Any], shards: int, hostile: bool) -> None:
    """Tar shards of small images with captions; the keys alone tell samples apart."""
    folder.mkdir(parents=True)
    for shard, of_shard in enumerate(np.array_split(np.arange(len(labels)), shards)):
        entries = []
        for row in of_shard.tolist():
            caption = f"a picture of a {CLASSES[labels[row]]}"
            url = f"https://example.org/{row}.jpg"
            if hostile:
                caption = f"{caption} {HOSTILE[row % len(HOSTILE)]}"
                url = HOSTILE[4] if row % 2 else url
            words = json.dumps({"url": url}).encode()
            entries += [
                member(f"{key(name, row)}.jpg", picture(name, int(labels[row]), row)),
                member(f"{key(name, row)}.txt", caption.encode()),
                member(f"{key(name, row)}.json", words),
            ]
        (folder / f"{name}-{shard:05d}.tar").write_bytes(tar_bytes(entries))


def picture(name: str, label: int, row: int) -> bytes:
    """A shape: filled on a coloured ground, or drawn in lines where it is a sketch."""
    chance = np.random.default_rng([label, row, len(name)])
    sketch = name == "sketch" or (name == "web" and row % 2)
    ground = (250, 249, 245) if sketch else tuple(int(v) for v in chance.integers(70, 210, 3))
    ink = (40, 40, 48) if sketch else tuple(int(v) for v in (np.array(ground) + 110) % 256)
    image = Image.new("RGB", (96, 96), ground)
    draw = ImageDraw.Draw(image)
    x, y = (int(v) for v in chance.integers(30, 66, 2))
    r = int(chance.integers(14, 28))
    style: dict[str, Any] = {"outline": ink, "width": 3} if sketch else {"fill": ink}
    if label == 0:
        draw.ellipse((x - r, y - r, x + r, y + r), **style)
    elif label == 1:
        draw.rectangle((x - r, y - r, x + r, y + r), **style)
    elif label == 2:
        draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], **style)
    elif label == 3:
        draw.line((x - r, y, x + r, y), ink, 7)
        draw.line((x, y - r, x, y + r), ink, 7)
    elif label == 4:
        draw.ellipse((x - r, y - r, x + r, y + r), outline=ink, width=6)
    else:
        for step in range(-r, r, 10):
            draw.line((x + step, y - r, x + step, y + r), ink, 4)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return out.getvalue()


def write_eval(
    folder: Path, sizes: Sizes, labels: Mapping[str, NDArray[Any]], name: str = "eval"
) -> None:
    """An evaluation whose models know best what the training set is near to."""
    out = folder / name
    scan = clipgap.open_scan(folder / "scan")
    checkpoints = ["web", *RULES]
    summary: list[dict[str, Any]] = []
    files: dict[str, FileSum] = {}
    right: dict[tuple[str, str], NDArray[np.bool_]] = {}
    for test, n in sizes.tests.items():
        similarity = scan.tau(test)
        for number, checkpoint in enumerate(checkpoints):
            random = np.random.default_rng(11)  # the same luck for all, so that differences show
            loss = 0.012 * number * (1.6 if test == "sketch" else 0.6)
            chance = np.clip(1.7 * similarity - 0.95 - loss, 0.05, 0.97)
            correct = random.random(n) < chance
            right[checkpoint, test] = correct
            truth = labels[test]
            table = pa.table(
                {
                    "row": pa.array(range(n), pa.int64()),
                    "key": [key(test, row) for row in range(n)],
                    "group": pa.nulls(n, pa.string()),
                    "label": pa.array(truth, pa.int32()),
                    "prediction": pa.array(np.where(correct, truth, (truth + 1) % 6), pa.int32()),
                    "correct": correct,
                    "correct5": np.ones(n, np.bool_),
                    "margin": np.zeros(n),
                }
            )
            put(out, f"samples/{checkpoint}/{test}.parquet", table, files)
            for metric, count in (("top1", int(correct.sum())), ("top5", n)):
                interval = wilson(count, n)
                summary.append(
                    {
                        "checkpoint": checkpoint,
                        "set": test,
                        "group": None,
                        "metric": metric,
                        "samples": n,
                        "correct": count,
                        "accuracy": count / n,
                        "low": interval.low,
                        "high": interval.high,
                    }
                )
    text = pa.field("group", pa.string())
    schema = pa.Table.from_pylist(summary).schema
    schema = schema.set(schema.get_field_index("group"), text)
    put(out, "summary.parquet", pa.Table.from_pylist(summary, schema=schema), files)
    pairs = [
        paired(test, "web", "sketch-pruned", right["web", test], right["sketch-pruned", test])
        for test in sizes.tests
    ]
    columns = {name: [row[name] for row in pairs] for name in pairs[0]}
    columns["group"] = pa.array(columns["group"], pa.string())
    put(out, "paired.parquet", pa.table(columns), files)
    model = {"model": "tiny", "pretrained": "", "sha256": None, "config_sha256": None}
    lists = {"classes": list(CLASSES), "keys": list(CLASSES), "templates": [], "groups": []}
    common = {"identity": "", "border": 0, "quarantined": 0, **lists}
    write_document(
        out / MANIFEST,
        EVALUATION.form,
        {
            "kind": "eval",
            "checkpoints": [{"name": name, **model} for name in checkpoints],
            "sets": [
                {"name": test, "path": test, "samples": n, **common}
                for test, n in sizes.tests.items()
            ],
            "settings": {"precision": "fp32", "draws": 10_000, "seed": 0},
            "units": {},
            "versions": {},
            "files": {name: asdict(entry) for name, entry in files.items()},
        },
    )


def paired(
    test: str, first: str, second: str, a: NDArray[np.bool_], b: NDArray[np.bool_]
) -> dict[str, Any]:
    difference = float(a.mean() - b.mean())
    return {
        "set": test,
        "group": None,
        "first": first,
        "second": second,
        "difference": difference,
        "low": difference - 0.02,
        "high": difference + 0.02,
        "draws": 10_000,
        "seed": 0,
    }


def put(out: Path, name: str, table: pa.Table, files: dict[str, FileSum]) -> None:
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    files[name] = FileSum.of(path)
