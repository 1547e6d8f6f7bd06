"""S3: stores and shards are read there, and folders are put up there as they are filled."""

from __future__ import annotations

import base64
import hashlib
import json
import multiprocessing
import os
import pickle
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.clip.train.options import Place, TrainOptions
from clipgap.clip.train.plan import Ranks, plan_train, planned_again
from clipgap.errors import InputError, Interrupted, ShareDone, UsageError
from clipgap.files import bucket, remote
from clipgap.files.folders import open_file, read_at
from clipgap.files.remote import RemotePath, path_of
from clipgap.files.volumes import file_at, read_bytes
from clipgap.keep.lists import open_keep
from clipgap.runs import claim
from clipgap.runs.claim import Claim
from clipgap.runs.how import Progress
from clipgap.runs.lock import PROGRESS
from clipgap.runs.run import BOARD
from clipgap.runs.shares import Share
from clipgap.runs.status import status_of
from clipgap.runs.upload import _Object
from clipgap.shards.api import filter_shards
from clipgap.study.ledger import fingerprint
from tests.clip_worlds import write_checkpoint, write_config, write_shards
from tests.s3 import (
    KEY,
    S3,
    SECRET,
    cut_short,
    forbidden,
    now_and_then,
    s3,
    s3_server,
    slow_down,
    tells,
)
from tests.shards import write_keep, write_shard
from tests.worlds import World, make_world, tree

__all__ = ["s3", "s3_server"]

SCAN = "s3://bucket/scan"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), shards=(40, 0, 23))


@pytest.fixture(scope="module")
def local(world: World) -> dict[str, str]:
    """A scan of that world, by the digests of its tables."""
    return _tables(clipgap.scan(world.train, world.test_paths, out=world.folder / "scan", k=3).path)


def _tables(scan: Path | None) -> dict[str, str]:
    assert scan is not None
    return {name: digest for name, digest in tree(scan).items() if name != "manifest.json"}


def _stores(s3: S3, world: World) -> tuple[str, dict[str, str]]:
    train = s3.put(world.train, "train")
    return train, {name: s3.put(path, path.name) for name, path in world.test_paths.items()}


def test_stores(s3: S3, world: World, local: dict[str, str], tmp_path: Path) -> None:
    train, tests = _stores(s3, world)
    far = clipgap.scan(train, tests, out=tmp_path / "scan", k=3)
    assert _tables(far.path) == local
    near = clipgap.open_scan(world.folder / "scan").manifest["inputs"]["train"]
    assert far.manifest["inputs"]["train"] == {**near, "path": train}


@pytest.mark.parametrize("fault", [slow_down, cut_short])
def test_what_passes_is_tried_again(
    s3: S3, world: World, local: dict[str, str], tmp_path: Path, fault: object
) -> None:
    train, tests = _stores(s3, world)
    s3.faults.append(now_and_then(fault, "GET", every=6))  # type: ignore[arg-type]
    assert _tables(clipgap.scan(train, tests, out=tmp_path / "scan", k=3).path) == local


@pytest.mark.parametrize("fault", [slow_down, cut_short])
def test_what_does_not_pass_is_said(s3: S3, world: World, fault: object) -> None:
    file = file_at(s3.put(world.paths["a"], "a.npy"))
    s3.faults.append(now_and_then(fault, "GET", every=1))  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"^s3://bucket/a.npy: cannot be read: [^\n]*AWS_MAX_ATTEMPTS\)$"
    ):
        read_bytes(file, 0, 64)
    assert len(s3.requests) < 30


def test_shards(s3: S3, tmp_path: Path) -> None:
    keys = {"0": ["a", "b", "c"], "1": ["d"]}
    (tmp_path / "in").mkdir()
    for name, members in keys.items():
        write_shard(tmp_path / "in" / f"{name}.tar", members)
    keep = write_keep(tmp_path / "keep", keys, {("0", 0), ("0", 2), ("1", 0)})
    filter_shards(tmp_path / "in", keep, tmp_path / "near")
    filter_shards(s3.put(tmp_path / "in", "in"), keep, tmp_path / "far")
    assert tree(tmp_path / "far") == tree(tmp_path / "near")


