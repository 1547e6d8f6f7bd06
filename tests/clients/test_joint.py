"""One environment in which open_clip_torch[training], clip-retrieval and clipgap run, all three.

pip settles on open_clip 2.32, since clip-retrieval takes none of version 3, and on webdataset
0.2.86, which both take. clip-retrieval's models need pkg_resources as setuptools had it before
version 70, which newer releases of torch do not take. Gigabytes and minutes: for `make clients`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import clipgap
from clipgap.keep.lists import open_keep
from clipgap.select.rules import Rand
from clipgap.store.opening import open_store
from tests.clients.installing import ROOT, environment, run
from tests.clip_worlds import write_config, write_folder, write_shards

pytestmark = pytest.mark.clients

INFERENCE = """
import sys
import all_clip.main as registry, open_clip
from clip_retrieval import clip_inference, clip_index
config, inputs, form, out, parts = sys.argv[1:]

def tiny(name, jit, device, cache):
    open_clip.add_model_config(config)
    model, _, preprocess = open_clip.create_model_and_transforms("tiny-clip")
    return model.eval(), preprocess, open_clip.get_tokenizer("tiny-clip")

registry._CLIP_REGISTRY = {"tiny": tiny, **registry._CLIP_REGISTRY}
if __name__ == "__main__":
    clip_inference(
        inputs, out, input_format=form, clip_model="tiny", batch_size=4, num_prepro_workers=0,
        enable_text=False, output_partition_count=int(parts),
    )
    clip_index(out, out + "-index", nb_cores=1)
"""
"""The models that it knows by name have to be downloaded, so it is given one more."""

TRAINING = """
import sys
import open_clip
from open_clip_train.main import main
open_clip.add_model_config(sys.argv[1])
main(sys.argv[2:])
"""
NEAREST = """
import sys, faiss, numpy
index = faiss.read_index(sys.argv[1])
_, found = index.search(numpy.load(sys.argv[2]).astype("float32"), 1)
print(found[:, 0].tolist())
"""
KEYS = [f"{n:09d}" for n in range(16)]


@pytest.fixture(scope="module")
def python() -> Path:
    return environment(
        "joint",
        "open_clip_torch[training]>=2.32",
        "clip-retrieval==2.45.0",
        f"--editable={ROOT}[train]",
        "setuptools<70",
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, the same images as a folder, and the configuration of a small model."""
    folder = tmp_path_factory.mktemp("joint")
    made = write_shards(folder / "shards", (9, 7))
    write_folder(folder / "images", [picture for shard in made for picture in shard])
    write_config(folder)
    return folder


def test_nothing_in_it_contradicts_another(python: Path) -> None:
    assert "No broken requirements" in run(python, "-m", "pip", "check")
    packages = json.loads(run(python, "-m", "pip", "list", "--format", "json"))
    versions = {one["name"].lower().replace("-", "_"): one["version"] for one in packages}
    assert versions["open_clip_torch"].startswith("2.32.")
    assert (versions["webdataset"], versions["clip_retrieval"]) == ("0.2.86", "2.45.0")


@pytest.mark.parametrize(("form", "parts"), [("webdataset", 2), ("files", 3)])
def test_what_clip_retrieval_writes_is_a_store(
    python: Path, world: Path, tmp_path: Path, form: str, parts: int
) -> None:
    inputs = world / "images" if form == "files" else world / "shards/{00000..00001}.tar"
    config = world / "tiny-clip.json"
    run(python, "-c", INFERENCE, config, inputs, form, tmp_path / "emb", parts)
    store = open_store(tmp_path / "emb")
    assert (store.format, store.rows, len(store.shards)) == ("clip-retrieval", 16, parts)
    keys = [key for n in range(parts) for key in store.keys(n, 0, store.shards[n].rows).to_pylist()]
    if form == "files":
        paths = sorted(str(path) for path in (world / "images").rglob("*.jpg"))
        assert sorted(keys) == paths
    else:
        assert len(set(keys)) == 16
    # Its index and ours agree on what is nearest, where nothing ties.
    index = tmp_path / "emb-index"
    assert (index / "metadata").is_dir()
    query = store.read(0, 0, store.shards[0].rows)
    np.save(tmp_path / "query.npy", query)
    theirs = json.loads(run(python, "-c", NEAREST, index / "image.index", tmp_path / "query.npy"))
    rows = np.concatenate([store.read(n, 0, store.shards[n].rows) for n in range(parts)])
    scores = query.astype(np.float64) @ rows.astype(np.float64).T
    assert np.allclose(scores[range(len(theirs)), theirs], scores.max(axis=1), atol=1e-3)
    scan = clipgap.scan(tmp_path / "emb", {"q": tmp_path / "query.npy"}, k=1)
    assert np.array_equal(scan.tau("q"), scores.max(axis=1))


