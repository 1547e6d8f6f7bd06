"""Keep-lists on disk: whole or absent, resumed to the byte, and SemDeDup's files beside them."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipgap
from clipgap.dedup.notes import Notes
from clipgap.errors import InputError, Interrupted, ResumeError, UsageError
from clipgap.files.sums import FileSum
from clipgap.keep.lists import open_keep
from clipgap.runs.executors import Here
from clipgap.runs.how import Progress
from clipgap.runs.units import Event
from clipgap.select.rules import Far
from tests.test_dedup import DATA
from tests.worlds import flip_bit, tree, write_store

OPTIONS: dict[str, Any] = {"clusters": 5, "iterations": 4, "audit": 20, "threads": 1}
SHARDS = (40, 0, 110)
# Many units, and the similarities to centroids count.
FAR: dict[str, Any] = {**OPTIONS, "memory": 7_000, "block_rows": 64, "keep": "centroid-far"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rows = np.split(DATA["crowd"], np.cumsum(SHARDS)[:-1])
    write_store(tmp_path / "store", rows, lambda shard, row: f"{shard}-{row:03d}")
    return tmp_path / "store"


def test_a_keep_list_says_what_made_it(store: Path, tmp_path: Path) -> None:
    found = clipgap.dedup(store, 0.05, out=tmp_path / "k", **OPTIONS)
    keep, counted = open_keep(tmp_path / "k"), clipgap.dedup(store, 0.05, **OPTIONS)
    rule = keep.manifest["rule"]
    assert (rule["name"], rule["epsilon"], rule["mode"]) == ("dedup", 0.05, "greedy")
    assert rule["clustering"]["clusters"] == 5
    assert keep.manifest["clustering"] == found.clustering == counted.clustering
    assert keep.manifest["audit"] == counted.lists[0].audit
    assert keep.manifest["sizes"] == counted.lists[0].sizes
    for shard in range(len(SHARDS)):
        kept = np.flatnonzero(counted.lists[0].mask(shard))
        np.testing.assert_array_equal(keep.rows_of(shard), kept)
        assert keep.keys(shard).to_pylist() == [f"{shard}-{row:03d}" for row in kept]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k", "store"]
    assert clipgap.verify(tmp_path / "k").ok


def test_several_epsilons_make_several_lists(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\{epsilon\}"):
        clipgap.dedup(store, [0.05, 0.2], out=tmp_path / "k", **OPTIONS)
    clipgap.dedup(store, [0.2, 0.05], out=tmp_path / "k-{epsilon}", **OPTIONS)
    clipgap.dedup(store, 0.2, out=tmp_path / "alone", **OPTIONS)
    assert tree(tmp_path / "k-0.2") == tree(tmp_path / "alone")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["alone", "k-0.05", "k-0.2", "store"]


def test_what_is_there_is_not_overwritten(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "k"
    clipgap.dedup(store, 0.05, out=out, **OPTIONS)
    before = tree(out)
    with pytest.raises(InputError, match="finished keep-list"):
        clipgap.dedup(store, 0.05, out=out, **OPTIONS)
    with pytest.raises(ResumeError, match="epsilon"):
        clipgap.dedup(store, 0.1, out=out, resume=True, **OPTIONS)
    assert clipgap.dedup(store, 0.05, out=out, resume=True, **OPTIONS).already_complete
    assert tree(out) == before
    clipgap.dedup(store, 0.1, out=out, overwrite=True, **OPTIONS)
    assert open_keep(out).manifest["rule"]["epsilon"] == 0.1
    with pytest.raises(UsageError, match="exclude each other"):
        clipgap.dedup(store, 0.1, out=out, overwrite=True, resume=True, **OPTIONS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"thesis\.tex"):
        clipgap.dedup(store, 0.1, out=tmp_path / "mine", overwrite=True, **OPTIONS)


def test_a_damaged_list_is_made_again(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "k"
    clipgap.dedup(store, 0.05, out=out, **OPTIONS)
    before = tree(out)
    flip_bit(out / "keep" / "part-00002.parquet", 100)
    assert not clipgap.dedup(store, 0.05, out=out, resume=True, **OPTIONS).already_complete
    assert tree(out) == before


def stop_at(stage: str, times: int) -> Callable[[Progress], None]:
    """A watcher that ends the run when it hears of a stage for so many times."""
    left = times

    def watch(progress: Progress) -> None:
        nonlocal left
        left -= progress.stage.startswith(stage)
        if not left:
            raise Interrupted("as asked")

    return watch


@pytest.mark.parametrize(
    ("stage", "times"),
    [
        ("choosing seeds", 1),
        ("clustering, iteration 1", 1),
        ("clustering, iteration 3", 2),
        ("assigning", 2),
        ("auditing", 1),
        ("gathering", 4),
        ("comparing", 9),
        ("writing", 1),
        ("writing", 4),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    store: Path, tmp_path: Path, stage: str, times: int
) -> None:
    options = {**OPTIONS, "memory": 7_000, "block_rows": 16}
    epsilons = [0.05, 0.2]
    clipgap.dedup(store, epsilons, out=tmp_path / "whole-{epsilon}", **OPTIONS)
    out = tmp_path / "k-{epsilon}"
    with pytest.raises(Interrupted):
        clipgap.dedup(store, epsilons, out=out, on_progress=stop_at(stage, times), **options)
    with pytest.raises(InputError, match="--resume"):
        clipgap.dedup(store, epsilons, out=out, **OPTIONS)
    again: list[str] = []
    clipgap.dedup(
        store,
        epsilons,
        out=out,
        resume=True,
        on_progress=lambda progress: again.append(progress.stage),
        **OPTIONS,
    )
    for epsilon in epsilons:
        assert tree(tmp_path / f"k-{epsilon}") == tree(tmp_path / f"whole-{epsilon}")
    if stage != "choosing seeds":
        assert "choosing seeds" not in again, "what is done is not done again"
    if stage in ("auditing", "comparing", "writing"):
        assert not any(stage.startswith("clustering") for stage in again)
    assert not (tmp_path / "k-all.work").exists()


def test_other_settings_do_not_go_on(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "k"
    with pytest.raises(Interrupted):
        clipgap.dedup(store, 0.05, out=out, on_progress=stop_at("assigning", 1), **OPTIONS)
    with pytest.raises(ResumeError, match="setting clustering clusters: was 5, is 6"):
        clipgap.dedup(store, 0.05, out=out, resume=True, **{**OPTIONS, "clusters": 6})
    np.save(store / "img_emb" / "img_emb_0.npy", DATA["crowd"][1:41])
    with pytest.raises(ResumeError, match="shard img_emb_0"):
        clipgap.dedup(store, 0.05, out=out, resume=True, **OPTIONS)
    clipgap.dedup(store, 0.05, out=out, overwrite=True, **OPTIONS)
    assert not (tmp_path / "k.work").exists()


def flipped(content: bytes, at: float) -> bytes:
    place = int(at * (len(content) - 1))
    return content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("clustering, iteration 3", "centroids-*"),
        ("comparing", "labels.npy"),
        ("comparing", "sims.npy"),
        ("comparing", "dropped/*.npy"),
        ("comparing", "units.jsonl"),
        ("comparing", "plan.json"),
    ],
)
def test_damaged_notes_are_made_again_or_named(
    store: Path, tmp_path: Path, stage: str, name: str
) -> None:
    """No flipped bit and no missing byte in them makes another keep-list."""

    def until(progress: Progress) -> None:
        if progress.stage == stage and (stage != "comparing" or progress.part == 3):
            raise Interrupted("as asked")

    out, work, saved = tmp_path / "k", tmp_path / "k.work", tmp_path / "saved"
    clipgap.dedup(store, 0.05, out=tmp_path / "whole", **FAR)
    with pytest.raises(Interrupted):
        clipgap.dedup(store, 0.05, out=out, on_progress=until, **FAR)
    work.rename(saved)
    file, *_ = sorted((saved / ".progress").glob(name))
    for at in (0.0, 0.3, 0.5, 0.7, 0.8, 1.0, None):
        shutil.copytree(saved, work)
        content = file.read_bytes()
        damaged = content[:-9] if at is None else flipped(content, at)
        (work / file.relative_to(saved)).write_bytes(damaged)
        try:
            clipgap.dedup(store, 0.05, out=out, resume=True, **FAR)
        except InputError as error:
            assert file.name in str(error), at
            assert "--overwrite" in str(error) or "again" in str(error), at
        else:
            assert tree(out) == tree(tmp_path / "whole"), at
            shutil.rmtree(out)
        shutil.rmtree(work, ignore_errors=True)


def test_the_sum_of_an_array_is_of_what_was_put_into_it(tmp_path: Path) -> None:
    """Not of what lies on the disk, which may be other bytes by then."""
    notes = Notes(tmp_path)
    whole = tmp_path / "whole.npy"
    for name, rows in (("rows.npy", 2), ("none.npy", 0)):
        np.save(whole, array := np.arange(3 * rows).reshape(rows, 3))
        np.save(tmp_path / name, np.zeros_like(array))
        notes._arrays[name] = np.load(tmp_path / name, mmap_mode="c")
        notes._arrays[name][:] = array
        notes.add(name, {}, [name])
        assert notes.of(name) == {"files": {name: asdict(FileSum.of(whole))}}


def test_units_that_are_done_stay_done(store: Path, tmp_path: Path) -> None:
    """Whatever memory there is for those that are left."""
    options = {**OPTIONS, "clusters": 12}
    clipgap.dedup(store, 0.05, out=tmp_path / "whole", **options)
    begun: list[range] = []

    def some(work: Any, units: Sequence[Any], *asked: Any) -> Iterator[Event]:
        """Two units, from the middle on."""
        middle = units[len(units) // 2 :][:2]
        begun.extend(range(unit.start, unit.stop) for unit in middle)
        yield from Here()(work, middle, *asked)

    def others(work: Any, units: Sequence[Any], *asked: Any) -> Iterator[Event]:
        clusters = [range(unit.start, unit.stop) for unit in units]
        assert sorted(chain(*clusters, *begun)) == list(range(12))
        yield from Here()(work, units, *asked)

    for memory in (1, 9_000, 1 << 30):
        begun.clear()
        out = tmp_path / f"k{memory}"
        with pytest.raises(Interrupted, match="left; --resume goes on"):
            clipgap.dedup(store, 0.05, out=out, memory=7_000, executor=some, **options)
        clipgap.dedup(store, 0.05, out=out, memory=memory, resume=True, executor=others, **options)
        assert tree(out) == tree(tmp_path / "whole")


def test_a_split_goes_on_from_there(store: Path, tmp_path: Path) -> None:
    found = clipgap.dedup(store, 0.05, out=tmp_path / "k", **OPTIONS).lists[0]
    clipgap.scan(store, {"t": DATA["crowd"][:5]}, out=tmp_path / "scan")
    half = found.sizes["kept"] // 2
    split = clipgap.split(
        tmp_path / "scan", Far(half, ("t",)), within=tmp_path / "k", out=tmp_path / "far"
    )
    for shard in range(len(SHARDS)):
        assert not (split.mask(shard) & ~found.mask(shard)).any()
    assert open_keep(tmp_path / "far").kept == half


def test_semdedup_files(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "semdedup"
    options = {**OPTIONS, "keep": "centroid-far", "mode": "chain"}
    out = tmp_path / "k-{epsilon}"
    clipgap.dedup(store, [0.05, 0.2], out=out, semdedup=folder, **options)
    rows = DATA["crowd"]
    keys = [f"{shard}-{row:03d}" for shard, n in enumerate(SHARDS) for row in range(n)]
    centroids = np.load(folder / "kmeans_centroids.npy")
    nearest = np.load(folder / "nearest_cent.npy")
    assert (centroids.dtype, nearest.dtype) == (np.float32, np.int64)
    scores = rows.astype(np.float64) @ centroids.astype(np.float64).T
    np.testing.assert_array_equal(nearest, scores.argmax(axis=1))
    np.testing.assert_array_equal(
        np.load(folder / "dist_to_cent.npy"), scores.max(axis=1).astype(np.float32)
    )
    order: list[int] = []
    for cluster in range(5):
        table = np.load(folder / "sorted_clusters" / f"cluster_{cluster}.npy")
        ids = table[:, 1].astype("int32")
        np.testing.assert_array_equal(np.sort(ids), np.flatnonzero(nearest == cluster))
        assert table[:, 0].astype("<U32").tolist() == [keys[i] for i in ids]
        far = table[:, 2].astype("float32")
        np.testing.assert_array_equal(far, 1 - scores[ids, cluster].astype(np.float32))
        assert (np.diff(far) <= 0).all()
        assert set(table[:, 3].tolist()) <= {str(cluster).encode()}
        order += ids.tolist()
        # Decided as SemDeDup does it: the upper triangle of all similarities, farthest row first.
        near = rows[ids].astype(np.float64) @ rows[ids].astype(np.float64).T
        most = np.triu(near, k=1).max(axis=0, initial=0.0)
        for epsilon in (0.05, 0.2):
            listed = (folder / f"kept_eps={epsilon}.txt").read_text().split()
            kept = {keys[i] for i, gone in zip(ids, most > 1 - epsilon, strict=True) if not gone}
            assert kept == set(listed) & {keys[i] for i in ids}
    listed = (folder / "kept_eps=0.05.txt").read_text().split()
    keep = open_keep(tmp_path / "k-0.05")
    kept = {key for shard in range(3) for key in keep.keys(shard).to_pylist()}
    assert listed == [keys[i] for i in order if keys[i] in kept]


def test_semdedup_folders_are_not_overwritten(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "semdedup"
    with pytest.raises(UsageError, match="clusters"):
        clipgap.dedup(store, 0.05, exact=True, semdedup=folder)
    clipgap.dedup(store, 0.05, out=tmp_path / "k", **OPTIONS)
    with pytest.raises(InputError, match="clusters were not kept"):
        clipgap.dedup(store, 0.05, out=tmp_path / "k", semdedup=folder, resume=True, **OPTIONS)
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(InputError, match="not empty"):
        clipgap.dedup(store, 0.05, semdedup=folder, **OPTIONS)


def test_rows_without_keys_go_by_their_number(tmp_path: Path) -> None:
    clipgap.dedup(DATA["crowd"], 0.05, semdedup=tmp_path / "semdedup", **OPTIONS)
    listed = (tmp_path / "semdedup" / "kept_eps=0.05.txt").read_text().split()
    mask = clipgap.dedup(DATA["crowd"], 0.05, **OPTIONS).lists[0].mask(0)
    assert sorted(map(int, listed)) == np.flatnonzero(mask).tolist()


def test_sigterm_and_go_on(store: Path, tmp_path: Path) -> None:
    """From the command line: a signal ends the run with 75, the same line goes on."""
    pid = os.fork()
    arguments = ["dedup", str(store), "--epsilon", "0.05", "--clusters", "5", "-q"]
    arguments += ["--threads", "1", "-o", str(tmp_path / "k")]
    if pid == 0:
        from clipgap.__main__ import main
        from clipgap.dedup import run

        step = run.step

        def slow(*given: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return step(*given)

        run.step = slow
        os._exit(main(arguments))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (0, 75)
    from clipgap.__main__ import main

    assert main([*arguments, "--resume"]) == 0
    clipgap.dedup(store, 0.05, clusters=5, out=tmp_path / "same")
    assert tree(tmp_path / "k") == tree(tmp_path / "same")
