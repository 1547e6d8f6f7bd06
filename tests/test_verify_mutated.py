"""Every kind of folder, with every file damaged and every value of its manifest changed: `verify`
finds it, or it is on the list of what nothing else can tell."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.clip.data.parts import link_part
from clipgap.clip.data.registry import registry
from clipgap.errors import InputError, UsageError
from clipgap.files.documents import MANIFEST
from clipgap.files.sums import ArchiveSum, FileSum
from clipgap.select.rules import Far, Prune, Rand
from clipgap.shards.api import filter_shards
from clipgap.store.writer import StoreWriter
from clipgap.synthetic.render import render
from clipgap.verify.api import KINDS
from tests import clip_worlds, eval_worlds, train_worlds
from tests.worlds import edited_manifest, make_world, unit_rows

Make = Callable[[Path], Path]


def make_scan(root: Path) -> Path:
    world = make_world(root / "world", shards=(20, 0, 13))
    tests = {"a": world.paths["a"]}
    clipgap.gap(world.paths["reference"], tests, k=2, out=root / "gap")
    clipgap.scan(world.train, tests, gap=root / "gap", k=3, out=root / "scan")
    return root / "scan"


def make_gap(root: Path) -> Path:
    return make_scan(root).with_name("gap")


def make_split(root: Path) -> Path:
    clipgap.split(make_scan(root), Prune(("a",)), out=root / "keep")
    return root / "keep"


def make_far(root: Path) -> Path:
    clipgap.split(make_scan(root), Far(9, ("a",)), out=root / "keep")
    return root / "keep"


def make_union(root: Path) -> Path:
    scan = make_scan(root)
    for seed in (1, 2):
        clipgap.split(scan, Rand(9, seed), out=root / f"rand{seed}")
    clipgap.combine("union", [root / "rand1", root / "rand2"], out=root / "keep")
    return root / "keep"


def make_rand(root: Path) -> Path:
    make_union(root)
    return root / "rand1"


def make_dedup(root: Path) -> Path:
    world = make_world(root / "world", shards=(20, 0, 13))
    clipgap.dedup(world.train, 0.05, clusters=3, audit=8, out=root / "keep")
    return root / "keep"


def make_shards(root: Path) -> Path:
    made, names = clip_worlds.write_shards(root / "tars", [4, 3]), ("00000", "00001")
    with StoreWriter(root / "store", 8) as writer:
        for seed, inside in enumerate(made):
            writer.add(unit_rows(len(inside), 8, seed), [picture.key for picture in inside])
    assert [path.stem for path in sorted((root / "tars").glob("*.tar"))] == [*names]
    np.save(root / "test.npy", unit_rows(3, 8, 9))
    clipgap.scan(root / "store", {"t": root / "test.npy"}, k=1, out=root / "scan")
    clipgap.split(root / "scan", Rand(4), out=root / "keep")
    filter_shards(root / "tars", root / "keep", root / "out")
    return root / "out"


def make_store(root: Path) -> Path:
    with StoreWriter(root / "store", 8) as writer:
        writer.add(unit_rows(5, 8, 0), [f"k{row}" for row in range(5)])
    return root / "store"


def make_embeddings(root: Path) -> Path:
    clip_worlds.write_shards(root / "tars", [3, 2])
    config = clip_worlds.write_config(root)
    checkpoint = clip_worlds.write_checkpoint(config, root / "a.pt", seed=1)
    clipgap.embed(
        str(root / "tars"), str(config), str(checkpoint), out=root / "out", device="cpu",
        captions=True,
    )  # fmt: skip
    return root / "out"


def make_evaluation(root: Path) -> Path:
    clipgap.evaluate(**eval_worlds.make_world(root).arguments(draws=50), out=root / "out")
    return root / "out"


def make_training(root: Path) -> Path:
    world, _ = train_worlds.make_train_world(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipgap.clip.train.driver.launch", train_worlds.launch_here)
        place = world.place("run")
        from clipgap.clip.train.api import run_train
        from clipgap.clip.train.plan import plan_train
        from clipgap.runs.how import How

        run_train(plan_train(place, train_worlds.options(world)), place.folder, How())
    return place.folder


def make_report(root: Path) -> Path:
    clipgap.report({"web": make_split(root).with_name("scan")}, out=root / "out", gallery=3)
    return root / "out"


def make_export(root: Path) -> Path:
    clipgap.export(make_scan(root), to="atlas", out=root / "out", most=3)
    return root / "out"


def make_rendered(root: Path) -> Path:
    render("digits", root / "out", web=6, reference=4, points=3, planted=1, classes=2)
    return root / "out"


def make_links(root: Path) -> Path:
    for key in registry()["objectnet"].keys:
        (root / "images" / key).mkdir(parents=True)
    link_part("objectnet", root / "images", root / "out")
    return root / "out"


def make_captioned(root: Path) -> Path:
    for number in range(5):
        image = root / "images" / f"a_class_{number % 2}" / f"{number}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(bytes(number))
    said = ["a {class}", "the {class}"]
    clipgap.caption_folder(root / "images", root / "out", caption=said, per_shard=3)
    return root / "out"


def make_chosen_links(root: Path) -> Path:
    (root / "celeba/img_align_celeba").mkdir(parents=True)
    for number in (1, 2, 3):
        (root / f"celeba/img_align_celeba/{number:06d}.jpg").write_bytes(b"x")
    rows = "000001.jpg -1 1\n000002.jpg 1 -1\n000003.jpg -1 1\n"
    (root / "celeba/list_attr_celeba.txt").write_text(f"3\nEyeglasses Male\n{rows}")
    link_part("celeba", root / "celeba", root / "out", ["Eyeglasses=-1,Male=1", "Male=-1"])
    return root / "out"


MAKERS: dict[str, Make] = {
    name.removeprefix("make_"): make for name, make in globals().items() if name.startswith("make_")
}
del MAKERS["world"]

# What a command notes, and nothing that is left can tell any more: keys of a manifest, joined by
# dots, and why.
BELIEVED = {
    "": [r"versions\..*",  # what software there was
         r".*\.path", r".*\.format",  # where inputs lay, and what their files were like
         r"format", r"version"],  # see test_an_unknown_kind_or_version_fails
    "scan": [r"counts\.normalised"],  # of rows as they were read: --full reads them again
    "gap": [r"counts\.normalised"],
    "dedup": [r"rule\.clustering\.iterations",  # it converged before
              r"audit\..*", r"rule\.audit"],  # of clusters that are gone
    "shards": [r"inputs\.shards\.\d+\.(bytes|fingerprint)",  # it does not say where they lay
               r"counts\.samples",  # those that were not kept are not here
               r"settings\.missing"],  # where none are
    "embeddings": [r"inputs\.shards\.\d+\.(bytes|fingerprint)",  # it does not say where they lay
                   r"settings\.(batch_size|device|precision)"],  # rows follow from none of them
    "evaluation": [r"checkpoints\.\d+\.(model|pretrained|sha256|config_sha256)",  # names of files
                   r"sets\.\d+\.(classes|keys|templates)\.\d+", r"sets\.\d+\.border",  # words
                   r"sets\.\d+\.identity",  # of images, which are to be had or not
                   r"settings\.precision"],
    "training": [r"plan\.options\.allow_missing",  # where none is missing
                 r"machine\..*"],
    "report": [r"inputs\.paper", r"gallery\.pictures\.(wanted|problems.*)"],
}  # fmt: skip
OPEN = {"training": ["out.log", "checkpoints/epoch_1.pt"]}
"""Files that a manifest does not have the sums of: what open_clip says as it goes, and checkpoints
on the way, which people delete. Whoever evaluates one of these notes its SHA-256."""


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of a kind, made once."""
    return cache(lambda name: MAKERS[name](tmp_path_factory.mktemp(name)))


