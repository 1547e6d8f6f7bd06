"""What the pages of the documentation call by name, in small."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import clipgap
from clipgap.clip.data.classes import imagenet_ids
from clipgap.select.rules import Far, Prune
from tests.clip_worlds import (
    CLASSES,
    encoded,
    pictures,
    render,
    write_checkpoint,
    write_config,
    write_folder,
)
from tests.shards import member, tar_bytes, write_keep
from tests.stores import DIM, keys_of, unit_rows, write_clip_retrieval

ROOT = Path(__file__).parents[1]
SIZES = (20, 20, 20, 100)
"""Rows of each shard of the training set."""

MODEL = "a-model"
DOMAINS = ("natural", "ambiguous", "rendition")


def make_world(folder: Path) -> Path:
    """A training set with its shards, test sets, scans and splits of it; models; labels."""
    write_sets(folder)
    write_models(folder)
    tests = {name: folder / f"{name}.npy" for name in ("val", "sketch")}
    clipgap.gap(folder / "imagenet-train", tests, out=folder / "gap")
    scan = clipgap.scan(folder / "laion400m", tests, gap=folder / "gap", out=folder / "scan")
    clipgap.split(scan, Prune(("val", "sketch")), out=folder / "pruned")
    clipgap.split(scan, Far(40, ("val",)), out=folder / "far-100m")
    write_domains(folder)
    (folder / "keep").symlink_to("pruned")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    return folder


def write_sets(folder: Path) -> None:
    write_clip_retrieval(folder / "laion400m", SIZES)
    (folder / "laion").mkdir()
    image = encoded(render(0, 0, size=32))
    for number, rows in enumerate(SIZES):
        entries = [
            member(f"{key}{ending}", content)
            for key in keys_of(number, rows)
            for ending, content in ((".jpg", image), (".txt", b"a red circle"))
        ]
        (folder / "laion" / f"{number:05d}.tar").write_bytes(tar_bytes(entries))
    (folder / "shards").symlink_to("laion")
    write_clip_retrieval(folder / "imagenet-train", (300,))
    for seed, name in enumerate(("val", "sketch")):
        np.save(folder / f"{name}.npy", unit_rows(20, 100 + seed))
    for name, rows in (("data/train-0", 40), ("val", 10)):
        (folder / name).parent.mkdir(exist_ok=True)
        columns = {"id": [f"{name}-{row}" for row in range(rows)]}
        columns["embedding"] = unit_rows(rows, rows).astype(np.float32).tolist()
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    # For `check` a store will do as well, and need no weights.
    (folder / "train").symlink_to("imagenet-train")
    (folder / "val").mkdir()
    (folder / "val" / "val.npy").symlink_to(folder / "val.npy")
    for name in imagenet_ids():
        (folder / "imagenet" / "train" / name).mkdir(parents=True)
        (folder / "imagenet" / "train" / name / "1.jpg").write_bytes(b"an image")


def write_models(folder: Path) -> None:
    """A model of a hair's breadth under all names, and images for it to look at."""
    config = write_config(folder)
    write_checkpoint(config, folder / "tiny.pt")
    for name in ("base", "pruned", "rand", "mix", "natural"):
        (folder / f"{name}.pt").symlink_to("tiny.pt")
    for name in ("pruned", "rand"):
        (folder / "logs" / name / "checkpoints").mkdir(parents=True)
        (folder / "logs" / name / "checkpoints" / "epoch_1.pt").symlink_to(folder / "tiny.pt")
    made = pictures(16)
    write_folder(folder / "photos", made)
    keys = [f"{CLASSES[picture.label]}/{picture.key}.jpg" for picture in made]
    kept = {("00000", row) for row in range(12)}
    write_keep(folder / "photos-kept", {"00000": sorted(keys)}, kept)
    sets = ("imagenet/val", "sketch", "val", "hard")
    for name in (*(f"data/{name}" for name in sets), "imagenet/val"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(folder / "photos")
    for name in ("real", "sketch", "quickdraw"):
        (folder / "domainnet").mkdir(exist_ok=True)
        (folder / "domainnet" / name).symlink_to(folder / "photos")
    lines = {"names": CLASSES, "withheld": CLASSES, "prompts": ("a picture of a {}",)}
    for name, each in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(each) + "\n")


def write_domains(folder: Path) -> None:
    """A labelled set, what heads fitted to it say of the others, and of a sample of these."""
    random = np.random.default_rng(0)
    labels = random.integers(0, len(DOMAINS), 1_200)
    rows = np.eye(len(DOMAINS), DIM)[labels] + 0.1 * random.standard_normal((1_200, DIM))
    np.save(folder / "labelled.npy", rows / np.linalg.norm(rows, axis=1, keepdims=True))
    (folder / "labelled").mkdir()
    (folder / "labelled.npy").rename(folder / "labelled" / "labelled.npy")
    columns = {"shard": np.zeros(1_200, int), "row": np.arange(1_200)}
    table = pa.table({**columns, "domain": np.array(DOMAINS)[labels]})
    pq.write_table(table, folder / "labels.parquet")
    clipgap.fit_heads(
        folder / "labelled", folder / "labels.parquet", out=folder / "heads", model=MODEL
    )
    found = sorted((folder / "photos").rglob("*.jpg"))
    with clipgap.StoreWriter(folder / "photos-store", DIM) as writer:
        writer.add(unit_rows(len(found)), [str(p.relative_to(folder / "photos")) for p in found])
    for store, out in (("laion400m", "laion-domains"), ("photos-store", "val-domains")):
        clipgap.label_domains(folder / store, folder / "heads", out=folder / out, model=MODEL)
    (folder / "labels").symlink_to("laion-domains")
    domains = folder / "laion-domains"
    made = clipgap.audit_domains(domains, out=folder / "drawn", images=folder / "laion", sample=9)
    with (folder / "labels.csv").open("w", newline="") as file:
        decisions = csv.DictWriter(file, ("shard", "row", "key", "label"))
        decisions.writeheader()
        for row in pq.read_table(made.path / "sample.parquet").to_pylist():
            decisions.writerow({**row, "label": "rendition"})
