"""Subsets of a set and pools of checkpoints, against sums by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.clip.data.classes import Classes
from clipgap.clip.eval.subset_tables import _accuracy, _difference, _Right, subset_tables
from clipgap.clip.eval.subsets import Subset, read_subsets
from clipgap.clip.eval.tables import samples_schema
from clipgap.errors import InputError, UsageError
from clipgap.intervals import wilson
from tests.clip_worlds import CLASSES
from tests.eval_worlds import World, make_world, samples
from tests.test_verify import failures, tamper


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("subsets"))


@pytest.fixture(scope="module")
def subsets(world: World) -> Path:
    """A clean subset by keys, one class that was queried, and the others."""
    keys = sorted(path.relative_to(world.folder).as_posix() for path in world.folder.rglob("*.jpg"))
    keys.reverse()  # keys say which image is meant, not places
    domain = np.where(np.arange(len(keys)) % 3 == 0, "rendition", "natural")
    pq.write_table(pa.table({"key": keys, "domain": domain}), world.root / "domains.parquet")
    file = world.root / "subsets.toml"
    file.write_text(
        '[clean]\ntable = "domains.parquet"\nwhere = "domain=natural"\n'
        f'[queried]\nclasses = ["{CLASSES[0]}", "{CLASSES[2]}"]\n[other]\nall_but = "queried"\n'
    )
    return file


@pytest.fixture(scope="module")
def done(world: World, subsets: Path) -> clipgap.EvalResult:
    return clipgap.evaluate(
        out=world.root / "e",
        **world.arguments(subsets=f"pics={subsets}", pool="both=a,b", draws=500),
    )


def logits_of(done: clipgap.EvalResult) -> dict[str, np.ndarray[Any, Any]]:
    """Of each subset, whether an image is right among its classes, as the table of samples says."""
    found = samples(done.path, "a")
    return {name: np.array(found[name]) for name in found}


# --- one pass, three ways ---------------------------------------------------------------------


def test_three_ways_and_groups_by_hand(
    world: World, done: clipgap.EvalResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {
        (row["checkpoint"], row["subset"], row["among"], row["over"]): row
        for row in done.subsets.to_pylist()
    }
    held = {name: samples(done.path, name) for name in "ab"}
    domains = pq.read_table(world.root / "domains.parquet").to_pylist()
    natural = {row["key"] for row in domains if row["domain"] == "natural"}
    label = np.array(held["a"]["label"])
    queried = np.isin(label, [0, 2])
    inside = {
        None: np.ones(len(label), bool),
        "clean": np.array([key in natural for key in held["a"]["key"]]),
        "queried": queried,
        "other": ~queried,
    }
    assert 0 < inside["clean"].sum() < len(label)
    for subset, mask in inside.items():
        for among in ("all", "subset") if subset else ("all",):
            column = "prediction" if among == "all" else f"within_{subset}"
            right = {
                name: np.array([p == c for p, c in zip(of[column], label, strict=True)])[mask]
                for name, of in held.items()
            }
            right["both"] = (right["a"] + right["b"].astype(float)) / 2
            for name, each in right.items():
                row = rows[name, subset, among, "images"]
                assert (row["images"], row["accuracy"]) == (mask.sum(), pytest.approx(each.mean()))
                means = [each[label[mask] == c].mean() for c in sorted(set(label[mask]))]
                by_class = rows[name, subset, among, "classes"]
                assert by_class["accuracy"] == pytest.approx(np.mean(means))
                assert by_class["classes"] == len(means)
                if name != "both":
                    wanted = wilson(int(each.sum()), len(each))
                    assert (row["low"], row["high"]) == (wanted.low, wanted.high)
    for name in "ab":
        none = [v is None for v in held[name]["within_clean"]]
        assert none == (~inside["clean"]).tolist()
        assert set(held[name]["within_queried"]) <= {None, 0, 2}
    # What is told of the whole set is what is told without subsets.
    plain = clipgap.evaluate(out=world.root / "plain", **world.arguments(draws=500))
    assert plain.summary.equals(done.summary)
    assert plain.paired.equals(done.paired)
    with pytest.raises(UsageError, match="was made without --subsets"):
        _ = plain.subsets
    assert not done.subsets_paired.num_rows  # a pool is not held against its own


def test_predictions_among_few_classes() -> None:
    """Of equal logits the lower class wins; other images have no prediction."""
    logits = np.array([[9, 1, 2, 2], [9, 3, 1, 2], [9, 1, 1, 5]], np.float32)
    subset = Subset("p", (1, 2, 3), frozenset({"x", "y"}))
    labels = np.array([2, 1, 3])
    assert subset.predictions(["x", "y", "z"], labels, logits).tolist() == [2, 1, -1]
    assert Subset("q", (1, 3)).predictions("xyz", labels, logits).tolist() == [-1, 1, 3]


def test_the_proof_of_parts(
    done: clipgap.EvalResult, tmp_path: Path, world: World, subsets: Path
) -> None:
    assert clipgap.verify(done.path).ok
    file = "samples/a/pics.parquet"
    for column, lie, words in (
        ("within_queried", lambda v: 1, "that is no class of it"),
        ("within_other", lambda v: None, "which has all of its class"),
    ):
        out = tmp_path / column
        clipgap.evaluate(out=out, **world.arguments(subsets=f"pics={subsets}", draws=9))
        at = next(i for i, v in enumerate(samples(out, "a")[column]) if v is not None)
        tamper(out, file, column, lambda v, at=at, lie=lie: v.__setitem__(at, lie(v[at])))
        said = failures(clipgap.verify(out))
        assert words in said["samples"]


# --- statistics -------------------------------------------------------------------------------


def table_of(label: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> pa.Table:
    columns = {name: [None] * len(label) for name in samples_schema([]).names}
    return pa.table({**columns, "label": label.astype(np.int32), "correct": right})


def test_intervals_over_classes_hold_as_often_as_they_say() -> None:
    """Classes of very different sizes and accuracies, evaluated again and again; 95 % nominal."""
    random = np.random.default_rng(1)
    sizes, true = np.array([3, 10, 40, 40, 90]), np.array([0.9, 0.2, 0.5, 0.8, 0.99])
    label = np.repeat(np.arange(5), sizes)
    held = pooled = 0
    for _ in range(400):
        share = true[label]
        one = _Right((random.random(len(label)) < share).astype(float), label)
        found = _accuracy(one, "classes")
        held += found["low"] <= true.mean() <= found["high"]
        # Three seeds that agree on an image more often than not.
        same = random.random(len(label)) < share
        seeds = [
            np.where(random.random(len(label)) < 0.7, same, random.random(len(label)) < share)
            for _ in range(3)
        ]
        found = _accuracy(_Right(np.mean(seeds, axis=0), label), "images")
        pooled += found["low"] <= share.mean() <= found["high"]
    assert held >= 365
    assert pooled >= 368


def test_paired_differences_by_drawing_images() -> None:
    random = np.random.default_rng(2)
    label = np.repeat([0, 1, 2], [5, 20, 40])
    first, second = (_Right(random.integers(0, 3, 65) / 2, label) for _ in range(2))
    for over in ("images", "classes"):
        found = _difference(first, second, over, 20_000, seed=0)
        apart, drawn = first.share - second.share, []
        groups = [label == c for c in range(3)] if over == "classes" else [label >= 0]
        for _ in range(4_000):
            means = [random.choice(apart[group], group.sum()).mean() for group in groups]
            drawn.append(np.mean(means))
        assert found.value == pytest.approx(np.mean([apart[group].mean() for group in groups]))
        assert np.quantile(drawn, 0.025) == pytest.approx(found.low, abs=0.03)
        assert np.quantile(drawn, 0.975) == pytest.approx(found.high, abs=0.03)
    again = _difference(first, second, "images", 20_000, seed=0)
    assert again == _difference(first, second, "images", 20_000, seed=0)
    few = [_difference(first, second, "classes", 31, seed) for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]  # 0 is a seed like others


def test_pools_stand_for_their_checkpoints_in_differences() -> None:
    tables = {name: table_of(np.arange(4) % 2, np.arange(4) > 1) for name in "abcdef"}
    pools = {"ab": ["a", "b"], "cd": ["c", "d"], "also b": ["b"]}
    _, paired = subset_tables({"name": "set", "subsets": []}, tables, pools, 10, 0)
    pairs = {(row["first"], row["second"]) for row in paired}
    alone = {("e", "f"), *((single, pool) for single in "ef" for pool in pools)}
    assert pairs == {*alone, ("ab", "cd"), ("cd", "also b")}


def test_a_class_without_images_is_not_averaged() -> None:
    """Each set has its own classes: one that lacks a class in between, beside one that has all."""
    whole = table_of(np.array([0, 0, 1, 2]), np.array([True, False, True, True]))
    lacks = table_of(np.array([0, 0, 2, 2]), np.array([True, False, True, True]))
    for first, second in ((whole, lacks), (lacks, whole)):
        found = []
        for number, table in enumerate((first, second)):
            entry = {"name": f"set{number}", "subsets": []}
            rows, _ = subset_tables(entry, {"a": table, "b": table}, {"p": ["a", "b"]}, 10, 0)
            found.append({r["over"]: r for r in rows if r["checkpoint"] == "p"}["classes"])
        by_set = found if first is whole else found[::-1]
        assert [row["classes"] for row in by_set] == [3, 2]
        assert by_set[0]["accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
        assert by_set[1]["accuracy"] == pytest.approx((0.5 + 1) / 2)


# --- what is refused --------------------------------------------------------------------------

NAMES = Classes.plain(("ant", "giant", "elephant", "plant"), ())
IMAGES = [("ant/0.jpg", 0), ("giant/007.jpg", 1), ("plant/0.jpg", 3)]


def test_a_class_is_named_by_all_of_its_name(tmp_path: Path) -> None:
    file = tmp_path / "subsets.toml"
    file.write_text('[queried]\nclasses = ["ant"]\n[other]\nall_but = "queried"\n')
    queried, other = read_subsets(file, NAMES, IMAGES)
    assert (queried.classes, other.classes) == ((0,), (1, 2, 3))


def test_a_keep_list_is_a_subset_that_is_called_like_it(tmp_path: Path) -> None:
    keys = tmp_path / "clean-set" / "keys"
    keys.mkdir(parents=True)
    pq.write_table(pa.table({"key": [IMAGES[0][0]]}), keys / "00000.parquet")
    (clean,) = read_subsets(keys.parent, NAMES, IMAGES)
    assert clean == Subset("clean-set", (IMAGES[0][1],), frozenset({IMAGES[0][0]}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no subset"),
        ("[a", "is not valid TOML"),
        ("a = 1", "line 1: 'a' cannot be a subset"),
        ("[a]\nwhere = 'x=1'", r"\[a\] needs table"),
        ("[a]\nclasses = ['ant']\nall_but = 'a'", r"\[a\] needs table"),
        ("[a]\nclasses = ['ants']", "line 2: there is no class 'ants'; did you mean 'ant'"),
        ("[a]\nclasses = []", "must be a list of names"),
        ("[a]\nclasses = ['ant']\nwhere = 'x=1'", "line 3: where is said without a table"),
        ("[a]\nclass = ['ant']", "line 2: unknown 'class'; did you mean 'classes'"),
        ("[a]\nall_but = 'b'", "line 2: all_but must name a subset"),
        ("[a]\nclasses = ['elephant']", r"\[a\] has no image of the set"),
        ("[a]\ntable = 'keys.csv'\nwhere = 'd=z'", r"\[a\] has no image of the set"),
        ("[a]\ntable = 'keys.csv'\nwhere = 'd=x'", "1 of 2 keys of keys.csv are of no image"),
        ("[a]\ntable = 'keys.csv'\nwhere = 'd=y'", "more than once, so they name no image"),
        ("[a]\ntable = 'keys.csv'\nwhere = 'e=y'", "has no column 'e'"),
        ("[a]\ntable = 'numbers.parquet'", "the keys are int64, not text"),
        ("[a]\ntable = 'gone.csv'", "cannot read"),
        ("[a]\ntable = 'none.parquet'", "have no key"),
        ("[a]\ntable = 3", "line 2: table must be a path"),
    ],
)
def test_subsets_that_cannot_be(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "keys.csv").write_text(
        "key,d\nant/0.jpg,x\nant/9.jpg,x\ngiant/007.jpg,y\ngiant/007.jpg,w\n"
    )
    pq.write_table(pa.table({"key": [7]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"key": ["ant/0.jpg", None]}), tmp_path / "none.parquet")
    (tmp_path / "subsets.toml").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        read_subsets(tmp_path / "subsets.toml", NAMES, IMAGES)
    assert str(tmp_path) in str(error.value)


def test_a_key_of_several_images_names_none(tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_text("key\n000\n")
    (tmp_path / "subsets.toml").write_text("[a]\ntable = 'keys.csv'\n")
    with pytest.raises(InputError, match="are of several images of the set"):
        read_subsets(tmp_path / "subsets.toml", NAMES, [("000", 0), ("000", 1)])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"pool": "p=a"}, "should be NAME=CHECKPOINT,CHECKPOINT"),
        ({"pool": "p=a,a"}, "each once"),
        ({"pool": "p=a,c"}, "no checkpoint is called 'c'"),
        ({"pool": "a=a,b"}, "'a' is a name already"),
        ({"subsets": "other=x.toml"}, "should be SET=FILE.toml"),
    ],
)
def test_pools_that_cannot_be(world: World, more: Mapping[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        clipgap.evaluate(out=world.root / "never", **world.arguments(**more))


def test_on_the_command_line(
    world: World, subsets: Path, done: clipgap.EvalResult, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["eval", f"a={world.first}", f"b={world.second}", "--data", f"pics={world.folder}"]
    call += ["--model", str(world.config), "--classnames", str(world.names), "--device", "cpu"]
    call += ["--templates", str(world.prompts), "--draws", "500", "-o", str(done.path), "--resume"]
    call += ["--subsets", f"pics={subsets}", "--pool", "both=a,b"]
    assert main(call) == 0
    printed = capsys.readouterr().out
    assert "its own" in printed
    assert "queried" in printed
    assert main([*call, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["subsets"] == done.subsets.to_pylist()
    subsets.write_text(subsets.read_text().replace(CLASSES[2], CLASSES[1]))
    assert main(call) == 3
    assert "subsets queried classes: was [0, 2], is [0, 1]" in capsys.readouterr().err.replace(
        "\n", " "
    )
