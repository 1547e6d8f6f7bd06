"""What `clipgap export` writes, opened by the viewers' own readers.

Gigabytes and minutes: for `make clients`. FiftyOne keeps its samples in a MongoDB, for which
mongomock stands here.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import clipgap
from tests.clients.installing import environment, run
from tests.clip_worlds import pictures
from tests.stores import unit_rows

pytestmark = pytest.mark.clients

SPOTLIGHT = """
import json, sys
from pathlib import Path
from renumics.spotlight import dtypes
from renumics.spotlight.data_source import create_datasource
from renumics.spotlight.data_store import DataStore

table = create_datasource(Path(sys.argv[1]))
store = DataStore(table, {"embedding": dtypes.embedding_dtype})
print(json.dumps([len(store), {name: str(kind) for name, kind in store.dtypes.items()}]))
"""
FIFTYONE = """
import json, os, sys
import mongomock, mongoengine
import fiftyone.core.odm.database as database

def connect():
    if not mongoengine.connection._connections:
        database._client = mongoengine.connect(
            "fiftyone", mongo_client_class=mongomock.MongoClient, host="mongodb://localhost"
        )

database._connect = connect
import fiftyone
found = fiftyone.Dataset.from_json(sys.argv[1] + "/samples.json", rel_dir=sys.argv[1])
samples = [
    [sample.key, sample.tags, list(sample.neighbors), os.path.exists(sample.filepath)]
    for sample in found
]
print()
print(json.dumps([found.media_type, samples]))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewers")
    made = iter(pictures(30))
    for name, rows in (("train", unit_rows(24, 1)), ("val", unit_rows(6, 2))):
        keys = [f"{name}-{row}.jpg" for row in range(len(rows))]
        (folder / f"{name}-images").mkdir()
        for key in keys:
            (folder / f"{name}-images" / key).write_bytes(next(made).jpeg)
        with clipgap.StoreWriter(folder / name, rows.shape[1]) as writer:
            writer.add(rows, keys)
    clipgap.scan(folder / "train", {"val": folder / "val"}, k=5, out=folder / "scan")
    images = {name: folder / f"{name}-images" for name in ("train", "val")}
    for to in ("atlas", "spotlight", "fiftyone"):
        clipgap.export(folder / "scan", to=to, out=folder / to, images=images)
    return folder


def test_embedding_atlas(world: Path, tmp_path: Path) -> None:
    """Called as our command says, but for a folder in place of a server."""
    python = environment("atlas", "embedding-atlas==0.26.0")
    options = "--x x --y y --neighbors neighbors --image image --pagerank similarity".split()
    made = tmp_path / "page.zip"
    call = [world / "atlas" / "table.parquet", *options, "--export-application", made]
    run(python.with_name("embedding-atlas"), *call)
    with zipfile.ZipFile(made) as page:
        said = json.loads(page.read("data/metadata.json"))["props"]["data"]
        (tmp_path / "dataset.parquet").write_bytes(page.read("data/dataset.parquet"))
    assert said["neighbors"] == "neighbors" and said["projection"] == {"x": "x", "y": "y"}
    theirs = pq.read_table(tmp_path / "dataset.parquet")["neighbors"].to_pylist()
    ours = pq.read_table(world / "atlas" / "table.parquet")["neighbors"].to_pylist()
    assert theirs == ours


def test_spotlight(world: Path) -> None:
    python = environment("spotlight", "renumics-spotlight==1.8.2")
    said = run(python, "-c", SPOTLIGHT, world / "spotlight" / "table.parquet")
    items, kinds = json.loads(said.splitlines()[-1])
    assert items == pq.ParquetFile(world / "spotlight" / "table.parquet").metadata.num_rows
    assert (kinds["embedding"], kinds["image"]) == ("Embedding", "Image")


def test_fiftyone(world: Path, tmp_path: Path) -> None:
    python = environment("fiftyone", "fiftyone==1.22.1", "mongomock==4.3.0")
    here = {"HOME": str(tmp_path), "FIFTYONE_DO_NOT_TRACK": "true"}
    said = run(python, "-c", FIFTYONE, world / "fiftyone", **here)
    kind, samples = json.loads(said.splitlines()[-1])
    wanted = json.loads((world / "fiftyone" / "samples.json").read_text())["samples"]
    assert kind == "image" and samples == [
        [one["key"], one["tags"], one["neighbors"], True] for one in wanted
    ]
