"""Runs every command on small data at two checkouts and compares all that they write.

    python scripts/compare_outputs.py                  # HEAD against the work tree
    python scripts/compare_outputs.py REVISION         # another commit against the work tree
    python scripts/compare_outputs.py BEFORE AFTER     # two folders with checkouts

Files are compared byte for byte, and what a command says with --json value by value. What differs
is listed file by file, with the places in it. Exit code 1 if anything differs that `MEANT` does
not name, or if an entry of `MEANT` no longer differs.

Nothing here knows how clipgap is made: the data are drawn with NumPy and Pillow, and each command
is a process of its own, so any two commits with the same command line can be compared.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import io
import json
import multiprocessing
import os
import random
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torchvision
from PIL import Image, ImageDraw

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).parents[1]

# Differences that are wanted: (file, place in it, why). Files and places as they are listed; * and
# ? stand for anything. A file that is there on one side only has the place "only before" or "only
# after". They are those of a change that is being made, and go when it is done.
MEANT: list[tuple[str, str, str]] = []

# What two runs of one commit may differ in: places in documents, and times in texts. Checkpoints
# hold the name of a temporary file, so their tensors are compared and their sums are not. `run` is
# how a scan went, with which kernel.
VOLATILE = re.compile(r"(^|\.)(versions?|seconds|\w+_per_second|checkpoint\.sha256|run)$")
TIMES = re.compile(
    r"\d{4}-\d\d-\d\d,\d\d:\d\d:\d\d"  # of open_clip's logs
    r"|[IWE]\d{4} \d\d:\d\d:\d\d\.\d+ \d+"  # of torch's, with a process
    r"|Data \(t\): .*/s/gpu"
    r"|(?<=rows) in .* s: .*"
)

DONE = (0, 4)  # exit codes
LIMIT = 180  # seconds; the longest take a few
FILLING = {"render", "gap", "scan", "split", "dedup", "embed", "filter", "eval", "report", "run"}
TEXTS = {
    "tests": "--test a=in/a.npy --test b.2-x=in/b.npy",
    "drawn": "--test val=embed-val --test sketch=embed-sketch",
    "weights": "--model in/tiny-clip.json --pretrained in/a.pt",
    "train": "--workers 0 --device cpu --batch-size 16 --lr 0.003 --warmup 2 --seed 3",
    "eval": "--device cpu --workers 1 --draws 200",
    "report": (
        "--scan web=scan-drawn --reference ref=gap-drawn --split pruned=split-drawn "
        "--eval eval-drawn --images val=render/val --images sketch=render/sketch "
        "--images web=render/web --images ref=render/reference --paper in/paper.toml"
    ),
}

# Each wave needs only what the waves before it have made. `-o NAME` is added.
WAVES = [
    """
    render: render shapes --web 60 --reference 24 --points 16 --planted 12 --classes 4
    render-seed: render shapes --web 9 --reference 6 --points 4 --planted 2 --seed 5
    gap: gap in/reference {tests} -k 5
    scan-plain: scan in/train {tests} -k 4
    scan-torch: scan in/train {tests} -k 4 --kernel torch --device cpu --block-rows 64
    scan-numpy: scan in/train {tests} -k 4 --kernel numpy --above 0.5
    scan-bad: scan in/bad.npy {tests} --bad-rows quarantine
    scan-nokeys: scan in/nokeys {tests} --threads 1 --block-rows 7
    scan-npz: scan in/datacomp {tests}
    dedup: dedup in/train --epsilon 0.05 --clusters 4
    dedup-many: dedup in/train --epsilon 0.02 --epsilon 0.1 --clusters 3 --audit 40 --seed 2 \
        -o dedup-many-{{epsilon}}
    dedup-chain: dedup in/train --epsilon 0.05 --clusters 4 --mode chain --keep centroid-far \
        --semdedup semdedup
    dedup-comp: dedup in/train --epsilon 0.05 --clusters 4 --mode components --keep random \
        --seeding kmeans++
    dedup-exact: dedup in/nokeys --epsilon 0.1 --exact --keep first
    dedup-near: dedup in/bad.npy --epsilon 0.05 --clusters 2 --keep centroid-near --bad-rows \
        quarantine --kernel numpy
    link: data link waterbirds in/birds --where y=0,place=1 --where y=1,place=0 -o link
    list: data list
    info: store info in/train
    info-bad: store info in/bad.npy
    """,
    """
    scan: scan in/train {tests} --gap gap -k 6 --above 0.7 --above 0.9
    scan-gapless: scan in/train {tests} --gap gap --no-train-table
    scan-again: scan in/train {tests} --gap gap --kernel torch --device cpu
    base: train --train-data render/web --add-reference render/reference --logs . --name base \
        --model in/tiny-clip.json --epochs 2 {train} --log-keys
    classify: train --objective classify --train-data in/images --logs . --name classify \
        --arch squeezenet1_1 --epochs 1 --workers 0 --device cpu --batch-size 8
    emptied: dedup in/train --epsilon 0.05 --clusters 4 -o dedup --resume
    """,
    """
    split-prune: split scan --prune a
    split-both: split scan --prune a --prune b.2-x --offset -0.01
    split-near: split scan --near 70 --by a
    split-far: split scan --far 81 --by b.2-x
    split-core: split scan --core 50 --by a --by b.2-x
    split-rand: split scan --rand 99 --seed 4
    split-other: split scan --rand 60 --seed 5
    split-where: split scan --where style=photo,sketch --where good!=no --labels in/labels.csv
    split-within: split scan --far 20 --by a --within dedup
    split-ref: split scan --prune a --with-reference in/reference --reference-classes \
        in/classes.csv --caption "a {{class}}"
    verify-scan: verify scan --sample 40 --seed 3
    verify-full: verify scan-gapless --full
    verify-gap: verify gap
    verify-dedup: verify dedup
    emulate: emulate scan --candidates 3 --arithmetic float16
    emulate-tf32: emulate scan --candidates 40 --arithmetic tf32
    embed-web: embed render/web {weights} --captions
    embed-ref: embed render/reference {weights}
    embed-val: embed render/val {weights} --captions --batch-size 5
    embed-sketch: embed render/sketch {weights}
    embed-folder: embed in/images {weights}
    embed-tars: embed in/shards {weights} --captions --allow-bad 9
    """,
    """
    union: split split-rand split-other split-near --union
    intersection: split split-rand split-other --intersection
    difference: split split-rand split-other --difference
    verify-prune: verify split-prune --certificate certificate-of-prune.json
    verify-both: verify split-both --kernel numpy
    verify-core: verify split-core
    verify-ref: verify split-ref
    gap-drawn: gap embed-ref {drawn}
    scan-tars: scan embed-tars {drawn} -k 3
    info-own: store info embed-tars
    eval-drawn: eval web=in/a.pt in/b.pt --model in/tiny-clip.json --data val=render/val \
        --data sketch=render/sketch --classnames render/classes.txt \
        --templates render/templates.txt {eval}
    eval-class: eval in/classifier.pt --data pics=in/images {eval}
    study: run in/recipe.toml --set n=20
    """,
    """
    verify-sets: verify difference
    scan-drawn: scan embed-web {drawn} --gap gap-drawn
    tars-rand: split scan-tars --rand 23 --seed 1
    study-again: run in/recipe.toml --set n=25 -o study
    """,
    """
    split-drawn: split scan-drawn --prune sketch
    drawn-far: split scan-drawn --far 30 --by val
    filter: filter in/shards --keep tars-rand --allow-bad 9
    filter-merge: filter in/shards --keep tars-rand --merge 9 --allow-bad 9
    filter-text: filter in/shards --keep tars-rand --captions in/captions.parquet --workers 1 \
        --allow-bad 9
    """,
    """
    filter-drawn: filter render/web --keep split-drawn
    train-keep: train --train-data render/web --keep split-drawn --logs . --name train-keep \
        --model in/tiny-clip.json --epochs 1 {train}
    verify-drawn: verify split-drawn
    report: report {report} --split far=drawn-far --gallery 5 --title "All of it"
    report-md: report {report} --format md
    report-json: report {report} --format json --embedding other=scan-drawn
    """,
]

RECIPE = """\
[study]
title = "Small"
show = ["pruned"]

