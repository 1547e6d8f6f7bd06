"""Every reader of a file, ours and foreign, with a small file of each: one more is one entry.

`tests/test_fuzz.py` gives each a few spoilt files, `scripts/fuzz.py` as many as one likes.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import clipgap
from clipgap.bench.rates import Kept
from clipgap.cli import config
from clipgap.clip.checkpoints import read_weights
from clipgap.clip.data.classes import Classes
from clipgap.clip.data.registry import find_set
from clipgap.clip.data.tables import LabelTable
from clipgap.clip.eval.plan import read_classnames, read_templates
from clipgap.clip.eval.subsets import read_subsets
from clipgap.clip.images.decoding import decode
from clipgap.clip.images.tables import find_tables
from clipgap.clip.networks import register_config
from clipgap.clip.train.captions import read_captions
from clipgap.clip.train.checkpoints import is_whole
from clipgap.clip.train.labels import read_class_labels
from clipgap.clip.train.logs import QUARANTINE, Log, Quarantine, reached
from clipgap.clip.train.order import Position
from clipgap.dedup import given
from clipgap.errors import ClipgapError, ShareDone
from clipgap.files.documents import MANIFEST, SUM, checksum, encode
from clipgap.files.parquet import read_table
from clipgap.files.settings import read_settings
from clipgap.files.sums import FileSum
from clipgap.heads.heads import read_tensors, write_tensors
from clipgap.keep.certificates import certificate_file, read_certificate
from clipgap.keep.lists import bitmap_name, keep_name, open_keep
from clipgap.mix.options import MixOptions
from clipgap.mix.recipe import read_recipe as read_mix
from clipgap.report.paper import read_paper
from clipgap.runs.lock import PROGRESS
from clipgap.runs.run import BOARD
from clipgap.runs.shares import SHARE, Part, Share
from clipgap.runs.status import status_of
from clipgap.runs.units import UNITS, Ledger
from clipgap.scan import api as scans
from clipgap.select.rules import Rand
from clipgap.shards.finding import find_shards
from clipgap.shards.names import keys_in, names_in
from clipgap.shards.samples import read_samples
from clipgap.store.opening import open_store
from clipgap.store.writer import StoreWriter
from clipgap.study.recipe import read_recipe as read_study
from tests.clip_worlds import encoded
from tests.shards import FORMATS, sample, tar_bytes, write_datacomp
from tests.stores import DIM, keys_of, unit_rows, write_clip_retrieval, write_keys

Make = Callable[[Path], Sequence[bytes] | None]


@dataclass(frozen=True)
class Reader:
    """How a file is read that may hold anything.

    `make` fills a folder, `file` in it is the one that strangers write; what else could stand there
    it returns. `seal` gives spoilt content the checksums that it needs to be looked at.
    """

    name: str
    file: str
    make: Make
    read: Callable[[Path], Any]
    seal: Callable[[bytes], bytes] = bytes

    def accepts(self, folder: Path, content: bytes) -> bool:
        """Whether it reads the file; any error but one of ours comes through."""
        (folder / self.file).write_bytes(self.seal(content))
        try:
            self.read(folder)
        except ClipgapError:
            return False
        return True


def written(name: str, content: str | bytes) -> Make:
    """A folder with that file."""

    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


# --- stores


def read_all(source: str | Path) -> None:
    store = open_store(source)
    for shard in store.shards:
        store.read(shard.index, 0, shard.rows)
        if store.has_keys:
            store.keys(shard.index, 0, shard.rows)


def packed(kind: int) -> bytes:
    held, array = io.BytesIO(), io.BytesIO()
    np.save(array, unit_rows(30))
    with zipfile.ZipFile(held, "w", kind) as archive:
        archive.writestr("b32_img.npy", array.getvalue())
    return held.getvalue()


def make_npz(folder: Path) -> list[bytes]:
    (folder / "x.npz").write_bytes(packed(zipfile.ZIP_STORED))
    return [packed(kind) for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)]


def make_keys(folder: Path) -> None:
    make_npz(folder)
    write_keys(folder / "x.parquet", "uid", keys_of(0, 30))


def embeddings() -> Any:
    rows = unit_rows(30).astype(np.float32).tolist()
    return pa.table({"uid": keys_of(0, 30), "embedding": rows})


def make_table(folder: Path) -> None:
    pq.write_table(embeddings(), folder / "x.parquet")


def make_arrow(folder: Path) -> None:
    with pa.ipc.new_stream(str(folder / "data.arrow"), embeddings().schema) as stream:
        stream.write_table(embeddings(), max_chunksize=7)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')


def make_safetensors(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"rows": unit_rows(30)}, folder / "x.safetensors")


def make_own(folder: Path) -> None:
    with StoreWriter(folder / "store", DIM) as writer:
        writer.add(unit_rows(9), keys_of(0, 9))


def make_lance(folder: Path) -> None:
    import lance

    lance.write_dataset(embeddings(), str(folder / "set.lance"))
    (data,) = (folder / "set.lance/data").glob("*.lance")
    (version,) = (folder / "set.lance/_versions").glob("*.manifest")
    (folder / "data.lance").symlink_to(data)
    (folder / "version").symlink_to(version)


def make_raw(folder: Path) -> None:
    (folder / "rows.bin").write_bytes(unit_rows(6).astype("<f4").tobytes())
    (folder / "paths.bin").write_bytes(np.array(keys_of(0, 6), "S24").tobytes())


def read_raw(folder: Path) -> None:
    read_all(f"{folder}/rows.bin?dim={DIM}&paths=paths.bin")


# --- documents of ours, with checksums that hold


def sealed(content: bytes) -> bytes:
    """With the checksum of what it says, if it is a document."""
    try:
        document = json.loads(content)
        return encode({**document, SUM: checksum(document)})
    except (ValueError, TypeError, RecursionError, UnicodeEncodeError):
        return content


def sealed_lines(content: bytes) -> bytes:
    return b"".join(_line(line) for line in content.splitlines(keepends=True))


def _line(line: bytes) -> bytes:
    try:
        document = json.loads(line)
        return json.dumps({**document, SUM: checksum(document)}).encode() + b"\n"
    except (ValueError, TypeError, RecursionError, UnicodeEncodeError):
        return line


def make_folders(root: Path) -> None:
    """A gap, a scan and a keep-list."""
    write_clip_retrieval(root / "store", [9, 4])
    np.save(root / "val.npy", unit_rows(3, 50))
    np.save(root / "reference.npy", unit_rows(5, 51))
    clipgap.gap(root / "reference.npy", {"val": root / "val.npy"}, k=2, out=root / "gap")
    clipgap.scan(
        root / "store", {"val": root / "val.npy"}, gap=root / "gap", k=2, out=root / "scan"
    )
    clipgap.split(root / "scan", Rand(6), out=root / "keep")
    clipgap.verify(root / "keep", certify=certificate_file(root / "keep"))


def read_scan(folder: Path) -> None:
    clipgap.open_scan(folder / "scan")


def read_keep(folder: Path) -> None:
    keep = open_keep(folder / "keep")
    read_certificate(keep)
    keep.table(0)
    keep.bits(0)


def read_signed(folder: Path) -> None:
    """The same, if its manifest has the sums of what is there."""
    manifest = folder / "keep" / MANIFEST
    document = json.loads(manifest.read_bytes())
    for name in (keep_name(0), bitmap_name(0)):
        document["files"][name] = vars(FileSum.of(folder / "keep" / name))
    manifest.write_bytes(sealed(json.dumps(document).encode()))
    read_keep(folder)


def make_notes(folder: Path) -> None:
    """What a run of one share leaves."""
    make_folders(folder)
    tests, reference = {"val": folder / "val.npy"}, folder / "reference.npy"
    with suppress(ShareDone):
        clipgap.gap(reference, tests, k=2, out=folder / "out", share=Share([0], 1))


PART = "train/part-00000.parquet"
NOTES = f"out.parts/0-of-1/{PROGRESS}"


def make_lists(folder: Path) -> None:
    np.savez(folder / "lists.npz", sim_0=unit_rows(3), id_0=np.arange(36).reshape(3, 12))


def load_ledger(folder: Path) -> None:
    Ledger(folder / NOTES / UNITS).load()


# --- shards and images


def make_shard(folder: Path) -> list[bytes]:
    entries = [entry for key in ("a", "b", "c") for entry in sample(key, sizes=(90, 40))]
    (folder / "0.tar").write_bytes(tar_bytes(entries))
    (folder / "0_stats.json").write_text('{"successes": 3}')
    return [tar_bytes(entries, FORMATS[name]) for name in ("ustar", "gnu")]


def make_listed(folder: Path) -> None:
    write_datacomp(folder, {"0": ["ab", "cd", "ef"]})


def read_shards(folder: Path) -> None:
    """Every way through a shard; damage is told to whoever asks, and is no error."""
    for shard in find_shards(folder):
        list(read_samples(shard, on_problem=lambda problem: None))
        keys_in(shard)
        names_in(shard, "uid")


def make_pictures(folder: Path) -> list[bytes]:
    image = Image.new("RGB", (8, 6), "red")
    (folder / "image").write_bytes(encoded(image))
    return [encoded(image, form) for form in ("PNG", "WEBP", "GIF", "BMP")]


def make_image_table(folder: Path) -> None:
    table = pa.table({"image": [{"bytes": b"x", "path": "a"}] * 5, "caption": ["a"] * 5})
    pq.write_table(table, folder / "x.parquet")


def read_image_table(folder: Path) -> None:
    for table in find_tables(folder / "x.parquet"):
        list(table.images(lambda problem: None))


# --- models


def make_checkpoint(folder: Path) -> None:
    import torch

    torch.save({"epoch": 1, "state_dict": {"a": torch.zeros(2, 3)}}, folder / "a.pt")


def read_configuration(folder: Path) -> None:
    """open_clip reads all that it was told of once more, each time; this file will not stay."""
    from open_clip import factory

    told = list(factory._MODEL_CONFIG_PATHS)
    try:
        register_config(str(folder / "m.json"))
    finally:
        factory._MODEL_CONFIG_PATHS[:] = told
        factory._rescan_model_configs()


def read_checkpoint(folder: Path) -> None:
    is_whole(folder / "a.pt")
    read_weights(folder / "a.pt", "meta")


def make_weights(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros((2, 3), np.float32)}, folder / "a.safetensors")


def make_heads(folder: Path) -> None:
    tensors = {"natural.weight": np.ones(4), "natural.bias": np.zeros(1)}
    (folder / "heads").write_bytes(write_tensors(tensors, {"model": "m"}))


def make_clusters(folder: Path) -> None:
    write_clip_retrieval(folder / "store", [9, 4])
    np.save(folder / "c.npy", np.arange(13))


def read_clusters(folder: Path) -> None:
    given._labels(folder / "c.npy", open_store(folder / "store"))


LOSSES = '{"epoch": 1, "batch": 2, "samples": 8, "loss": 0.5}\n' * 3
PROBLEMS = '{"what": "sample", "shard": "a", "name": "b", "reason": "c"}\n' * 3


def read_log(folder: Path) -> None:
    reached(folder)
    Log(folder / "losses.jsonl", Position(1, 1))


# --- what people write

LABELS = "key,domain,class\na,natural,ant\nb,rendition,bee\nc,natural,bee\n"
MIX = """\
[pool]
store = "store"
labels = ["labels.csv"]
[mixes.half]
rule = "ratio"
rows = 8
parts = { natural = 1, rendition = 2.5 }
"""
STUDY = """\
[study]
title = "A study"
[paths]
train = { about = "a store", default = "store" }
[values]
k = 3
[lists]
test = ["a", "b"]
[stages."gap-$test"]
command = "gap"
ref = "{train}"
test = ["$test={train}"]
k = "{k}"
"""
PAPER = """\
title = "A paper"
source = "none"
x = "val"
[[rows]]
name = "web"
size = 20
accuracy = { val = 68.34 }
"""
CAPTIONS = """\
labels = ["labels.csv"]
specific = 0.5
seed = 1
templates = ["a photo of {a class}"]
[terms]
natural = ["photo"]
rendition = ["drawing"]
"""
BIRDS = """\
img_id,img_filename,y,split,place,place_filename
1,a/0.jpg,0,0,1,/p.jpg
2,b/1.jpg,1,0,0,/p.jpg
"""
MODEL = {"embed_dim": 16, "vision_cfg": {"layers": 1}, "text_cfg": {"layers": 1}}
ROW = {
    "suite": "kernels",
    "run": "2026-01-01",
    "machine": {"cpu": "a", "cores": 1},
    "contender": "clipgap cpu/a",
    "data": "clip-like",
    "d": 512,
    "tests": 100,
    "threads": 1,
    "gflops": {"p50": 1.5},
}


def make_captions(folder: Path) -> None:
    (folder / "labels.csv").write_text(LABELS)
    (folder / "captions.toml").write_text(CAPTIONS)


def make_settings(folder: Path) -> None:
    config.save(folder / "out.toml", "clipgap scan", {"out": "out", "k": 3}, folder / "out")


def read_saved(folder: Path) -> None:
    read_settings(folder / "out")
    config._read(folder / "out.toml")


def make_labels(folder: Path) -> None:
    table = pa.table({"key": ["a", "b", "c"], "domain": ["x", "y", "x"], "class": ["p", "q", "q"]})
    pq.write_table(table, folder / "labels.parquet")


def classes() -> Classes:
    return Classes.plain(["ant", "bee"], ["a {}"])


READERS = [
    Reader("npy", "x.npy", lambda folder: np.save(folder / "x.npy", unit_rows(30)), read_all),
    Reader("npz", "x.npz", make_npz, read_all),
    Reader("keys in parquet", "x.parquet", make_keys, read_all),
    Reader("store in parquet", "x.parquet", make_table, read_all),
    Reader("store in arrow", "data.arrow", make_arrow, read_all),
    Reader("state of datasets", "state.json", make_arrow, read_all),
    Reader("store in safetensors", "x.safetensors", make_safetensors, read_all),
    Reader("lance, data", "data.lance", make_lance, lambda folder: read_all(folder / "set.lance")),
    Reader("lance, version", "version", make_lance, lambda folder: read_all(folder / "set.lance")),
    Reader("store.json", "store/store.json", make_own, lambda folder: read_all(folder / "store")),
    Reader("paths of a memmap", "paths.bin", make_raw, read_raw),
    Reader("manifest of a scan", f"scan/{MANIFEST}", make_folders, read_scan, sealed),
    Reader("manifest of a keep-list", f"keep/{MANIFEST}", make_folders, read_keep, sealed),
    Reader("certificate", "keep.certificate.json", make_folders, read_keep, sealed),
    Reader(
        "table of a scan", f"scan/{PART}", make_folders, lambda f: read_table(f / "scan" / PART)
    ),
    Reader("table of a keep-list", f"keep/{keep_name(0)}", make_folders, read_signed),
    Reader("bitmap of a keep-list", f"keep/{bitmap_name(0)}", make_folders, read_signed),
    Reader(
        "share.json",
        f"{NOTES}/{SHARE}",
        make_notes,
        lambda f: Part(f / "out.parts/0-of-1").said,
        sealed,
    ),
    Reader("ledger of units", f"{NOTES}/{UNITS}", make_notes, load_ledger, sealed_lines),
    Reader("board", f"{NOTES}/{BOARD}", make_notes, lambda folder: status_of(folder / "out")),
    Reader(
        "lists of a run", "lists.npz", make_lists, lambda f: scans._load_lists(f / "lists.npz", 1)
    ),
    Reader(
        "heads", "heads", make_heads, lambda f: read_tensors((f / "heads").read_bytes(), "heads")
    ),
    Reader("tar shard", "0.tar", make_shard, read_shards),
    Reader("statistics of a shard", "0_stats.json", make_shard, read_shards),
    Reader("table of a shard", "0.parquet", make_listed, read_shards),
    Reader("image", "image", make_pictures, lambda f: decode((f / "image").read_bytes(), "image")),
    Reader("images in parquet", "x.parquet", make_image_table, read_image_table),
    Reader("checkpoint", "a.pt", make_checkpoint, read_checkpoint),
    Reader(
        "weights in safetensors",
        "a.safetensors",
        make_weights,
        lambda f: read_weights(f / "a.safetensors"),
    ),
    Reader(
        "configuration of a model",
        "m.json",
        written("m.json", json.dumps(MODEL)),
        read_configuration,
    ),
    Reader("log of losses", "losses.jsonl", written("losses.jsonl", LOSSES), read_log),
    Reader(
        "quarantine of training",
        f"{QUARANTINE}/0.jsonl",
        written(f"{QUARANTINE}/0.jsonl", PROBLEMS),
        lambda f: Quarantine(f).problems(),
    ),
    Reader("clusters", "c.npy", make_clusters, read_clusters),
    Reader(
        "labels in CSV",
        "labels.csv",
        written("labels.csv", LABELS),
        lambda f: read_class_labels(f / "labels.csv"),
    ),
    Reader(
        "labels in parquet",
        "labels.parquet",
        make_labels,
        lambda f: read_class_labels(f / "labels.parquet"),
    ),
    Reader(
        "table of a set",
        "metadata.csv",
        written("metadata.csv", BIRDS),
        lambda f: LabelTable.read(find_set("waterbirds"), f),
    ),
    Reader(
        "recipe of a mix",
        "mix.toml",
        written("mix.toml", MIX),
        lambda f: read_mix(f / "mix.toml", MixOptions()),
    ),
    Reader(
        "recipe of a study",
        "study.toml",
        written("study.toml", STUDY),
        lambda f: read_study(f / "study.toml"),
    ),
    Reader(
        "figures of a paper",
        "paper.toml",
        written("paper.toml", PAPER),
        lambda f: read_paper(f / "paper.toml"),
    ),
    Reader(
        "captions", "captions.toml", make_captions, lambda f: read_captions(f / "captions.toml")
    ),
    Reader(
        "subsets",
        "subsets.toml",
        written("subsets.toml", '[some]\nclasses = ["ant", "bee"]\n'),
        lambda f: read_subsets(f / "subsets.toml", classes(), [("k", 0), ("l", 1)]),
    ),
    Reader(
        "names of classes",
        "names.txt",
        written("names.txt", "ant\tan ant\nbee\n"),
        lambda f: read_classnames(f / "names.txt"),
    ),
    Reader(
        "prompts",
        "prompts.txt",
        written("prompts.txt", "a {}\nmy {}.\n"),
        lambda f: read_templates(f / "prompts.txt"),
    ),
    Reader("settings", "out.toml", make_settings, read_saved),
    Reader(
        "rows of benchmarks",
        "b.jsonl",
        written("b.jsonl", json.dumps(ROW) + "\n"),
        lambda f: Kept(f / "b.jsonl").core(512, 100),
    ),
]
"""A reader of each kind of file."""
