"""What an enemy, an editor or a failing disk leaves for a filter to read: refused by name."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipgap.errors import ClipgapError, InputError
from clipgap.files.volumes import File
from clipgap.runs.executors import Here
from clipgap.shards.api import filter_shards
from clipgap.shards.finding import find_shards
from clipgap.shards.work import at_hand
from tests.shards import contents, sample, write_keep, write_shard
from tests.worlds import edited_document, tree

KEYS = {"0": ["a", "b", "c"], "1": ["d"]}
NAMES = ["..", "../docs", "/docs", "a/../../docs", "", ".", "a//b", "a\0b"]
MUTATIONS = 150


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards in `p/in`, a keep-list in `p/keep`, strangers in `p/docs`."""
    monkeypatch.chdir(tmp_path)
    for name, keys in KEYS.items():
        write_shard(Path(f"p/in/{name}.tar"), keys)
    write_keep(Path("p/keep"), KEYS, {("0", 0), ("0", 2), ("1", 0)})
    Path("p/docs").mkdir()
    Path("p/docs/thesis.txt").write_text("years of work")
    return tmp_path


def run(out: str = "p/out", **options: Any) -> Any:
    return filter_shards("p/in", "p/keep", out, executor=Here(), **options)


def interrupted(out: str = "p/out") -> None:
    """A filter that ended after its first shard."""
    second = Path("p/in/1.tar")
    whole = second.read_bytes()
    moment = second.stat()
    write_keep(Path("p/more"), {**KEYS, "1": ["lost"]}, {("0", 0), ("1", 0)})
    with pytest.raises(InputError, match="lacks 1 samples"):
        filter_shards("p/in", "p/more", out, executor=Here())
    assert second.read_bytes() == whole and second.stat() == moment


@pytest.mark.parametrize("name", [*NAMES, "\ud800"])
def test_a_manifest_cannot_have_others_files_deleted(here: Path, name: str) -> None:
    Path("p/out").mkdir()
    hostile = {"format": "clipgap-shards", "version": 1, "files": {name: {}}}
    Path("p/out/manifest.json").write_text(json.dumps(hostile))
    before = tree(Path())
    for flag in ("overwrite", "resume"):
        with pytest.raises(InputError, match=r"p/out/manifest\.json"):
            run(**{flag: True})
    assert tree(Path()) == before


@pytest.mark.parametrize("entry", ["earlier", "outputs"])
@pytest.mark.parametrize("name", NAMES)
def test_a_plan_cannot_either(here: Path, name: str, entry: str) -> None:
    interrupted()
    with edited_document(Path("p/out/.progress/plan.json")) as plan:
        plan[entry] = [name]
    before = tree(Path())
    for flag in ("overwrite", "resume"):
        with pytest.raises(InputError, match=r"p/out/\.progress/plan\.json"):
            filter_shards("p/in", "p/more", "p/out", missing="list", **{flag: True})
    assert tree(Path()) == before


def edits(document: Any, chance: random.Random) -> None:
    """Change one value somewhere in a document, or remove it, or add one."""
    values = [None, True, -1, 1e300, "", "..", "\ud800", [], {}, [[]], {"a": 1}, 10**400, "🙂", 0]
    at = document
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(at[key], (dict, list)) and at[key] and chance.random() < 0.8:
            at = at[key]
            continue
        if chance.random() < 0.2:
            del at[key]
        elif chance.random() < 0.2 and isinstance(at, dict):
            at[chance.choice(["..", "more", "", "a/b"])] = chance.choice(values)
        else:
            at[key] = chance.choice(values)
        return


def damages(content: bytes, chance: random.Random) -> bytes:
    """Cut bytes, or flip, insert or repeat some."""
    at = chance.randrange(len(content))
    return chance.choice(
        [
            content[:at],
            content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :],
            content[:at] + chance.randbytes(9) + content[at:],
            content[:at] + content[at // 2 :],
        ]
    )


def outcome(call: Callable[[], object]) -> ClipgapError | None:
    """How a run ends; anything but an error for the user is raised."""
    try:
        call()
    except ClipgapError as error:
        assert error.exit_code == 3, error
        return error
    return None


