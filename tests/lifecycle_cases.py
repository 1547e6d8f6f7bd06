"""The commands that fill a folder, and the data that they are run on. One more is one line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tests.clip_worlds import CLASSES, pictures, write_checkpoint, write_config, write_shards
from tests.lifecycle_server import Server
from tests.worlds import write_store

OUT = "out"

RECIPE = """\
[paths]
train = { about = "a store", default = "plain/store" }
reference = { about = "a store", default = "plain/reference" }
val = { about = "a store", default = "plain/val" }

[stages.gap]
command = "gap"
ref = "{reference}"
test = ["val={val}"]
threads = 1

[stages.scan]
command = "scan"
train = "{train}"
test = ["val={val}"]
gap = "{gap}"
threads = 1

[stages.pruned]
command = "split"
source = ["{scan}"]
prune = ["val"]
"""


@dataclass(frozen=True)
class Change:
    """What the output follows from becomes another: `new` in place of `old` in a file or a command.

    Without `old` it is the last byte of the file. A refusal to go on says something like `named`.
    """

    named: str
    file: str | None = None  # None: in the command
    old: str = ""
    new: str = ""

    def apply(self, folder: Path, time_kept: bool) -> None:
        """To the file, in a folder with all inputs."""
        if self.file is None:
            return
        path = folder / self.file
        content, times = path.read_bytes(), path.stat()
        old = self.old.encode() or content[-1:]
        before, found, after = content.rpartition(old)
        assert found == old
        path.unlink()  # it may be a hard link
        path.write_bytes(before + (self.new.encode() or bytes([old[0] ^ 1])) + after)
        assert path.stat().st_size == times.st_size
        if time_kept:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@dataclass(frozen=True)
class Case:
    """A command that fills OUT, and what is particular about it.

    `damage` are files of the output that get damaged; `code` is the exit code of a good run;
    `every_write` is whether it is killed at each, not at the last of each kind; `kills` is at how
    many kinds, spread evenly, where each takes long;
    `loose` are patterns of files that hold times or how often a run went on, so that two runs
    differ.
    """

    name: str
    command: str
    change: Change
    damage: Sequence[str]
    code: int = 0
    resume: tuple[str, ...] = ("--resume",)
    kills: int | None = None
    every_write: bool = False
    loose: Sequence[str] = ()
    environment: Sequence[tuple[str, str]] = ()
    processes: int = 0  # that do the units, where they can be dealt; 0: as the command thinks best
    flags: bool = True  # whether --resume and --overwrite are its
    has_children: bool = False  # processes of its own, which live on when it is killed

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.command)

    def changed(self) -> Case:
        """The command after the change."""
        if self.change.file is not None:
            return self
        assert self.change.old in self.command
        return replace(self, command=self.command.replace(self.change.old, self.change.new))


ONE_RANK = (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))
MODEL = "--model tiny-clip.json"
FIT = "domains fit plain/store --labels domains.csv --model m --precision 0.1 --threads 1"

CASES = [
    Case(
        "gap",
        "gap plain/reference --test val=plain/val -k 3 --threads 1 -o out",
        Change("reference|img_emb_0", "plain/reference/img_emb/img_emb_0.npy"),
        ["test/val.parquet", "hist.parquet", "manifest.json"],
    ),
    Case(
        "scan",
        "scan plain/store --test val=plain/val --test b=reference --heads heads --model m -k 3 "
        "--threads 1 --block-rows 3 -o out",
        Change("img_emb_1", "plain/store/img_emb/img_emb_1.npy"),
        ["train/part-00001.parquet", "test/val.parquet", "hist.parquet", "manifest.json"],
        every_write=True,
    ),
    Case(
        "split",
        "split scan --prune val --threads 1 -o out",
        Change("offset", old="--prune val", new="--prune val --offset 0.1"),
        ["keep/part-00001.parquet", "manifest.json"],
    ),
    Case(
        "combine",
        "split keep other-keep --union -o out",
        Change("rule|union", old="--union", new="--intersection"),
        ["keep/part-00002.parquet", "manifest.json"],
    ),
    Case(
        "emulate",
        "emulate scan -o out",
        Change("arithmetic", old="emulate scan", new="emulate scan --arithmetic float16"),
        ["keep/part-00001.parquet", "manifest.json"],
        kills=8,
    ),
    Case(
        "mix",
        "mix mix.toml --threads 1 -o out",
        Change("labels", "labels.csv", "photo", "drawn"),
        ["keep/part-00001.parquet", "manifest.json"],
        kills=8,
    ),
    Case(
        "dedup",
        "dedup plain/store --epsilon 0.001 --clusters 3 --iterations 2 --threads 1 -o out",
        Change("img_emb_1", "plain/store/img_emb/img_emb_1.npy"),
        ["keep/part-00001.parquet", "manifest.json"],
        every_write=True,
    ),
    Case(
        "fit",
        f"{FIT} -o out",
        Change("labels", "domains.csv", "rendition", "ambiguous"),
        ["heads.safetensors", "curve.parquet", "manifest.json"],
        kills=8,
    ),
    Case(
        "label",
        "domains label plain/store --heads heads --model m --threads 1 -o out",
        Change("img_emb_1", "plain/store/img_emb/img_emb_1.npy"),
        ["train/part-00001.parquet", "manifest.json"],
        kills=8,
    ),
    Case(
        "audit",
        "domains audit domains --images shards --sample 2 --by default --threads 1 -o out",
        Change("setting|seed", old="--sample 2", new="--sample 2 --seed 1"),
        ["sample.parquet", "index.html", "manifest.json"],
        kills=8,
    ),
    Case(
        "filter",
        "filter shards --keep keep --workers 1 -o out",
        Change("00001", "shards/00001.tar"),
        ["00001.tar", "00001_stats.json", "sizes.json", "manifest.json"],
        every_write=True,
    ),
    Case(
        "embed",
        f"embed shards {MODEL} --pretrained a.pt --workers 1 --device cpu -o out",
        Change("00001", "shards/00001.tar"),
        ["embeddings/00001.npy", "keys/00001.parquet", "store.json", "manifest.json"],
        kills=10,
        every_write=True,
    ),
    Case(
        "embed-folder",
        f"embed pictures {MODEL} --pretrained a.pt --workers 1 --device cpu -o out",
        Change("fingerprint", "pictures/2.jpg"),
        ["embeddings/00000.npy", "store.json"],
        kills=6,
    ),
    Case(
        "eval",
        f"eval a=a.pt b=b.pt {MODEL} --data val=val-shards --classnames names.txt "
        "--templates prompts.txt --subsets val=subsets.toml --pool both=a,b --device cpu "
        "--workers 1 --draws 50 -o out",
        Change("val", "val-shards/00000.tar", "a picture", "the image"),
        ["samples/a/val.parquet", "summary.parquet", "manifest.json"],
        kills=10,
    ),
    Case(
        "analyze",
        f"analyze a=a.pt {MODEL} --data val=val-shards --data web=shards --classnames names.txt "
        "--templates prompts.txt --device cpu --workers 1 --neurons 1 --steps 1 --circuits 1 "
        "--concepts 1 --draws 5 -o out",
        Change("val", "val-shards/00000.tar", "a picture", "the image"),
        ["edges/a/val.parquet", "tops.parquet", "manifest.json"],
        kills=4,
    ),
    Case(
        "train",
        f"train --train-data shards --logs . --name out {MODEL} --epochs 2 --batch-size 8 "
        "--workers 0 --device cpu --lr 0.001 --warmup 1",
        Change("lr", old="--lr 0.001", new="--lr 0.002"),
        ["checkpoints/epoch_2.pt", "losses.jsonl", "params.txt", "manifest.json"],
        resume=("--resume", "latest"),
        kills=6,
        loose=["*.log", "checkpoints/*", "losses.jsonl", "params.txt", "manifest.json"],
        environment=ONE_RANK,
    ),
    Case(
        "render",
        "render shapes --web 6 --reference 3 --points 2 --planted 1 -o out",
        Change("seed", old="--planted 1", new="--planted 1 --seed 1"),
        ["web/00000.tar", "classes.txt", "manifest.json"],
    ),
    Case(
        "report",
        "report --scan web=scan --reference ref=gap --split keep --images val=val-shards "
        "--images web=shards --paper paper.toml -o out",
        Change("paper", "paper.toml", "68.34", "68.35"),
        ["report.json", "index.html", "manifest.json"],
        kills=24,
    ),
    Case(
        "export",
        "export scan --to fiftyone --images val=val-shards --images train=shards -o out",
        Change("most", old="--to fiftyone", new="--to fiftyone --most 2"),
        ["images/00000000.jpg", "samples.json", "manifest.json"],
        kills=8,
    ),
    Case(
        "link",
        "data link waterbirds birds --where place=1 -o out",
        Change("images|links", "birds/metadata.csv", ",1,0,0,", ",1,0,1,"),
        ["1.kind/3.jpg"],
    ),
    Case(
        "caption",
        "data caption birds --per-shard 2 -o out",
        Change("images", "birds/0.kind/0.jpg"),
        ["captioned-00001.tar", "captioned-00000_stats.json", "sizes.json", "manifest.json"],
        kills=8,
    ),
    Case(
        "run",
        "run recipe.toml -o out",
        Change("val", "plain/val/img_emb/img_emb_0.npy"),
        ["pruned/keep/part-00000.parquet", "scan/hist.parquet", "gap/test/val.parquet"],
        resume=(),
        kills=5,
        loose=[".study/*"],
        flags=False,
        has_children=True,
    ),
]

DEALT = ("gap", "scan", "dedup", "label", "filter", "embed", "eval", "analyze")
"""Those whose units can be dealt to shares."""

MAKE = [
    f"embed shards {MODEL} --pretrained a.pt --captions -o store",
    f"embed val-shards {MODEL} --pretrained a.pt -o val",
    f"embed reference-shards {MODEL} --pretrained a.pt -o reference",
    "gap reference --test val=val -k 4 -o gap",
    "scan store --test val=val --gap gap -k 4 -o scan",
    "split scan --rand 11 -o keep",
    "split scan --rand 9 --seed 1 -o other-keep",
]


def make_inputs(server: Server) -> None:
    """Fill the server's folder with all that the commands read."""
    folder = server.folder
    folder.mkdir()
    write_shards(folder / "shards", [7, 4, 9])
    write_shards(folder / "val-shards", [5], seed=20)
    write_shards(folder / "reference-shards", [6], seed=30)
    for i, picture in enumerate(pictures(4, seed=40)):
        (folder / "pictures").mkdir(exist_ok=True)
        (folder / "pictures" / f"{i}.jpg").write_bytes(picture.jpeg)
    config = write_config(folder)
    write_checkpoint(config, folder / "a.pt", seed=1)
    write_checkpoint(config, folder / "b.pt", seed=2)
    (folder / "subsets.toml").write_text(f'[some]\nclasses = ["{CLASSES[0]}", "{CLASSES[1]}"]\n')
    (folder / "names.txt").write_text("\n".join(CLASSES) + "\n")
    (folder / "prompts.txt").write_text("a picture of a {}\n")
    (folder / "recipe.toml").write_text(RECIPE)
    row = '[[rows]]\nname = "web"\nsize = 20\naccuracy = { val = 68.34 }\n'
    (folder / "paper.toml").write_text(f'title = "A paper"\nsource = "none"\nx = "val"\n\n{row}')
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for number, (bird, place) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (0, 1)]):
        image = folder / "birds" / f"{bird}.kind" / f"{number}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"x")
        lines.append(f"{number},{bird}.kind/{number}.jpg,{bird},0,{place},/p.jpg")
    (folder / "birds" / "metadata.csv").write_text("\n".join(lines))
    labels = ["shard,row,domain"]
    for shard, rows in enumerate((7, 4, 9)):
        labels += [f"{shard},{row},{'photo' if row % 3 else 'drawn'}" for row in range(rows)]
    (folder / "labels.csv").write_text("\n".join(labels))
    domains = [line.replace("photo", "natural").replace("drawn", "rendition") for line in labels]
    domains[5::4] = [line.rpartition(",")[0] + ",ambiguous" for line in domains[5::4]]
    (folder / "domains.csv").write_text("\n".join(domains))
    (folder / "mix.toml").write_text(
        '[pool]\nstore = "plain/store"\nlabels = ["labels.csv"]\n'
        '[mixes.half]\nrule = "ratio"\nrows = 8\nparts = { photo = 1, drawn = 1 }\n'
    )
    for command in MAKE:
        server.prepare(shlex.split(command))
    for name in ("store", "val", "reference"):  # the same, but without sums of their own
        shards = [np.load(path) for path in sorted((folder / name / "embeddings").iterdir())]
        write_store(folder / "plain" / name, shards, lambda shard, row: f"{shard}-{row}")
    label = "domains label plain/store --heads heads --model m --threads 1"
    for command in (f"{FIT} -o heads", f"{label} -o domains"):
        ended = server.run(shlex.split(command))
        assert ended.code == 0, ended.said
