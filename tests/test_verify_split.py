"""`verify_split` proves honest splits and finds every lie, by row; the whole way is walked."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import clipgap
from clipgap.__main__ import main
from clipgap.errors import InputError, UsageError
from clipgap.files.documents import checksum
from clipgap.keep.lists import open_keep
from clipgap.keep.writing import KeepWriter
from clipgap.runs.how import Progress
from clipgap.select.columns import open_tables
from clipgap.select.labels import Condition, Where
from clipgap.select.rules import Below, Core, Far, Near, Prune, Rand
from clipgap.shards.api import filter_shards
from clipgap.shards.samples import read_samples
from clipgap.store.writer import StoreWriter
from clipgap.verify.checks import VerifyReport
from tests.test_select import SETS
from tests.test_verify import tamper
from tests.worlds import World, flip_bit, make_world, tree, unit_rows

Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"), shards=(60, 0, 45))
    clipgap.gap(world.paths["reference"], world.test_paths, k=1, out=world.folder / "gap")
    clipgap.scan(
        world.train, world.test_paths, gap=world.folder / "gap", k=1, out=world.folder / "scan"
    )
    return world


def failures(report: VerifyReport) -> dict[str, str]:
    return {check.name: check.detail for check in report.checks if not check.ok}


def forge(keep: Path, out: Path, change: Callable[[list[Mask]], None], **rule: Any) -> Path:
    """The same keep-list with other rows, and everything else as if it were true."""
    honest = open_keep(keep)
    masks = [honest.bits(shard.index).copy() for shard in honest.shards]
    change(masks)
    store, scans = honest.manifest["store"], honest.manifest["scans"]
    with KeepWriter(out, store, {**honest.manifest["rule"], **rule}, scans) as writer:
        for shard, mask in enumerate(masks):
            keys = [f"{shard:02d}-{row:05d}" for row in np.flatnonzero(mask)]
            writer.add(shard, mask, pa.array(keys, pa.string()))
    return out


@pytest.mark.parametrize(
    "rule",
    [Prune(SETS), Prune(("a",)), Prune(SETS, 0.02), Prune(SETS, -0.02), Near(30, ("a",)),
     Below(0.55, SETS), Below(0.5, ("a",)),
     Far(30, ("b.2-x",)), Core(30, SETS), Far(0, ("a",)), Near(105, ("a",)), Rand(30, 4)],
    ids=str,
)  # fmt: skip
def test_honest_splits_are_proved(world: World, tmp_path: Path, rule: Any) -> None:
    clipgap.split(world.folder / "scan", rule, out=tmp_path / "k")
    before = tree(tmp_path)
    report = clipgap.verify(tmp_path / "k", certify=tmp_path / "c.json")
    assert failures(report) == {}
    assert tree(tmp_path / "k") == {
        name.removeprefix("k/"): digest for name, digest in before.items()
    }
    certificate = json.loads((tmp_path / "c.json").read_bytes())
    assert certificate["holds"]
    if isinstance(rule, Prune):
        assert set(certificate["claims"]) - {"candidates"} == set(
            "abc" if rule.offset > 0 else "abcd"
        )


def test_splits_within_a_keep_list(world: World, tmp_path: Path) -> None:
    scan = world.folder / "scan"
    clipgap.split(scan, Rand(70), out=tmp_path / "w")
    for name, rule in {"p": Prune(SETS), "f": Far(20, ("a",)), "r": Rand(9, 1)}.items():
        clipgap.split(scan, rule, within=tmp_path / "w", out=tmp_path / name)
        assert failures(clipgap.verify(tmp_path / name)) == {}
    outside = np.flatnonzero(~open_keep(tmp_path / "w").bits(0))[0]

    def keep_outside(masks: list[Mask]) -> None:
        masks[0][outside] = True

    report = clipgap.verify(forge(tmp_path / "p", tmp_path / "x", keep_outside))
    assert f"row {outside:,} is kept, but is no candidate" in failures(report)["candidates"]
    clipgap.split(scan, Rand(71), out=tmp_path / "w", overwrite=True)
    report = clipgap.verify(tmp_path / "p")
    assert "no longer the keep-list" in failures(report)["scans"]


def test_bad_rows_are_no_candidates(tmp_path: Path) -> None:
    rows = unit_rows(40, 17, 0)
    rows[3], rows[7, 2] = 0, np.nan
    np.save(tmp_path / "train.npy", rows)
    np.save(tmp_path / "test.npy", unit_rows(5, 17, 1))
    np.save(tmp_path / "ref.npy", unit_rows(9, 17, 2))
    tests = {"a": tmp_path / "test.npy"}
    clipgap.gap(tmp_path / "ref.npy", tests, k=1, out=tmp_path / "gap")
    clipgap.scan(
        tmp_path / "train.npy",
        tests,
        gap=tmp_path / "gap",
        k=1,
        out=tmp_path / "scan",
        bad_rows="quarantine",
    )
    for name, rule in {"p": Prune(("a",)), "f": Near(38, ("a",)), "r": Rand(38)}.items():
        split = clipgap.split(tmp_path / "scan", rule, out=tmp_path / name)
        assert not split.mask(0)[[3, 7]].any()
        assert failures(clipgap.verify(tmp_path / name)) == {}


def test_a_split_below_a_similarity_is_proved_both_ways(world: World, tmp_path: Path) -> None:
    tables = open_tables([world.folder / "scan"])
    highest = np.concatenate(
        [
            np.maximum.reduce([block.values[f"sim_{name}"] for name in SETS])
            for shard in range(3)
            for block in tables.blocks(shard, [f"sim_{name}" for name in SETS])
        ]
    )
    limit = float(np.median(highest))
    split = clipgap.split(world.folder / "scan", Below(limit, SETS), out=tmp_path / "k")
    assert 0 < split.sizes["removed"] == np.count_nonzero(highest > limit) < len(highest)
    row, near = int(np.flatnonzero(split.mask(0))[0]), int(np.flatnonzero(~split.mask(0))[0])

    def swap(masks: list[Mask]) -> None:
        masks[0][row], masks[0][near] = False, True

    found = failures(clipgap.verify(forge(tmp_path / "k", tmp_path / "x", swap)))
    assert f"row {near:,} is kept, but" in found["(a)"]
    assert f"row {row:,} is removed, but no test set prunes it" in found["(c)"]


@pytest.mark.parametrize("offset", [0.0, 0.02])
def test_a_pruned_row_that_is_kept_is_found(world: World, tmp_path: Path, offset: float) -> None:
    clipgap.split(world.folder / "scan", Prune(SETS, offset), out=tmp_path / "k")
    row = np.flatnonzero(~open_keep(tmp_path / "k").bits(2))[-1]

    def keep_one_more(masks: list[Mask]) -> None:
        masks[2][row] = True

    report = clipgap.verify(
        forge(tmp_path / "k", tmp_path / "x", keep_one_more), certify=tmp_path / "c.json"
    )
    found = failures(report)
    assert f"shard 2 (img_emb_2), row {row} is kept, but" in found["(a)"]
    # One row too near to a test point also moves the gap, unless the offset allows it.
    assert set(found) == ({"(a)", "(d)"} if not offset else {"(a)"})
    assert {check.name: check.ok for check in report.checks}["(c)"]
    assert report.certificate is None and not (tmp_path / "c.json").exists()


def test_a_row_removed_without_reason_is_found(world: World, tmp_path: Path) -> None:
    clipgap.split(world.folder / "scan", Prune(SETS), out=tmp_path / "k")
    row = np.flatnonzero(open_keep(tmp_path / "k").bits(0))[5]

    def drop_one_more(masks: list[Mask]) -> None:
        masks[0][row] = False

    found = failures(clipgap.verify(forge(tmp_path / "k", tmp_path / "x", drop_one_more)))
    assert set(found) == {"(b)", "(c)"}
    assert f"row {row} is removed, but no test set prunes it" in found["(c)"]
    assert f"row {row}: its witness in" in found["(b)"]


def test_a_wrong_witness_is_found(world: World, tmp_path: Path) -> None:
    """The scan lies about a witness, with right checksums."""
    scan = Path(shutil.copytree(world.folder / "scan", tmp_path / "scan"))
    removed = np.flatnonzero(clipgap.open_scan(scan).train_table()["pruned_a"].to_numpy())
    row = int(removed[removed < 60][0])

    def point_elsewhere(values: list[Any]) -> None:
        values[row] = (values[row] + 1) % 31

    part = "train/part-00000.parquet"
    tamper(scan, part, "witness_a", point_elsewhere)
    clipgap.split(scan, Prune(("a",)), out=tmp_path / "k")
    found = failures(clipgap.verify(tmp_path / "k"))
    assert set(found) == {"(b)"}
    assert f"row {row}: its witness in a does not prune it" in found["(b)"]


@pytest.mark.parametrize("make", [Near, Far])
def test_rows_out_of_order_are_found(world: World, tmp_path: Path, make: Any) -> None:
    clipgap.split(world.folder / "scan", make(40, ("a",)), out=tmp_path / "k")

    def swap(masks: list[Mask]) -> None:
        inside, outside = np.flatnonzero(masks[0])[0], np.flatnonzero(~masks[0])[0]
        masks[0][inside], masks[0][outside] = False, True

    found = failures(clipgap.verify(forge(tmp_path / "k", tmp_path / "x", swap)))
    assert set(found) == {"order"}
    assert "is kept, but" in found["order"]

    def drop(masks: list[Mask]) -> None:
        masks[0][np.flatnonzero(masks[0])] = False

    found = failures(clipgap.verify(forge(tmp_path / "k", tmp_path / "y", drop)))
    assert "size" in found


def test_other_rules_are_made_again(world: World, tmp_path: Path) -> None:
    scan = world.folder / "scan"
    keys = [world.key(s, r) for s, rows in enumerate(world.shards) for r in range(len(rows))]
    labels = {"key": keys, "x": [i % 3 for i in range(len(keys))]}
    pq.write_table(pa.table(labels), tmp_path / "l.parquet")
    where = Where(str(tmp_path / "l.parquet"), (Condition.parse("x=1"),))
    clipgap.split(scan, where, out=tmp_path / "w")
    clipgap.split(scan, Rand(50), out=tmp_path / "r")
    clipgap.combine("difference", [tmp_path / "w", tmp_path / "r"], out=tmp_path / "d")

    def flip(masks: list[Mask]) -> None:
        masks[2][9] ^= True

    for name in "wrd":
        assert failures(clipgap.verify(tmp_path / name)) == {}
        lie = forge(tmp_path / name, tmp_path / f"{name}x", flip)
        found = failures(clipgap.verify(lie))
        assert found == {"made again": "shard 2 (img_emb_2), row 9: the rule says otherwise"}
    pq.write_table(pa.table({**labels, "x": [1] * len(keys)}), tmp_path / "l.parquet")
    assert "no longer the table" in failures(clipgap.verify(tmp_path / "w"))["made again"]


def test_damage_and_wrong_keys_are_found(world: World, tmp_path: Path) -> None:
    clipgap.split(world.folder / "scan", Prune(SETS), out=tmp_path / "k")
    flip_bit(tmp_path / "k" / "keep" / "part-00002.parquet", 60)
    (tmp_path / "k" / "notes.txt").touch()
    found = failures(clipgap.verify(tmp_path / "k"))
    assert "keep/part-00002.parquet is damaged" in found["checksums"]
    assert "notes.txt does not belong" in found["checksums"]
    honest = forge(tmp_path / "k", tmp_path / "x", lambda masks: None)
    store = json.loads((honest / "manifest.json").read_bytes())
    with KeepWriter(tmp_path / "y", store["store"], store["rule"], store["scans"]) as writer:
        for shard in range(3):
            mask = open_keep(honest).bits(shard)
            writer.add(shard, mask, pa.array(["wrong"] * int(mask.sum()), pa.string()))
    found = failures(clipgap.verify(tmp_path / "y"))
    assert found["keys"].startswith("keep/part-00000.parquet: keys are not those of")


def test_other_stores_and_scans_are_found(world: World, tmp_path: Path) -> None:
    scan = Path(shutil.copytree(world.folder / "scan", tmp_path / "scan"))
    clipgap.split(scan, Prune(SETS), out=tmp_path / "k")
    other = make_world(tmp_path / "other", shards=(60, 0, 45), seed=5)
    found = failures(clipgap.verify(tmp_path / "k", train=other.train))
    assert "fingerprint" in found["inputs"]
    with pytest.raises(UsageError, match="no test set 'nope'"):
        clipgap.verify(tmp_path / "k", tests={"nope": "x"})
    clipgap.scan(
        world.train, world.test_paths, gap=world.folder / "gap", k=2, out=scan, overwrite=True
    )
    assert "no longer the scan" in failures(clipgap.verify(tmp_path / "k"))["scans"]
    shutil.rmtree(scan)
    with pytest.raises(InputError, match="not a finished scan"):
        clipgap.verify(tmp_path / "k")


def test_from_the_command_line(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clipgap.split(world.folder / "scan", Prune(SETS), out=tmp_path / "k")
    assert main(["verify", str(tmp_path / "k"), "--threads", "1"]) == 0
    printed = capsys.readouterr()
    assert "(a)" in printed.out
    assert "is right" in printed.out
    assert json.loads((tmp_path / "k.certificate.json").read_bytes())["holds"]
    assert main(["verify", str(tmp_path / "k"), "--sample", "3"]) == 2
    assert "--sample does nothing for a split" in capsys.readouterr().err
    assert main(["verify", str(world.folder / "scan"), "--sample", "3", "--seed", "-5"]) == 2
    assert capsys.readouterr().err.count("seed is -5") == 1
    assert main(["verify", str(world.folder / "scan"), "--certificate", "x"]) == 2
    assert "--certificate does nothing for a scan" in capsys.readouterr().err
    flip_bit(tmp_path / "k" / "bitmap" / "part-00000.npy", -1)
    assert main(["verify", str(tmp_path / "k"), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["ok"] is False


SIZES = {"00000": 50, "00001": 30, "00002": 41}


def write_shards(folder: Path) -> None:
    """A tar for each shard of the store, with an image and a caption a sample."""
    folder.mkdir()
    for name, rows in SIZES.items():
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for row in range(rows):
                for extension in ("jpg", "txt"):
                    content = f"{extension} of {name}/{row}".encode()
                    member = tarfile.TarInfo(f"{name}{row:04d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def independent_proof(folder: Path) -> dict[str, bool]:
    """The claims of a certificate from the arrays on disk, by definition, in plain NumPy."""
    train = [np.load(folder / "train" / "embeddings" / f"{name}.npy") for name in SIZES]
    x = np.concatenate(train).astype(np.float64)
    reference = np.load(folder / "ref.npy").astype(np.float64)
    packed = [np.load(folder / "keep" / "bitmap" / f"part-{s:05d}.npy") for s in range(len(SIZES))]
    kept = np.concatenate(
        [
            np.unpackbits(bits, count=len(rows), bitorder="little").astype(bool)
            for bits, rows in zip(packed, train, strict=True)
        ]
    )
    holds = dict.fromkeys("abcd", True)
    exceeds_any = np.zeros(len(x), bool)
    has_witness = np.zeros(len(x), bool)
    tables = [
        pq.read_table(folder / "scan" / "train" / f"part-{shard:05d}.parquet", partitioning=None)
        for shard in range(len(SIZES))
    ]
    for name in SETS:
        t = np.load(folder / f"{name}.npy").astype(np.float64)
        tau = (reference @ t.T).max(axis=0)
        scores = x @ t.T
        exceeds_any |= (scores > tau).any(axis=1)
        witness = np.concatenate([table[f"witness_{name}"].to_numpy() for table in tables])
        rows = np.arange(len(x))
        has_witness |= scores[rows, witness] > tau[witness]
        joint = np.concatenate([scores[kept], reference @ t.T]).max(axis=0)
        holds["d"] &= bool((joint == tau).all())
    holds["a"] = not exceeds_any[kept].any()
    holds["b"] = bool(has_witness[~kept].all())
    holds["c"] = bool(exceeds_any[~kept].all())
    return holds


def test_from_gap_to_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """gap → scan → split → filter → verify on the command line, then all of it again in NumPy."""
    monkeypatch.chdir(tmp_path)
    with StoreWriter("train", 17) as store:
        for seed, (name, rows) in enumerate(SIZES.items()):
            store.add(unit_rows(rows, 17, seed), [f"{name}{row:04d}" for row in range(rows)])
    np.save("ref.npy", unit_rows(40, 17, 20))
    for seed, name in enumerate(SETS):
        np.save(f"{name}.npy", unit_rows(15, 17, 30 + seed))
    write_shards(tmp_path / "shards")
    tests = [part for name in SETS for part in ("--test", f"{name}={name}.npy")]
    prune = [part for name in SETS for part in ("--prune", name)]
    for command in (
        ["gap", "ref.npy", *tests, "-o", "gap"],
        ["scan", "train", *tests, "--gap", "gap", "-o", "scan"],
        ["split", "scan", *prune, "-o", "keep"],
        ["verify", "keep"],
    ):
        assert main([*command, "-q"]) == 0, capsys.readouterr().err
    filter_shards("shards", "keep", "kept")
    keep = open_keep("keep")
    assert 0 < keep.kept < keep.rows == 121
    certificate = json.loads(Path("keep.certificate.json").read_bytes())
    assert certificate["holds"]
    assert certificate["keep"]["manifest_sha256"] == checksum(keep.manifest)
    claims = {name: claim["holds"] for name, claim in certificate["claims"].items()}
    del claims["candidates"]
    assert claims == independent_proof(tmp_path) == dict.fromkeys("abcd", True)
    assert certificate["claims"]["a"]["checked"] == keep.kept
    assert certificate["claims"]["c"]["checked"] == keep.rows - keep.kept
    for shard in keep.shards:
        left = [sample.key for sample in read_samples(f"kept/{shard.name}.tar")]
        assert left == keep.keys(shard.index).to_pylist()


def test_a_proof_says_when_it_ends(world: World, tmp_path: Path) -> None:
    """Whatever counts something counts all of it, with the time that is left."""
    clipgap.split(world.folder / "scan", Prune(SETS), out=tmp_path / "k")
    counted: dict[str, Progress] = {}
    timed: set[str] = set()

    def watch(progress: Progress) -> None:
        if progress.total:
            step = f"{progress.stage} {progress.at}".strip()
            counted[step] = progress
            if progress.seconds_left is not None:
                timed.add(step)

    for folder in (world.folder / "scan", tmp_path / "k"):
        assert clipgap.verify(folder, on_progress=watch).ok
    assert counted.keys() >= {
        "verifying",
        "verifying witnesses",
        "verifying the reference",
        *(f"verifying {name}" for name in ("checksums", "histograms and counts", "training rows")),
        "verifying neighbours and ties",
    }
    assert timed == counted.keys()
    assert all(progress.done == pytest.approx(progress.total) for progress in counted.values())