# --- folders that were put up, as inputs of what comes next

MODEL = "--model tiny-clip.json --pretrained a.pt --workers 1 --device cpu"
STUDY = f"""
embed @shards {MODEL} --captions -o store
embed @val-shards {MODEL} -o val
embed @reference-shards {MODEL} -o reference
gap @reference --test val=@val --threads 1 -o gap
scan @store --test val=@val --gap @gap -k 4 --threads 1 -o scan
split @scan --prune val --threads 1 -o pruned
split @scan --rand 9 --threads 1 -o drawn
split @pruned @drawn --union -o both
filter @shards --keep @pruned --workers 1 -o kept
verify @store
verify @gap
verify @scan
verify @pruned
verify @both
verify @kept
report --scan web=@scan --reference ref=@gap --split @pruned --images web=@shards -o page
domains fit @store --labels @domains.csv --precision 0.1 --threads 1 -o heads
domains label @store --heads @heads --threads 1 -o domains
scan @store --test val=@val --heads @heads --threads 1 -o labelled
mix @mix.toml --threads 1 -o mixed
domains composition @domains --keep @mixed
domains audit @domains --images @shards --sample 1 --by default -o audit
split @scan --where domain=natural --labels @domains.csv --threads 1 -o natural
dedup @store --epsilon 0.001 --labels @clusters.npy --threads 1 -o deduped
verify @heads
verify @domains
verify @labelled
verify @mixed
verify @audit
verify @natural
verify @deduped
"""
"""What @ stands before lies in the bucket, or on a disk."""
MIX = """
[pool]
store = "store"
labels = ["domains.csv"]
[mixes.half]
rule = "ratio"
rows = 8
parts = { natural = 1, rendition = 1 }
"""
LABELS = ("natural", "ambiguous", "rendition")