def test_keys_that_are_paths_lead_to_a_training(python: Path, world: Path, tmp_path: Path) -> None:
    """From clip-retrieval's `files` over a scan and a split to a classifier on that folder."""
    config = world / "tiny-clip.json"
    run(python, "-c", INFERENCE, config, world / "images", "files", tmp_path / "emb", 1)
    clipgap.scan(tmp_path / "emb", {"same": tmp_path / "emb"}, k=1, out=tmp_path / "scan")
    clipgap.split(tmp_path / "scan", Rand(10, seed=1), out=tmp_path / "keep")
    command = f"train --objective classify --arch squeezenet1_1 --keep {tmp_path}/keep --device cpu"
    command += f" --train-data {world}/images --epochs 1 --batch-size 5 --workers 0"
    command += f" --logs {tmp_path} --name run"
    run(python, "-m", "clipgap", *command.split())
    counts = json.loads((tmp_path / "run/manifest.json").read_text())["counts"]
    assert counts["samples"] == open_keep(tmp_path / "keep").kept == 10


def test_open_clip_train_beside_ours(python: Path, world: Path, tmp_path: Path) -> None:
    """It trains on what we filter, by sizes.json; each takes up the other's checkpoint."""
    config = world / "tiny-clip.json"
    shards = f"{world}/shards/{{00000..00001}}.tar"
    common = "--epochs 1 --batch-size 4 --workers 1 --lr 1e-3 --warmup 0"
    theirs = f"--dataset-type webdataset --model tiny-clip --train-data {shards} {common}"
    theirs += f" --train-num-samples 16 --logs {tmp_path} --name theirs"
    run(python, "-c", TRAINING, config, *theirs.split(), CUDA_VISIBLE_DEVICES="")
    checkpoint = tmp_path / "theirs/checkpoints/epoch_1.pt"
    ours = f"train --train-data {world}/shards --model {config} --device cpu {common}"
    ours += f" --logs {tmp_path} --name ours --pretrained {checkpoint}"
    run(python, "-m", "clipgap", *ours.split())
    again = tmp_path / "ours/checkpoints/epoch_1.pt"
    theirs = theirs.replace("--name theirs", f"--name more --pretrained {again}")
    run(python, "-c", TRAINING, config, *theirs.split(), CUDA_VISIBLE_DEVICES="")
    assert (tmp_path / "more/checkpoints/epoch_1.pt").exists()


def test_it_reads_the_sizes_of_what_we_filter(python: Path, world: Path, tmp_path: Path) -> None:
    embed = f"embed {world}/shards --model {world}/tiny-clip.json --pretrained= --device cpu"
    run(python, "-m", "clipgap", *embed.split(), "-o", tmp_path / "emb")
    clipgap.scan(tmp_path / "emb", {"same": tmp_path / "emb"}, k=1, out=tmp_path / "scan")
    clipgap.split(tmp_path / "scan", Rand(12, seed=1), out=tmp_path / "keep")
    filtered = clipgap.filter_shards(world / "shards", tmp_path / "keep", tmp_path / "out").path
    script = "import sys; from open_clip_train.data import get_dataset_size as size"
    script += "; print(size(sys.argv[1])[0])"
    assert run(python, "-c", script, f"{filtered}/{{00000..00001}}.tar").split()[-1] == "12"
    theirs = "--dataset-type webdataset --model tiny-clip --batch-size 4 --epochs 1 --workers 1"
    theirs += f" --train-data {filtered}/{{00000..00001}}.tar --logs {tmp_path} --name run"
    run(python, "-c", TRAINING, world / "tiny-clip.json", *theirs.split(), CUDA_VISIBLE_DEVICES="")