[paths]
train = { about = "the training store", default = "train" }
reference = { about = "the reference", default = "reference" }
a = { about = "a test set", default = "a.npy" }
b = { about = "a test set", default = "b.npy" }

[values]
n = 20

[lists]
set = ["a", "b"]

[stages.gap]
command = "gap"
ref = "{reference}"
test = ["$set={$set}"]

[stages.scan]
command = "scan"
train = "{train}"
test = ["$set={$set}"]
gap = "{gap}"
k = 3

[stages.pruned]
command = "split"
source = ["{scan}"]
prune = ["$set"]

[stages.far]
command = "split"
source = ["{scan}"]
far = "{n}"
by = ["a"]

[stages.proof]
command = "verify"
path = "{pruned}"
"""

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 49_408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}

PAPER = """\
title = "A paper"
source = "nowhere"
x = "val"

[[rows]]
name = "web"
size = 60
accuracy = { val = 68.34, sketch = 44.78 }

[[rows]]
name = "pruned"
removed = 12
accuracy = { val = 60.5, sketch = 30.25 }
"""


# --- data -----------------------------------------------------------------------------------


def make_inputs(folder: Path) -> None:
    """Stores with duplicates and near-ties, bad rows, images with bad ones among them, labels."""
    folder.mkdir()
    rows = [troubled_rows(count, seed) for seed, count in enumerate((90, 0, 133, 1, 64))]
    keys = write_store(folder / "train", rows)
    of_reference = write_store(folder / "reference", [troubled_rows(40, 52)])
    write_store(folder / "nokeys", rows)
    shutil.rmtree(folder / "nokeys" / "metadata")
    for shard in (0, 1):
        (folder / "datacomp").mkdir(exist_ok=True)
        np.savez(folder / "datacomp" / f"{shard:08d}.npz", l14_img=rows[2 * shard])
        write_table(folder / "datacomp" / f"{shard:08d}.parquet", {"uid": keys[2 * shard]})
    np.save(folder / "a.npy", troubled_rows(31, 50))
    np.save(folder / "b.npy", troubled_rows(5, 51).astype(np.float32))
    bad = troubled_rows(50, 53)
    bad[7, 3], bad[20] = np.nan, 0
    np.save(folder / "bad.npy", bad)

    flat = [key for block in keys for key in block]
    chance = random.Random(7)
    styles = [(key, chance.choice(["photo", "sketch", "art"]), chance.choice("yn")) for key in flat]
    lines = ["key,style,good", *(f"{key},{style},{good}o" for key, style, good in styles[::2])]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    lines = ["key,class", *(f"{key},{i % 3}" for i, key in enumerate(of_reference[0]))]
    (folder / "classes.csv").write_text("\n".join(lines) + "\n")

    for label, name in enumerate(("circle", "square", "cross")):
        for seed in range(4):
            path = folder / "images" / name / f"{seed}.{'png' if seed % 2 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(label, seed, "PNG" if seed % 2 else "JPEG"))
    captions = []
    for shard, count in enumerate((14, 0, 19)):
        entries: list[tuple[str, bytes]] = []
        for row in range(count):
            key = f"{shard}{row:04d}"
            image = b"no image" if row == 5 else picture(row, shard)
            entries += [(f"{key}.jpg", image), (f"{key}.txt", f"picture {row}".encode())]
            entries += [(f"{key}.cls", str(row % 3).encode()), (f"{key}.json", b'{"a": 1}')]
            captions += [(key, f"another {row}")] if row % 3 else []
        write_tar(folder / "shards" / f"{shard:05d}.tar", entries)
        table = {"key": [f"{shard}{row:04d}" for row in range(count)]}
        write_table(folder / "shards" / f"{shard:05d}.parquet", table)
    names = ("key", "caption")
    columns = {name: [row[i] for row in captions] for i, name in enumerate(names)}
    write_table(folder / "captions.parquet", columns)

    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for number, (bird, place) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (0, 1)]):
        path = folder / "birds" / f"{bird}.kind" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(bird, number))
        lines.append(f"{number},{bird}.kind/{number}.jpg,{bird},0,{place},/p.jpg")
    (folder / "birds" / "metadata.csv").write_text("\n".join(lines))

    (folder / "tiny-clip.json").write_text(json.dumps(CLIP))
    make_checkpoints(folder)
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "paper.toml").write_text(PAPER)


def make_checkpoints(folder: Path) -> None:
    """Two of the tiny CLIP, and one of a classifier; their weights are random."""
    torch.set_num_threads(1)
    open_clip.add_model_config(folder / "tiny-clip.json")
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = open_clip.create_model("tiny-clip")
        torch.save({"epoch": 1, "state_dict": model.state_dict()}, folder / f"{name}.pt")
    classifier = {
        "state_dict": torchvision.models.squeezenet1_1(num_classes=3).state_dict(),
        "epoch": 1,
        "objective": "classify",
        "arch": "squeezenet1_1",
        "classes": ["circle", "cross", "square"],
    }
    torch.save(classifier, folder / "classifier.pt")


def write_store(folder: Path, rows: list[np.ndarray[Any, Any]]) -> list[list[str]]:
    """Shards as clip-retrieval writes them; the keys of each."""
    (folder / "img_emb").mkdir(parents=True)
    keys = [[f"{shard:02d}-{row:05d}" for row in range(len(of))] for shard, of in enumerate(rows)]
    for shard, block in enumerate(rows):
        np.save(folder / "img_emb" / f"img_emb_{shard}.npy", block)
        table = {"image_path": keys[shard], "caption": ["a photo"] * len(block)}
        write_table(folder / "metadata" / f"metadata_{shard}.parquet", table)
    return keys


def troubled_rows(count: int, seed: int, dim: int = 17) -> np.ndarray[Any, np.dtype[np.float16]]:
    """Rows in a cone, with duplicates and with neighbours one float16 step apart."""
    rows = np.random.default_rng(seed).normal(size=(count, dim)) + 1.0
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    twin = np.full(dim, dim**-0.5).astype(np.float16)
    rows[::7] = twin
    rows[3::7] = twin
    rows[3::7, 0] = np.nextafter(twin[0], np.float16(2))
    return rows


def picture(label: int, seed: int, form: str = "JPEG") -> bytes:
    chance = random.Random(f"{label}-{seed}")
    image = Image.new("RGB", (48, 48), tuple(chance.randrange(70) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    x, y, width = chance.randrange(20), chance.randrange(20), chance.randrange(16, 28)
    box = (x, y, x + width, y + width)
    match label % 3:
        case 0:
            draw.ellipse(box, "red")
        case 1:
            draw.rectangle(box, "green")
        case _:
            draw.line(box, "yellow", 6)
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def write_tar(path: Path, entries: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_table(path: Path, columns: dict[str, list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path)


# --- runs -----------------------------------------------------------------------------------


def run_all(checkout: Path, folder: Path, processes: int) -> None:
    """Run the commands of a checkout in a folder that holds the inputs, so many at a time."""
    (folder / "said").mkdir()
    for number, wave in enumerate(WAVES, 1):
        print(f"{checkout}: wave {number} of {len(WAVES)}", file=sys.stderr)
        running: dict[int, str] = {}
        waiting = [line.split(":", 1) for line in wave.strip().splitlines()]
        while waiting or running:
            if waiting and len(running) < processes:
                name, arguments = (part.strip() for part in waiting.pop(0))
                call = [*shlex.split(arguments.format(**TEXTS)), "--json"]
                if call[0] in FILLING and "-o" not in call:
                    call += ["-o", name]
                running[start(checkout, folder, name, call)] = name
                continue
            process, status = os.wait()
            code, name = os.waitstatus_to_exitcode(status), running.pop(process)
            (folder / "said" / f"{name}.code").write_text(f"{code}\n")
            if code == -signal.SIGALRM:
                os.killpg(process, signal.SIGKILL)  # what it has started
                print(f"{checkout}: {name} was stopped, since it ran for {LIMIT} s:")
            elif code not in DONE:
                print(f"{checkout}: {name} ended with exit code {code}:")
            if code not in DONE:
                print((folder / "said" / f"{name}.log").read_text())
        # Manifests hold the times of their inputs, which were outputs a moment ago.
        for path in folder.rglob("*"):
            os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)


def start(checkout: Path, folder: Path, name: str, arguments: list[str]) -> int:
    """`python -m clipgap ARGUMENTS` in a fork, which has other people's packages imported."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    os.setsid()
    signal.alarm(LIMIT)
    os.chdir(folder)
    for stream, suffix in ((1, "json"), (2, "log")):
        os.dup2(os.open(f"said/{name}.{suffix}", os.O_WRONLY | os.O_CREAT, 0o644), stream)
    os.environ |= {
        "PYTHONPATH": str(checkout),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CLIPGAP_THREADS": "2",
        "OMP_NUM_THREADS": "1",
    }
    sys.path.insert(0, str(checkout))
    sys.argv = ["clipgap", *arguments]
    code = 1
    try:
        runpy.run_module("clipgap", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


# --- comparison -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    file: str
    place: str
    what: str = ""

    def meant(self) -> tuple[str, str, str] | None:
        return next(
            (m for m in MEANT if fnmatchcase(self.file, m[0]) and fnmatchcase(self.place, m[1])),
            None,
        )


def compare_trees(before: Path, after: Path) -> Iterator[Difference]:
    sides = [
        {
            path.relative_to(root).as_posix(): path
            for path in root.rglob("*")
            if not fnmatchcase(path.relative_to(root).as_posix(), "said/*.log")
        }
        for root in (before, after)
    ]
    for name in sorted(sides[0].keys() | sides[1].keys()):
        old, new = (side.get(name) for side in sides)
        if old is None or new is None:
            yield Difference(name, "only after" if old is None else "only before")
        elif old.is_symlink() or new.is_symlink():
            if not (old.is_symlink() and new.is_symlink()) or old.readlink() != new.readlink():
                yield Difference(name, "link")
        elif old.is_dir() or new.is_dir():
            if not (old.is_dir() and new.is_dir()):
                yield Difference(name, "kind")
        else:
            found = list(compare_files(old, new))
            yield from (Difference(name, place, what) for place, what in found)


def compare_files(old: Path, new: Path) -> Iterator[tuple[str, str]]:
    """Each place that differs, and how."""
    first, second = old.read_bytes(), new.read_bytes()
    if first == second:
        return
    match old.suffix:
        case ".json" if first and second:
            yield from compare_values(json.loads(first), json.loads(second))
        case ".jsonl":
            lines = ([json.loads(line) for line in text.splitlines()] for text in (first, second))
            yield from compare_values(*lines)
        case ".csv":
            tables = (list(csv.DictReader(io.StringIO(text.decode()))) for text in (first, second))
            yield from compare_values(*tables)
        case ".parquet":
            yield from compare_tables(old, new)
        case ".pt":
            yield from compare_values(*(torch.load(path, weights_only=True) for path in (old, new)))
        case ".toml" if tomllib.loads(first.decode()) == tomllib.loads(second.decode()):
            yield "order", "the same options"
        case ".html" if tags(first) == tags(second):
            yield "line breaks", "the same tags"
        case ".log" | ".toml" | ".txt" | ".md" | ".html" | ".svg" | ".code":
            lines = (TIMES.sub("…", text.decode()).splitlines() for text in (first, second))
            yield from compare_lines(*lines)
        case _:
            yield compare_bytes(first, second)


def compare_values(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if VOLATILE.search(place):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            below = f"{place}.{key}".lstrip(".")
            if key not in old:
                yield below, "only after"
            elif key not in new:
                yield below, "only before"
            else:
                yield from compare_values(old[key], new[key], below)
    elif isinstance(old, list) and isinstance(new, list) and named(old) and named(new):
        yield from compare_values(named(old), named(new), place)
        both = named(old).keys() & named(new).keys()
        if [name for name in named(old) if name in both] != [x for x in named(new) if x in both]:
            yield f"{place}.order", "the same names"
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{place}.length", f"{len(old)} → {len(new)}"
        for i, (was, now) in enumerate(zip(old, new, strict=False)):
            yield from compare_values(was, now, f"{place}[{i}]")
    elif isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        if old.dtype != new.dtype or not torch.equal(old, new):
            yield place, "other numbers"
    elif repr(old) != repr(new):
        yield place, f"{repr(old)[:60]} → {repr(new)[:60]}"


def compare_tables(old: Path, new: Path) -> Iterator[tuple[str, str]]:
    first, second = pq.read_table(old), pq.read_table(new)
    found = False
    if first.num_rows != second.num_rows:
        found = True
        yield "rows", f"{first.num_rows} → {second.num_rows}"
    for name in dict.fromkeys([*first.column_names, *second.column_names]):
        sides = [name in table.column_names for table in (first, second)]
        if not all(sides):
            found = True
            yield name, "only before" if sides[0] else "only after"
        elif first[name].type != second[name].type:
            found = True
            yield name, f"{first[name].type} → {second[name].type}"
        elif not first[name].equals(second[name]):
            found = True
            pairs = zip(first[name].to_pylist(), second[name].to_pylist(), strict=False)
            rows = [row for row, (was, now) in enumerate(pairs) if was != now]
            yield name, f"{len(rows)} values, the first in row {rows[0] if rows else '?'}"
    if first.schema.metadata != second.schema.metadata:
        found = True
        yield "metadata", f"{first.schema.metadata} → {second.schema.metadata}"
    if not found:
        place, what = compare_bytes(old.read_bytes(), new.read_bytes())
        yield place, f"the same values, stored otherwise; {what}"


def named(values: list[Any]) -> dict[str, Any]:
    """By their names, if all of them have one; else nothing."""
    names = [value.get("name") if isinstance(value, dict) else None for value in values]
    unique = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    return dict(zip(names, values, strict=True)) if unique else {}


def tags(page: bytes) -> list[str]:
    """One tag a line, wherever the page has its line breaks."""
    return re.sub(r">\s*<", ">\n<", page.decode()).split("\n")


def compare_lines(first: list[str], second: list[str]) -> Iterator[tuple[str, str]]:
    """The place of a line is its text, after - or + for the side that it is on."""
    if first != second and sorted(first) == sorted(second):
        yield "order", "the same lines"
        return
    for line in difflib.unified_diff(first, second, n=0, lineterm=""):
        if not line.startswith(("---", "+++", "@@")):
            yield f"{line[0]} {line[1:]}"[:100], "only before" if line[0] == "-" else "only after"


def compare_bytes(old: bytes, new: bytes) -> tuple[str, str]:
    shared = zip(old, new, strict=False)
    at = next((i for i, (was, now) in enumerate(shared) if was != now), min(len(old), len(new)))
    return "bytes", f"{len(old):,} and {len(new):,} bytes, different from byte {at:,} on"


# --- all together ---------------------------------------------------------------------------


def checkout_of(named: str, scratch: Path) -> Path:
    """The folder named, or a work tree of the revision, with its compiled kernel."""
    if (Path(named) / "clipgap").is_dir():
        return Path(named).resolve()
    tree = scratch / "checkout"
    git = ["git", "-C", str(REPOSITORY)]
    subprocess.run([*git, "worktree", "add", "-q", "--detach", str(tree), named], check=True)
    same = subprocess.run([*git, "diff", "--quiet", named, "--", "csrc", "setup.py"])
    if same.returncode == 0:
        for library in (REPOSITORY / "clipgap" / "kernels").glob("_cpu*"):
            shutil.copy(library, tree / "clipgap" / "kernels")
    else:
        build = [sys.executable, "setup.py", "-q", "build_kernels", "--build-lib", "."]
        subprocess.run(build, cwd=tree, check=True)
    return tree


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", nargs="?", default="HEAD", help="a folder or a revision")
    parser.add_argument("after", nargs="?", default=str(REPOSITORY), help="a folder")
    parser.add_argument("--processes", type=int, default=2, help="commands at a time")
    parser.add_argument("--keep", action="store_true", help="leave the outputs where they are")
    given = parser.parse_args()
    began = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="compare-"))
    try:
        # In a fork, since torch starts threads, which the forks of the commands would miss.
        make = multiprocessing.get_context("fork").Process(
            target=make_inputs, args=[scratch / "in"]
        )
        make.start()
        make.join()
        outputs = []
        for side, named in (("before", given.before), ("after", given.after)):
            checkout = checkout_of(named, scratch)
            # Both run in a folder of the same name, since manifests hold the paths of inputs.
            work = scratch / "work"
            shutil.copytree(scratch / "in", work / "in")
            run_all(checkout, work, given.processes)
            outputs.append(work.rename(scratch / side))
        wrong = say(list(compare_trees(*outputs)))
        codes = [int(path.read_text()) for path in outputs[1].glob("said/*.code")]
        files = sum(path.is_file() for path in outputs[1].rglob("*"))
        print(f"{files:,} files compared in {time.monotonic() - began:.0f} s")
        return int(wrong or any(code not in DONE for code in codes))
    finally:
        if (scratch / "checkout").exists():
            remove = ["git", "-C", str(REPOSITORY), "worktree", "remove", "--force"]
            subprocess.run([*remove, str(scratch / "checkout")])
        if given.keep:
            print(f"outputs are in {scratch}")
        else:
            shutil.rmtree(scratch)


def say(found: list[Difference]) -> bool:
    """List the differences; whether there is one that nobody meant, or a meant one is missing."""
    wrong = False
    seen = set()
    for difference in found:
        meant = difference.meant()
        seen.add(meant)
        wrong |= meant is None
        mark = "        " if meant is None else "meant:  "
        why = "" if meant is None else f" ({meant[2]})"
        print(f"{mark}{difference.file}: {difference.place}: {difference.what}{why}")
    for entry in MEANT:
        if entry not in seen:
            wrong = True
            print(f"is meant to differ and does not: {entry[0]}: {entry[1]}")
    print("nothing differs" if not found else f"{len(found):,} differences")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