def test_a_study_whose_every_folder_is_there(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a command has put up is all that the next one has: byte for byte the study of a disk."""
    near, far = tmp_path / "near", tmp_path / "far"
    write_shards(near / "shards", [7, 4, 9])
    write_shards(near / "val-shards", [5], seed=20)
    write_shards(near / "reference-shards", [6], seed=30)
    rows = [
        f"{n:05}{row:04},{LABELS[row % 3]}" for n, m in enumerate((7, 4, 9)) for row in range(m)
    ]
    (near / "domains.csv").write_text("\n".join(["key,domain", *rows]))
    (near / "mix.toml").write_text(MIX)
    np.save(near / "clusters.npy", np.arange(20) % 3)
    far.mkdir()
    for folder in (near, far):
        write_checkpoint(write_config(folder), folder / "a.pt", seed=1)
    for name in [path.name for path in near.iterdir()]:
        s3.put(near / name, name)
    for line in STUDY.strip().splitlines():
        *_, before, out = line.split()
        monkeypatch.chdir(near)
        assert main([*line.replace("@", "").split(), "-q"]) == 0
        near_said = capsys.readouterr().out
        monkeypatch.chdir(far)
        upload = ["--upload", f"s3://bucket/{out}"] if before == "-o" else []
        assert main([*line.replace("@", "s3://bucket/").split(), *upload, "-q"]) == 0, line
        if not upload:
            assert capsys.readouterr().out.replace("s3://bucket/", "") == near_said
            continue
        capsys.readouterr()
        assert _same(s3, out, far / out)
        shutil.rmtree(out)
        put, known = s3.tree(out), _contents(near / out)
        if out == "page":  # says everywhere where its inputs lie, and has no calls of theirs
            assert put.keys() == {name for name in known if not name.startswith("calls/")}
        else:
            assert _known(put) == _known(known), line
    assert {"a.pt", "tiny-clip.json"} == {it.name for it in far.iterdir() if it.suffix != ".toml"}
    for name in ("pruned", "both"):
        certificate = f"{name}.certificate.json"
        put = {certificate: s3.files.cat(f"bucket/{certificate}")}
        assert _known(put) == _known({certificate: (near / certificate).read_bytes()})


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _known(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files, but for where their inputs lay and for the sums of documents that say so."""
    sums = rb'"((?:manifest_)?sha256)": ?"[0-9a-f]{64}"'
    return {
        name: re.sub(sums, rb"\1", content.replace(b"s3://bucket/", b""))
        if name.endswith(".json")
        else content
        for name, content in files.items()
    }


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a keep-list and its shards, of which the second has all that is kept."""
    folder = tmp_path_factory.mktemp("kept")
    keys = {"0": ["a", "b", "c"], "1": ["d"]}
    (folder / "in").mkdir()
    for name, members in keys.items():
        write_shard(folder / "in" / f"{name}.tar", members)
    write_keep(folder / "keep", keys, {("0", 0), ("1", 0)})
    return folder


def test_an_input_whose_server_fails_now_and_then(s3: S3, keep: Path, tmp_path: Path) -> None:
    filter_shards(keep / "in", keep / "keep", tmp_path / "near")
    address = s3.put(keep / "keep", "keep")
    for fault in (slow_down, cut_short):
        fails = now_and_then(fault, "GET", every=2)
        s3.faults[:] = [lambda it, fails=fails: fails(it) if "part-" in it["PATH_INFO"] else None]
        filter_shards(keep / "in", address, tmp_path / fault.__name__)
        assert _tables(tmp_path / fault.__name__) == _tables(tmp_path / "near")


@pytest.mark.parametrize(
    ("name", "fault", "said"),
    [
        ("manifest.json", forbidden, "cannot be read: PermissionError: .*AWS_PROFILE"),
        ("keep/part-00000.parquet", forbidden, "cannot be read: PermissionError: .*AWS_PROFILE"),
        ("keep/part-00000.parquet", "gone", "is missing"),
        ("keep/part-00000.parquet", "shorter", "is damaged"),
        ("keep/part-00000.parquet", "changed", "is damaged: its SHA-256 is not the one in"),
        ("manifest.json", "gone", "is not a finished keep-list: it has no manifest.json"),
    ],
)
def test_an_input_that_cannot_be_had(
    s3: S3, keep: Path, tmp_path: Path, name: str, fault: Any, said: str
) -> None:
    address, key = s3.put(keep / "keep", "keep"), f"bucket/keep/{name}"
    content = s3.files.cat(key)
    if callable(fault):
        asked = f"GET /{key}"
        s3.faults.append(lambda it: fault(it) if s3.requests[-1] == asked else None)
    elif fault == "gone":
        s3.files.rm(key)
    elif fault == "shorter":
        s3.files.pipe(key, content[:-1])
    else:
        s3.files.pipe(key, content[:9] + bytes([content[9] ^ 1]) + content[10:])
    s3.requests.clear()
    with pytest.raises(InputError, match=said) as error:
        open_keep(address).table(0)
    assert "s3://bucket/keep" in str(error.value)
    assert len(s3.requests) < 30


def test_an_input_is_read_after_a_fork(s3: S3, keep: Path) -> None:
    """As by those who load samples for a training."""
    address, shard = s3.put(keep / "keep", "keep"), file_at(s3.put(keep / "in" / "0.tar", "0.tar"))
    content, kept = read_bytes(shard, 0, shard.size), open_keep(address).table(0)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def read() -> None:
        theirs.send((read_bytes(shard, 0, shard.size), open_keep(address).table(0)))

    child = context.Process(target=read)
    child.start()
    theirs.close()
    assert ours.poll(30) and ours.recv() == (content, kept)
    child.join()


def test_an_input_is_read_ahead(
    s3: S3, keep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces that are many times as large as what is asked for, and as is right everywhere."""
    monkeypatch.setattr(remote, "_AHEAD", 256)
    (tmp_path / "file").write_bytes(content := os.urandom(1000))
    path = path_of(s3.put(tmp_path / "file", "file"))
    random = np.random.default_rng(5)
    with open_file(path) as file:
        for start, size in random.integers(0, 1100, (40, 2)).tolist():
            assert read_at(file, size, min(start, 1000)) == content[min(start, 1000) :][:size]
        file.seek(10)
        assert file.read(20) + file.readall() == content[10:]
    s3.requests.clear()
    with path.open("rb") as file:
        assert [file.read(8) for _ in range(125)] == [content[n : n + 8] for n in range(0, 1000, 8)]
    assert len(s3.requests) <= 7
    monkeypatch.setattr(remote, "_AHEAD", 16)
    there, here = open_keep(s3.put(keep / "keep", "keep")), open_keep(keep / "keep")
    assert there.table(0) == here.table(0)


def test_a_study_sees_an_input_that_was_made_anew(s3: S3, keep: Path) -> None:
    address = s3.put(keep / "keep", "keep")
    before = fingerprint(address)
    s3.put(keep / "in" / "0.tar", "keep/0.tar")
    assert fingerprint(address) == before
    s3.files.pipe("bucket/keep/manifest.json", b"{}")
    assert fingerprint(address) != before


def test_a_training_is_planned_again_as_it_was(s3: S3, keep: Path, tmp_path: Path) -> None:
    address = path_of(s3.put(keep / "keep", "keep"))
    place = Place(str(keep / "in"), tmp_path, "run", address)
    options = TrainOptions(model="ViT-B-32", batch_size=1, workers=0, device="cpu")
    plan = plan_train(place, options, Ranks(launched=True, world=1))
    assert plan.keep == "s3://bucket/keep"
    assert planned_again(plan, place.folder) == plan


def test_an_input_is_not_the_place_of_an_output(
    s3: S3, world: World, local: dict[str, str], tmp_path: Path
) -> None:
    scan = clipgap.open_scan(world.folder / "scan")
    address = s3.put(world.folder / "scan", "in/scan")
    for place in (address, "s3://bucket/in"):
        with pytest.raises(UsageError, match=f"^{address} (is both|lies in)"):
            clipgap.split(address, rand=3, out=tmp_path / "out", upload=place, overwrite=True)
    assert clipgap.open_scan(address).manifest == scan.manifest
    assert clipgap.open_scan(address).train().to_table() == scan.train().to_table()


def test_what_needs_a_file_of_this_machine_says_so(s3: S3) -> None:
    path = path_of("s3://bucket/x")
    for use in (os.fspath, os.stat, path.unlink, path.mkdir, lambda it=path: it.open("w")):
        with pytest.raises(UsageError, match=r"^s3://bucket/x can only .*`aws s3 sync s3://buck"):
            use(path) if use in (os.fspath, os.stat) else use()
    assert pickle.loads(pickle.dumps(path)) == path == path_of(Path("s3://bucket/x"))
    assert str(path / "y") == "s3://bucket/x/y" and isinstance(path.parent, RemotePath)


@pytest.mark.parametrize(
    "call",
    [
        "embed in --model s3://bucket/x -o out",
        "embed in --model s3://bucket/x.json -o out",
        "data caption s3://bucket/x -o out",
        "data link waterbirds s3://bucket/x --where place=1 -o out",
        "data check waterbirds s3://bucket/x",
        "run s3://bucket/x.toml -o out",
        "scan world.npy --test a=world.npy --cache s3://bucket/x -o out",
        "train --train-data in --model ViT-B-32 --pretrained s3://bucket/x --logs . --name out",
    ],
    ids=lambda call: " ".join(call.split()[:2]),
)
def test_what_is_opened_by_its_name_is_brought_here_first(
    s3: S3, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """In a sentence, and never as a folder of that name."""
    monkeypatch.chdir(tmp_path)
    np.save("world.npy", np.eye(3, dtype=np.float32))
    (tmp_path / "in").mkdir()
    write_shard(tmp_path / "in" / "0.tar", ["a"])
    assert main(call.split()) == 2
    said = capsys.readouterr().err
    assert "s3://bucket/x" in said and "can only be used here from a disk of this machine" in said
    assert not (tmp_path / "s3:").exists()


@pytest.mark.parametrize(
    "call",
    [
        "scan world --test a=world --gap gs://bucket/gap -o out",
        "split https://me:hush@host/scan --prune a -o out",
        "report --scan train=hf://bucket/gap -o out",
    ],
    ids=lambda call: " ".join(call.split()[:2]),
)
def test_other_stores_are_refused(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said while the call is parsed, before a store is opened or a job submitted."""
    monkeypatch.chdir(tmp_path)
    assert main(call.split()) == 2
    said = capsys.readouterr().err
    assert "is read from a disk of this machine or from s3://BUCKET/NAME" in said
    assert "hush" not in said and not list(tmp_path.iterdir())


# --- folders that are put up


def _scan(world: World, out: Path, s3: S3 | None = None, **how: object) -> Path:
    upload = {} if s3 is None else {"upload": SCAN}
    options = {"k": 3, "threads": 1, **upload, **how}
    scan = clipgap.scan(world.train, world.test_paths, out=out, **options)
    assert scan.path is not None
    return scan.path


def _same(s3: S3, name: str, folder: Path) -> bool:
    """Whether a bucket holds what a folder holds, and no more."""
    found = {path: hashlib.sha256(content).hexdigest() for path, content in s3.tree(name).items()}
    return found == tree(folder)


def test_a_folder_is_put_up_and_its_manifest_last(
    s3: S3, world: World, local: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tests = [f"--test={name}={path}" for name, path in world.test_paths.items()]
    call = ["scan", str(world.train), *tests, "-k", "3", "-o", str(tmp_path / "scan"), "-vv"]
    assert main([*call, "--upload", "s3://bucket/scan/"]) == 0
    assert _tables(tmp_path / "scan") == local
    assert _same(s3, "scan", tmp_path / "scan")
    put = [name for name in s3.requests if name.startswith("PUT") and "/.progress/" not in name]
    assert put[-1] == "PUT /bucket/scan/manifest.json"
    assert len(put) == len(set(put)), "no file is put up twice"
    said = "".join(capfd.readouterr())
    assert "s3://bucket/scan holds the scan: 6 files, checked" in said
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET not in said and SECRET.encode() not in kept and KEY not in said


def test_every_folder_goes_there(s3: S3, world: World, tmp_path: Path) -> None:
    scan = _scan(world, tmp_path / "scan")
    split = clipgap.split(scan, far=9, by=["a"], out=tmp_path / "far", upload="s3://bucket/far")
    assert split.keep is not None and _same(s3, "far", tmp_path / "far")
    (tmp_path / "in").mkdir()
    keys = {"0": ["a", "b", "c"]}
    write_shard(tmp_path / "in" / "0.tar", keys["0"])
    keep = write_keep(tmp_path / "keep", keys, {("0", 1)})
    filter_shards(tmp_path / "in", keep, tmp_path / "shards", upload="s3://bucket/shards")
    assert _same(s3, "shards", tmp_path / "shards")
    out, place = str(tmp_path / "dedup-{epsilon}"), "s3://bucket/dedup-{epsilon}"
    clipgap.dedup(world.train, epsilon=[0.1, 0.2], clusters=2, out=out, upload=place)
    for epsilon in (0.1, 0.2):
        assert _same(s3, f"dedup-{epsilon}", tmp_path / f"dedup-{epsilon}")


def test_a_run_goes_on_on_another_machine(
    s3: S3, world: World, local: dict[str, str], tmp_path: Path
) -> None:
    stop, seen = threading.Event(), []
    with pytest.raises(Interrupted):
        _scan(world, tmp_path / "one", s3, stop=stop, on_progress=_stops_after(1, stop))
    assert "manifest.json" not in s3.tree("scan")
    _scan(world, tmp_path / "two", s3, resume=True, on_progress=seen.append)
    assert _tables(tmp_path / "two") == local and _same(s3, "scan", tmp_path / "two")
    assert max(it.earlier for it in seen) == 40, "the shard that was done is not done again"
    # Where all is done it is brought and looked at, and what a disk has lost there is put up again.
    s3.files.rm("bucket/scan/test/a.parquet")
    done = clipgap.scan(
        world.train, world.test_paths, out=tmp_path / "two", k=3, resume=True, upload=SCAN
    )
    assert done.already_complete and _same(s3, "scan", tmp_path / "two")
    _scan(world, tmp_path / "three", s3, resume=True)
    assert tree(tmp_path / "three") == tree(tmp_path / "two")


def _stops_after(parts: int, stop: threading.Event) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.stage == "scanning" and progress.part >= parts:
            stop.set()

    return watch


def test_a_bucket_that_fails(s3: S3, world: World, local: dict[str, str], tmp_path: Path) -> None:
    """What passes is tried again; what lasts is said in a sentence, and nothing is lost here."""
    lasting = now_and_then(slow_down, "PUT", every=1)
    s3.faults.append(lambda environ: lasting(environ) if "part-" in environ["PATH_INFO"] else None)
    with pytest.raises(InputError, match=r"^s3://bucket/scan/train/part-[^\n]*educe your[^\n]*$"):
        _scan(world, tmp_path / "scan", s3)
    assert not {"manifest.json", "train/part-00000.parquet"} & s3.tree("scan").keys()
    s3.faults[:] = [now_and_then(slow_down, "PUT", every=7)]
    _scan(world, tmp_path / "scan", s3, resume=True)
    assert _tables(tmp_path / "scan") == local and _same(s3, "scan", tmp_path / "scan")


def test_shares(
    s3: S3,
    world: World,
    local: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "scan"
    for index in (1, 0):
        with pytest.raises(ShareDone):
            _scan(world, out, s3, share=Share([index], 2))
    place = "scan.parts/0-of-2"
    units = Path(f"{out}.parts/0-of-2/.progress/units.jsonl").read_bytes()
    assert s3.tree(place)[".progress/units.jsonl"] == units
    shutil.rmtree(f"{out}.parts")
    assert main(["status", SCAN]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{SCAN}: 2 shares, 2 done",
        f"All shares are done: clipgap merge {SCAN}.parts -o scan --upload {SCAN}",
    ]
    _scan(world, out, s3, parts=[f"{SCAN}.parts"])
    assert _tables(out) == local and _same(s3, "scan", out)
    assert main(["status", SCAN]) == 0
    name = "bucket/scan.parts/0-of-2/train/part-00000.parquet"
    s3.files.pipe(name, s3.files.cat(name)[:-1])
    with pytest.raises(InputError, match=r"part-00000\.parquet of s3://bucket/scan\.parts/0-of"):
        _scan(world, tmp_path / "damaged", parts=[f"{SCAN}.parts"])


def test_how_far_a_run_is_by_the_clock_of_the_server(s3: S3, tmp_path: Path) -> None:
    words = dict.fromkeys(("said", "noun", "counted", "host"), "")
    counts = dict.fromkeys(("units", "done", "size", "size_done", "size_new", "new", "seconds"), 0)
    (tmp_path / "board").write_text(json.dumps({"state": "running", **words, **counts}))
    s3.put(tmp_path / "board", f"scan/{PROGRESS}/{BOARD}")
    (run,) = status_of(path_of(SCAN)).runs
    assert run.silent_seconds is not None and run.silent_seconds < 60
    s3.faults.append(tells(("Date", "Sat, 28 Nov 2026 15:38:20 GMT")))
    assert bucket.Bucket(SCAN).age(f"{PROGRESS}/{BOARD}") == 600


def test_what_is_in_the_way(s3: S3, world: World, tmp_path: Path) -> None:
    s3.put(world.paths["a"], "scan/a.npy")
    with pytest.raises(InputError, match="s3://bucket/scan is not empty and not a clipgap scan"):
        _scan(world, tmp_path / "scan", s3, overwrite=True)
    s3.files.rm("bucket/scan", recursive=True)
    _scan(world, tmp_path / "scan", s3)
    with pytest.raises(InputError, match=r"s3://bucket/scan already holds .* --upload"):
        _scan(world, tmp_path / "new", s3)
    _scan(world, tmp_path / "other", k=2)
    with pytest.raises(InputError, match="two different runs"):
        _scan(world, tmp_path / "other", s3, k=2, resume=True)
    _scan(world, tmp_path / "other", s3, k=2, overwrite=True)
    assert _same(s3, "scan", tmp_path / "other")
    for place in ("bucket/x", "s3://bucket", "s3://me:pass@bucket/x", "gs://bucket/x"):
        with pytest.raises(UsageError, match="s3://BUCKET/NAME"):
            _scan(world, tmp_path / "no", upload=place)


def test_a_file_cut_short_or_changed_on_its_way(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "_PART", 5 << 20)
    place, path = bucket.Bucket("s3://bucket/x"), tmp_path / "large"
    path.write_bytes(os.urandom(11 << 20))
    s3.faults.append(lambda it: slow_down(it) if "partNumber=2" in it["QUERY_STRING"] else None)
    with pytest.raises(InputError, match="s3://bucket/x/large: cannot be used"):
        place.put("large", path)
    assert place.names() == [] and _uploads(s3) == 0
    s3.files.call_s3("create_multipart_upload", Bucket="bucket", Key="x/killed")
    assert _uploads(s3) == 1
    place.remove_cut_short()
    assert _uploads(s3) == 0
    s3.faults.clear()
    place.put("large", path)
    assert s3.tree("x") == {"large": path.read_bytes()}
    small = ("Content-Length", str(path.write_bytes(b"a")))
    other = hashlib.sha256(b"b").digest()
    for headers, said in (
        ([small, ("x-amz-checksum-sha256", base64.b64encode(other).decode())], "arrived otherwise"),
        ([small], "does not tell checksums"),
    ):
        s3.faults[:] = [tells(*headers)]
        with pytest.raises(InputError, match=f"s3://bucket/x/small: .*{said}"):
            place.put("small", path)
    assert "small" not in s3.tree("x")


def _uploads(s3: S3) -> int:
    return len(s3.files.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads", ()))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_SPEAKS_SECONDS", 0.2)
    monkeypatch.setattr(claim, "_GONE_SECONDS", 2.0)


def test_one_run_at_a_time(s3: S3, tmp_path: Path, fast: None) -> None:
    place = bucket.Bucket("s3://bucket/x")
    first, second = (Claim(_Object(place), tmp_path / name) for name in ("a", "b"))
    first.take()
    with pytest.raises(
        InputError, match=r"another run is at work in s3://bucket/x: process \d+ on"
    ):
        second.take()
    first._over.set()  # as if it were killed, or its machine asleep
    first._speaker.join()
    third = Claim(_Object(place), tmp_path / "b")
    third.take()
    first._over.clear()
    first._speak()
    with pytest.raises(InputError, match="another run has taken this place over"):
        first.check()
    first.end()
    third.check()
    # In the same folder it cannot be but an earlier run.
    fourth = Claim(_Object(place), tmp_path / "b")
    third._over.set()
    fourth.take()
    fourth.end()
    assert place.names() == []