def test_mutated_manifests(here: Path) -> None:
    run("whole")
    shutil.copytree("whole", "kept")
    path, chance = Path("whole/manifest.json"), random.Random(0)
    whole = path.read_bytes()
    before = tree(Path("whole"))
    for number in range(MUTATIONS):
        path.write_bytes(damages(whole, chance))
        with suppress(ValueError):
            if json.loads(path.read_bytes()) == json.loads(whole):
                continue  # only white space was damaged
        error = outcome(lambda: run("whole", resume=True))
        assert error is not None and "whole/manifest.json" in str(error), number
        path.write_bytes(whole)
    for number in range(MUTATIONS):  # by somebody with an editor
        manifest = json.loads(whole)
        edits(manifest, chance)
        if manifest != json.loads(whole):
            path.write_text(json.dumps(manifest))
            error = outcome(lambda: run("whole", resume=True))
            assert error is not None and "whole/manifest.json" in str(error), number
    path.write_bytes(whole)
    for number in range(MUTATIONS):  # by somebody who knows how it is sealed
        try:
            with edited_document(path) as manifest:
                edits(manifest, chance)
        except (ValueError, UnicodeError):
            path.write_bytes(whole)
            continue  # what cannot be sealed is among the edits above
        error = outcome(lambda: run("whole", resume=True))
        assert error is None or "whole" in str(error), number
        shutil.rmtree("whole")
        shutil.copytree("kept", "whole")
    assert tree(Path("whole")) == before


def test_mutated_notes_of_an_unfinished_filter(here: Path) -> None:
    interrupted("part")
    shutil.copytree("part", "kept")
    filter_shards("p/in", "p/more", "whole", missing="list")
    chance = random.Random(0)
    wanted = {k: v for k, v in tree(Path("whole")).items() if k != "manifest.json"}
    for name in ("plan.json", "units.jsonl"):
        content = Path("kept/.progress", name).read_bytes()
        for number in range(MUTATIONS // 3):
            shutil.rmtree("part")
            shutil.copytree("kept", "part")
            Path("part/.progress", name).write_bytes(damages(content, chance))
            error = outcome(
                lambda: filter_shards("p/in", "p/more", "part", missing="list", resume=True)
            )
            if error is not None:
                assert "part" in str(error), number
            else:
                found = tree(Path("part"))
                assert {k: v for k, v in found.items() if k in wanted} == wanted, number


@pytest.mark.parametrize(
    "statistics",
    [
        '{"successes": Infinity}',
        '{"successes": -Infinity}',
        '{"successes": NaN}',
        '{"successes": -3}',
        '{"successes": 1e999}',
        '{"successes": "3"}',
        '{"successes": true}',
        '{"successes": ' + "9" * 5000 + "}",
        '{"successes": {}}',
        "[" * 100_000,
        "[]",
        "\udcff",
        "",
    ],
)
def test_statistics_that_are_none(here: Path, statistics: str) -> None:
    Path("p/in/0_stats.json").write_bytes(statistics.encode("utf-8", "surrogateescape"))
    result = run()
    (problem,) = pq.read_table("p/out/quarantine.parquet").to_pylist()
    assert (result.kept, result.problems) == (3, 1)
    assert problem["shard"] == "p/in/0_stats.json"
    assert "not the statistics of a shard" in problem["reason"]


def test_damaged_tables_beside_shards(here: Path) -> None:
    path, chance = Path("p/in/0.parquet"), random.Random(0)
    pq.write_table(pa.table({"key": KEYS["0"], "url": ["x" * 50, None, "z"], "n": [1, 2, 3]}), path)
    whole = path.read_bytes()
    refused = 0
    for number in range(MUTATIONS):
        path.write_bytes(damages(whole, chance))
        shutil.rmtree("p/out", ignore_errors=True)
        error = outcome(run)
        refused += error is not None
        assert error is None or "0.parquet" in str(error), number
    assert refused > MUTATIONS // 3


def test_units_that_read_the_same_distant_shard_do_not_meet(here: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://meet/0.tar", "wb") as file:
        file.write(Path("p/in/0.tar").read_bytes())
    (shard,) = find_shards("memory://meet/0.tar")
    Path("out/.progress").mkdir(parents=True)

    def content(file: File) -> list[tuple[str, bytes]]:
        return contents(Path(file.path))

    wanted = contents(Path("p/in/0.tar"))
    with at_hand(shard, Path("out")) as one:
        with at_hand(shard, Path("out")) as other:
            assert content(one) == content(other) == wanted
        assert content(one) == wanted
    assert not list(Path("out/.progress").iterdir())
    assert len(wanted) == len([entry for key in KEYS["0"] for entry in sample(key)])
