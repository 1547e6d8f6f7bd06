"""What people write: labels, recipes, lists of names, and clusters from elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipgap.clip.data.classes import Classes
from clipgap.clip.data.registry import find_set
from clipgap.clip.data.tables import LabelTable
from clipgap.clip.eval.plan import read_classnames, read_templates
from clipgap.clip.eval.subsets import read_subsets
from clipgap.clip.train.captions import read_captions
from clipgap.clip.train.labels import read_class_labels
from clipgap.dedup import given
from clipgap.mix.options import MixOptions
from clipgap.mix.recipe import read_recipe as read_mix
from clipgap.report.paper import read_paper
from clipgap.store.opening import open_store
from clipgap.study.recipe import read_recipe as read_study
from tests.readers.reader import Reader, written
from tests.stores import write_clip_retrieval


def make_clusters(folder: Path) -> None:
    write_clip_retrieval(folder / "store", [9, 4])
    np.save(folder / "c.npy", np.arange(13))


def read_clusters(folder: Path) -> None:
    given._labels(folder / "c.npy", open_store(folder / "store"))


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


def make_captions(folder: Path) -> None:
    (folder / "labels.csv").write_text(LABELS)
    (folder / "captions.toml").write_text(CAPTIONS)


def make_labels(folder: Path) -> None:
    table = pa.table({"key": ["a", "b", "c"], "domain": ["x", "y", "x"], "class": ["p", "q", "q"]})
    pq.write_table(table, folder / "labels.parquet")


def classes() -> Classes:
    return Classes.plain(["ant", "bee"], ["a {}"])


READERS = [
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
]