@pytest.fixture(params=MAKERS, scope="module")
def made(request: pytest.FixtureRequest, make: Callable[[str], Path]) -> tuple[str, Path]:
    """The name of a kind, and a folder of that kind."""
    return request.param, make(request.param)


@pytest.fixture
def copied(make: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of such a folder, to be spoilt."""
    return lambda name: Path(shutil.copytree(make(name), tmp_path / name, symlinks=True))


def is_right(folder: Path) -> bool:
    try:
        return clipgap.verify(folder).ok
    except (InputError, UsageError):
        return False


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def thinned(items: list[Any], most: int) -> list[Any]:
    """A bounded number of them, the first and the last among them."""
    places = sorted({round(i * (len(items) - 1) / (most - 1)) for i in range(most)})
    return [items[place] for place in places if items]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def pipe(path: Path) -> None:
    """Whoever reads it waits for a writer."""
    path.unlink()
    os.mkfifo(path)


DAMAGES = {"flip": flip, "cut": cut, "delete": Path.unlink, "pipe": pipe}


def test_every_kind_is_made_here(made: tuple[str, Path]) -> None:
    name, folder = made
    assert clipgap.verify(folder).ok, clipgap.verify(folder)
    if name != "store":
        assert json.loads((folder / MANIFEST).read_bytes())["format"] in KINDS


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_found(made: tuple[str, Path], damage: str) -> None:
    name, folder = made
    for path in thinned(files_of(folder), 24):
        relative = path.relative_to(folder).as_posix()
        if relative in OPEN.get(name, ()) or (path.is_symlink() and damage != "delete"):
            continue
        kept = path.readlink() if path.is_symlink() else path.read_bytes()
        if not kept or (name, relative, damage) == ("embeddings", MANIFEST, "delete"):
            continue  # without it, it is still a store
        DAMAGES[damage](path)
        try:
            assert not is_right(folder), relative
        finally:
            path.unlink(missing_ok=True)
            if isinstance(kept, bytes):
                path.write_bytes(kept)
            else:
                path.symlink_to(kept)


def test_a_stranger_is_found(made: tuple[str, Path]) -> None:
    name, folder = made
    if name == "store":
        return  # may lie among other things
    (folder / "stranger.txt").write_text("x")
    try:
        assert not is_right(folder)
    finally:
        (folder / "stranger.txt").unlink()


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values; of a long list, of the first few and the last."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for place in sorted({*range(min(2, len(value))), len(value) - 1}):
            yield from leaves(value[place], (*path, place))
    else:
        yield path


def changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return f"{value}x" if isinstance(value, str) else "x"


def test_a_changed_value_of_the_manifest_is_found(made: tuple[str, Path]) -> None:
    name, folder = made
    if name == "store":
        return
    original = (folder / MANIFEST).read_bytes()
    believed = [re.compile(each) for each in (*BELIEVED[""], *BELIEVED.get(name, ()))]
    places = [
        place
        for place in leaves(json.loads(original))
        if place != ("sha256",)
        and not any(b.fullmatch(".".join(map(str, place))) for b in believed)
    ]
    missed = []
    for place in thinned(places, 60):
        with edited_manifest(folder) as manifest:
            inner = manifest
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = changed(inner[place[-1]])
        if is_right(folder):
            missed.append(".".join(map(str, place)))
        (folder / MANIFEST).write_bytes(original)
    assert not missed


def test_an_unknown_kind_or_version_fails(made: tuple[str, Path]) -> None:
    name, folder = made
    if name == "store":
        return
    original = (folder / MANIFEST).read_bytes()
    for key, value in (("format", "clipgap-nothing"), ("version", 99), ("format", None)):
        with edited_manifest(folder) as manifest:
            manifest[key] = value
        with pytest.raises(InputError, match=MANIFEST):
            clipgap.verify(folder)
        (folder / MANIFEST).write_bytes(original)


def sign(folder: Path, name: str) -> None:
    """Make the checksum of a changed file right."""
    with edited_manifest(folder) as manifest:
        kind = ArchiveSum if "crc32" in manifest["files"][name] else FileSum
        manifest["files"][name] = vars(kind.of(folder / name))


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def edit_column(path: Path, column: str, row: int, change: Callable[[Any], Any]) -> None:
    table = pq.read_table(path, partitioning=None)
    values = table[column].to_pylist()
    values[row] = change(values[row])
    at = table.schema.get_field_index(column)
    field = table.schema.field(at)
    pq.write_table(table.set_column(at, field, pa.array(values, field.type)), path)


def first(folder: Path, pattern: str) -> str:
    return min(folder.rglob(pattern)).relative_to(folder).as_posix()


def one_more(document: Any) -> None:
    document[min(document)] += 1


LIES: list[tuple[str, str, Callable[[Path], None]]] = [
    ("shards", "sizes.json", lambda path: edit_json(path, one_more)),
    ("shards", "*_stats.json", lambda path: edit_json(path, lambda d: d.update(successes=9))),
    ("evaluation", "summary.parquet", lambda p: edit_column(p, "accuracy", 0, lambda x: x / 2)),
    ("evaluation", "paired.parquet", lambda p: edit_column(p, "high", 0, lambda x: x + 0.25)),
    ("evaluation", "pics.parquet", lambda p: edit_column(p, "prediction", 0, lambda x: x ^ 1)),
    ("embeddings", "store.json", lambda p: edit_json(p, lambda d: d["shards"][0].update(rows=9))),
    ("report", "report.json", lambda path: edit_json(path, lambda d: d.update(training=[]))),
    ("split", "bitmap/part-00000.npy", flip),
    ("split", "keep/part-00000.parquet", lambda p: edit_column(p, "key", 0, lambda key: key + "x")),
    ("rand", "keep/part-00000.parquet", lambda p: edit_column(p, "key", 0, lambda key: key + "x")),
    ("union", "keep/part-00000.parquet", lambda p: edit_column(p, "key", 0, lambda key: key + "x")),
    ("rendered", "classes.txt", lambda path: path.write_text("a\nb\n") and None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "pattern", "lie"), LIES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_lie_with_right_checksums_is_found(
    kind: str, pattern: str, lie: Callable[[Path], None], copied: Callable[[str], Path]
) -> None:
    folder = copied(kind)
    name = first(folder, pattern.rpartition("/")[2]) if "/" not in pattern else pattern
    lie(folder / name)
    sign(folder, name)
    assert not is_right(folder)


def test_the_last_loss_is_that_of_the_log(copied: Callable[[str], Path]) -> None:
    folder = copied("training")
    log = folder / "losses.jsonl"
    lines = log.read_text().splitlines()
    last = json.loads(lines[-1])
    for change in ({"loss": last["loss"] + 1}, {"samples": 1}, {"step": 1}):
        log.write_text("\n".join([*lines[:-1], json.dumps({**last, **change})]) + "\n")
        sign(folder, log.name)
        assert not is_right(folder), change
    log.write_text("\n".join(lines[:-1]) + "\n")
    sign(folder, log.name)
    assert not is_right(folder)


@pytest.mark.parametrize("flag", ["lr", "seed", "warmup", "precision", "world_size", "device"])
def test_open_clip_was_told_what_the_plan_says(copied: Callable[[str], Path], flag: str) -> None:
    folder = copied("training")
    noted = folder / "params.txt"
    noted.write_text(re.sub(rf"(?m)^{flag}: .*$", f"{flag}: 7", noted.read_text()))
    sign(folder, noted.name)
    assert not is_right(folder)


def test_a_study_is_as_right_as_its_stages(make: Callable[[str], Path], tmp_path: Path) -> None:
    study = tmp_path / "study"
    (study / ".study").mkdir(parents=True)
    shutil.copytree(make("gap"), study / "gap")
    record = {"wanted": {}, "output": "…", "seconds": 1.0, "exit_code": 0}
    note = study / ".study" / "gap.json"
    note.write_text(json.dumps(record))
    assert clipgap.verify(study).ok
    flip(study / "gap" / "hist.parquet")
    assert "hist.parquet" in clipgap.verify(study).checks[0].detail
    flip(study / "gap" / "hist.parquet")
    for wrong in ({"exit_code": 3}, {"output": None}):
        note.write_text(json.dumps({k: v for k, v in {**record, **wrong}.items() if v is not None}))
        assert "not finished" in clipgap.verify(study).checks[0].detail
    note.write_text(json.dumps(record))
    shutil.rmtree(study / "gap")
    assert "missing" in clipgap.verify(study).checks[0].detail
    with pytest.raises(UsageError, match="--sample does nothing for a study"):
        clipgap.verify(study, sample=3)


def test_an_unknown_rule_is_not_right_and_gets_no_certificate(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    keep, certificate = copied("split"), tmp_path / "c.json"
    assert clipgap.verify(keep, certify=certificate).certificate == certificate
    with edited_manifest(keep) as manifest:
        manifest["rule"]["name"] = "prunx"
    report = clipgap.verify(keep, certify=tmp_path / "d.json")
    assert [check.name for check in report.checks if not check.ok] == ["rule"]
    assert report.certificate is None and not (tmp_path / "d.json").exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])  # with a pipe nothing is looked at
def test_a_certificate_that_no_longer_holds_is_withdrawn(
    copied: Callable[[str], Path], tmp_path: Path, damage: str
) -> None:
    keep, certificate = copied("split"), tmp_path / "c.json"
    clipgap.verify(keep, certify=certificate)
    DAMAGES[damage](keep / "bitmap" / "part-00000.npy")
    assert not clipgap.verify(keep, certify=certificate).ok
    assert not certificate.exists()


@pytest.mark.parametrize(
    "there", ["file", "link", "dangling", "other document", "folder", "inside"]
)
def test_a_certificate_replaces_nothing_else(
    copied: Callable[[str], Path], tmp_path: Path, there: str
) -> None:
    keep, place, precious = copied("split"), tmp_path / "c.json", tmp_path / "precious"
    precious.write_text("mine")
    if there == "file":
        place.write_text("mine")
    elif there == "other document":
        shutil.copy(keep / MANIFEST, place)
    elif there == "folder":
        place.mkdir()
    elif there == "inside":
        place = keep / "c.json"
    else:
        place.symlink_to(precious if there == "link" else tmp_path / "nothing")
    before = sorted(tmp_path.iterdir()), place.is_symlink(), precious.read_text()
    with pytest.raises(InputError, match=re.escape(str(place))):
        clipgap.verify(keep, certify=place)
    assert (sorted(tmp_path.iterdir()), place.is_symlink(), precious.read_text()) == before
    if there == "file":
        assert place.read_text() == "mine"


def test_an_address_without_its_password_is_asked_for(copied: Callable[[str], Path]) -> None:
    scan = copied("scan")
    with edited_manifest(scan) as manifest:
        train = manifest["inputs"]["train"]
        where, train["path"] = train["path"], "http://***@127.0.0.1:9/store"
    with pytest.raises(InputError, match=r"without its password[^$]*say where it is now"):
        clipgap.verify(scan)
    assert clipgap.verify(scan, train=where).ok
