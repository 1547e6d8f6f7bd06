"""Studies: what a recipe may say, in which order it runs, and what is done again and what not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from clipgap.__main__ import main
from clipgap.errors import ClipgapError, InputError, UsageError
from clipgap.files.toml import Lines
from clipgap.keep.lists import open_keep
from clipgap.study import run as study_run
from clipgap.study.ledger import fingerprint
from clipgap.study.process import Stages, start_stages
from clipgap.study.recipe import Recipe, read_recipe, shipped_recipes
from clipgap.study.run import Study, run_study
from tests.worlds import make_world, tree

RECIPE = """\
[study]
title = "Small"
show = ["all-pruned"]

[paths]
train = { about = "the training store" }
reference = { about = "the reference", default = "world/reference.npy" }
a = { about = "a test set", default = "world/a.npy" }
b = { about = "a test set", default = "world/b.2-x.npy" }

[values]
n = 20

[lists]
set = ["a", "b"]

[stages.scan]
command = "scan"
train = "{train}"
test = ["$set={$set}"]
gap = "{gap}"
k = 3

[stages.gap]
command = "gap"
ref = "{reference}"
test = ["$set={$set}"]

[stages."$set-pruned"]
command = "split"
source = ["{scan}"]
prune = ["$set"]

[stages.all-pruned]
command = "split"
source = ["{scan}"]
prune = [
  "$set",
]

[stages.rand]
command = "split"
source = ["{scan}"]
rand = "{all-pruned#kept}"

[stages.far]
command = "split"
source = ["{scan}"]
far = "{n}"
by = ["$set"]

[stages.proof]
command = "verify"
path = "{all-pruned}"
"""
ALL = {"scan", "gap", "a-pruned", "b-pruned", "all-pruned", "rand", "far", "proof"}


@pytest.fixture(scope="module")
def _stages() -> Iterator[Stages]:
    with start_stages() as stages:
        yield stages


@pytest.fixture(scope="module")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture
def recipe(_home: Path, _stages: Stages, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its stages are forked from a process that has forked those of other tests."""
    monkeypatch.setattr(study_run, "start_stages", lambda: nullcontext(_stages))
    here = _home / "here"
    shutil.rmtree(here, ignore_errors=True)
    make_world(here / "world")
    (here / "recipe.toml").write_text(RECIPE)
    return here / "recipe.toml"


@pytest.fixture
def studied(recipe: Path, _home: Path) -> Path:
    """A recipe whose study is whole. It is run for the first test that asks, and copied for others:
    to the same place, since records hold paths."""
    whole = _home / "whole"
    if not whole.exists():
        run(recipe)
        shutil.copytree(recipe.parent, whole)
    shutil.rmtree(recipe.parent)
    shutil.copytree(whole, recipe.parent)
    return recipe


def run(recipe: Path, **how: object) -> set[str]:
    """The names of the stages that ran."""
    result = run_study(
        recipe,
        recipe.parent / "out",
        settings={"train": str(recipe.parent / "world" / "train"), **how.pop("settings", {})},  # type: ignore[dict-item]
        **how,  # type: ignore[arg-type]
    )
    return {outcome.name for outcome in result.ran}


def test_a_study_runs_once_and_then_only_what_changed(recipe: Path) -> None:
    out = recipe.parent / "out"
    assert run(recipe) == ALL
    before = tree(out)
    assert run(recipe) == set()
    assert tree(out) == before

    kept = {name: open_keep(out / name).manifest["counts"]["kept"] for name in ("rand", "far")}
    assert kept["rand"] == open_keep(out / "all-pruned").manifest["counts"]["kept"]
    assert kept["far"] == 20

    # An option of one stage; then an input that all but the reference scan follow from.
    assert run(recipe, settings={"n": "25"}) == {"far"}
    world = recipe.parent / "world"
    shard = world / "train" / "img_emb" / "img_emb_4.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert run(recipe, settings={"n": "25"}) == ALL - {"gap"}

    # Another k makes other tables of the scan, but a reference scan knows nothing of it.
    recipe.write_text(RECIPE.replace("k = 3", "k = 4"))
    assert run(recipe, settings={"n": "25"}) == ALL - {"gap"}


def test_an_input_that_only_looks_changed_costs_its_stage_alone(studied: Path) -> None:
    os.utime(studied.parent / "world" / "reference.npy", ns=(1, 1))
    assert run(studied) == {"gap"}


def test_an_input_of_equal_size_and_time_is_told_apart_by_its_content(studied: Path) -> None:
    reference = studied.parent / "world" / "reference.npy"
    content, times = bytearray(reference.read_bytes()), reference.stat()
    content[-1] ^= 1
    reference.write_bytes(content)
    os.utime(reference, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "gap" in run(studied)


def test_a_manifest_that_is_not_ours_stands_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "something else"}')
    (tmp_path / "rows.npy").write_bytes(b"1")
    before = fingerprint(str(tmp_path))
    (tmp_path / "rows.npy").write_bytes(b"22")
    assert fingerprint(str(tmp_path)) != before


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record["wanted"].pop("inputs"),
        lambda record: record["wanted"].update(inputs=[1]),
        lambda record: record["wanted"].update(options=None),
        lambda record: record["wanted"]["options"].update(test=7),
        lambda record: record.update(seconds="long"),
        lambda record: record.update(output={}),
    ],
)
def test_an_edited_record_is_none(studied: Path, edit: Callable[[Any], None]) -> None:
    path = studied.parent / "out" / ".study" / "gap.json"
    record = json.loads(path.read_bytes())
    edit(record)
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="gap is there, but not from this study"):
        run(studied)


def test_a_damaged_or_missing_output_is_mended(studied: Path) -> None:
    out = studied.parent / "out"
    before = tree(out / "far")
    part = next((out / "far" / "keep").iterdir())
    part.write_bytes(part.read_bytes()[:-1])
    assert run(studied) == {"far"}
    assert tree(out / "far") == before
    (out / "scan" / "hist.parquet").unlink()
    assert run(studied) == {"scan"}


def test_a_stage_that_failed_or_was_cut_short_is_taken_up(recipe: Path) -> None:
    world = recipe.parent / "world"
    shard = world / "train" / "img_emb" / "img_emb_2.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-3])
    with pytest.raises(ClipgapError, match=r"stage scan \(.*recipe.toml:17\) ended with exit") as e:
        run(recipe)
    assert e.value.exit_code == 3
    shard.write_bytes(content)
    assert run(recipe) == ALL - {"gap"}
    record = recipe.parent / "out" / ".study" / "far.json"
    document = json.loads(record.read_text())
    record.write_text(json.dumps({"wanted": document["wanted"]}))  # begun, and then killed
    assert run(recipe) == {"far"}


def test_only_and_from(recipe: Path) -> None:
    with pytest.raises(InputError, match="reads gap, which must run first"):
        run(recipe, only=["scan"])
    assert run(recipe, only=["gap"]) == {"gap"}
    assert run(recipe) == ALL - {"gap"}
    assert run(recipe, only=["far"]) == {"far"}
    assert run(recipe, again_from=["all-pruned"]) >= {"all-pruned"}
    with pytest.raises(UsageError, match="did you mean 'far'"):
        run(recipe, only=["fra"])
    with pytest.raises(UsageError, match="either"):
        run(recipe, only=["far"], again_from=["gap"])


def test_what_took_long_is_not_replaced_unasked(studied: Path) -> None:
    record = studied.parent / "out" / ".study" / "far.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "seconds": 601.0}))
    with pytest.raises(InputError, match=r"far: far was 20, is 30. Its output took 601 s"):
        run(studied, settings={"n": "30"})
    assert run(studied) == set()
    assert run(studied, settings={"n": "30"}, overwrite=True) == {"far"}


def test_what_a_stage_says_is_not_written_through_a_link(studied: Path) -> None:
    precious, said = studied.parent / "precious", studied.parent / "out" / ".study" / "far.txt"
    precious.write_text("mine")
    said.unlink()
    said.symlink_to(precious)
    with pytest.raises(InputError, match=r"far\.txt is a link to"):
        run(studied, again_from=["far"])
    assert precious.read_text() == "mine"


def test_what_is_not_of_the_study_stays(recipe: Path) -> None:
    out = recipe.parent / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no study"):
        run(recipe)
    (out / "notes.txt").unlink()
    (out / ".study").mkdir()
    (out / "gap").mkdir()
    (out / "gap" / "precious").write_text("mine")
    with pytest.raises(InputError, match="not from this study"):
        run(recipe)
    assert (out / "gap" / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('k = 3', 'kk = 3', 22, "has no 'kk'; did you mean 'k'"),
        ('k = 3', 'k = "many"', 22, "should be a valid integer"),
        ('k = 3', "k = [3]", 22, "one number or string"),
        ('k = 3', 'out = "x"', 22, "for `clipgap run` to give"),
        ('k = 3', 'above = ["{train#kept}"]', 22, "'train' is no stage"),
        ('command = "gap"', 'command = "gab"', 25, "no command 'gab'; did you mean 'gap'"),
        ('gap = "{gap}"', 'gap = "{gapp}"', 21, "no stage, path or value; did you mean 'gap'"),
        ('ref = "{reference}"', 'ref = "{scan}"', None, "go in a circle: scan → gap → scan"),
        ('ref = "{reference}"', 'ref = "$set"', 26, "stands for several values"),
        ('ref = "{reference}"', 'ref = "{gap}"', 24, "its own output"),
        ('ref = "{reference}"', "", 24, "REF"),
        ('"$set={$set}"]\ngap', '"$sett={$set}"]\ngap', 20, "did you mean 'set'"),
        ("[stages.far]", "[stages.a-pruned]", None, "'a-pruned' is given twice"),
        ("[values]\nn", "[values]\ntrain", 12, "'train' is given twice"),
        ("[values]", "[valuse]", 11, "unknown key 'valuse'; did you mean 'values'"),
        ("title =", "titel =", 2, "did you mean 'title'"),
        ("n = 20", "n = [20]", 12, "must be a number"),
        ('set = ["a", "b"]', "set = []", 15, "must be a list"),
        ('"the training store"', '""', 6, "lacks `about`"),
        ('show = ["all-pruned"]', 'show = ["al-pruned"]', 3, "no such stage"),
        ("[study]", "[study", None, "not valid TOML"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_line(
    recipe: Path, old: str, new: str, line: int | None, said: str
) -> None:
    assert RECIPE.count(old) >= 1
    recipe.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises((InputError, UsageError)) as caught:
        Study(recipe, recipe.parent / "out")
    assert said in str(caught.value)
    if line is not None:
        assert f"recipe.toml:{line}: " in str(caught.value)
    assert not (recipe.parent / "out").exists()


def test_missing_data_is_named_all_at_once(recipe: Path) -> None:
    (recipe.parent / "world" / "a.npy").unlink()
    with pytest.raises(InputError) as caught:
        run_study(recipe, recipe.parent / "out")
    assert "recipe.toml:6): the training store. Say where it is: --set train=PATH" in str(
        caught.value
    )
    assert "a.npy does not exist" in str(caught.value)
    with pytest.raises(InputError, match="did you mean 'train'"):
        run_study(recipe, settings={"trian": "x"})


def test_lines_are_those_of_the_keys() -> None:
    text = '''\
# a = 1
[first]
a = """
b = 2
"""
b = [
  "c = 3",
]
c."d e" = { f = 1 }

["se[cond"."x = y"]  # [third]
g = 'h = "1"'
'''
    lines = Lines(text)
    assert [lines.of("first", *path) for path in (("a",), ("b",), ("c", "d e"))] == [3, 6, 9]
    assert lines.of("se[cond", "x = y", "g") == 12
    assert lines.of("se[cond", "x = y", "none") == 11


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_fit_the_command_line(name: str, tmp_path: Path) -> None:
    study = Study(name, tmp_path / "out")
    plan = study.plan()
    assert plan.to_run == list(study.stages)
    needs = {path for path, place in study.recipe.paths.items() if not place.where}
    assert all(any(line.startswith(f"{path} (") for line in plan.missing) for path in needs)
    assert not (tmp_path / "out").exists()
    assert_order(study.recipe, study)


def assert_order(recipe: Recipe, study: Study) -> None:
    seen: set[str] = set()
    for name, stage in study.stages.items():
        assert seen.issuperset(stage.after)
        seen.add(name)
    assert seen.issuperset(recipe.show)


def test_figures_are_files_that_the_report_reads() -> None:
    from clipgap.report.paper import read_paper

    folder = next(iter(shipped_recipes().values())).parent / "figures"
    table = read_paper(folder / "table1.toml")
    pruned = table.rows["imagenet-sketch-pruned"]
    assert (pruned["removed"], pruned["accuracy"]["imagenet-sketch"]) == (8_342_783, 44.78)
    for name in ("table3", "table4", "table5", "waterbirds", "celeba"):
        assert read_paper(folder / f"{name}.toml").title


def test_the_command(recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    world = recipe.parent / "world"
    call = ["run", str(recipe), "--set", f"train={world / 'train'}", "-o", str(world / "out")]
    assert main([*call, "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert "▶ gap: to run: not made yet" in said
    assert "| Would gap, reading each training row once:" in said
    assert not (world / "out").exists()
    assert main(call) == 0
    said = capfd.readouterr()
    assert "[1/8] gap: not made yet" in said.err
    assert "8 stages in" in said.out
    assert f"Keep-list: {world / 'out' / 'all-pruned'}" in said.out
    assert main(call) == 0
    assert "Nothing to do: all 8 stages" in capfd.readouterr().out
    assert main([*call, "--json", "--from", "far"]) == 0
    assert [one["name"] for one in json.loads(capfd.readouterr().out)["ran"]] == ["far"]
    assert main(["run", "no-such-recipe"]) == 3
    assert main([*call, "--set", "n"]) == 2


def test_folders_of_links_are_stages(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = ["img_filename,y,place"]
    birds = tmp_path / "birds"
    birds.mkdir()
    for number in range(4):
        (birds / f"{number}.jpg").write_bytes(b"x")
        lines.append(f"{number}.jpg,{number % 2},{number // 2}")
    (birds / "metadata.csv").write_text("\n".join(lines))
    file = tmp_path / "links.toml"
    file.write_text(
        '[study]\ntitle = "Links"\n[paths]\nbirds = { about = "Waterbirds" }\n'
        '[stages.worst]\ncommand = "data link"\nname = "waterbirds"\npath = "{birds}"\n'
        'where = ["y=0,place=1", "y=1,place=0"]\n'
    )

    def study() -> Study:
        return Study(file, tmp_path / "out", {"birds": str(birds)})

    (step,) = study().plan(costs=True).steps
    assert step.call.startswith("clipgap data link waterbirds ")
    assert "2 links" in study().plan(costs=True).costs["worst"]
    assert [one.name for one in study().run().ran] == ["worst"]
    links = tmp_path / "out" / "worst"
    assert sorted(file.name for file in links.iterdir()) == ["1.jpg", "2.jpg", "manifest.json"]
    assert study().run().ran == ()
    (links / "1.jpg").unlink()
    assert [one.name for one in study().run().ran] == ["worst"]
    assert sorted(file.name for file in links.iterdir()) == ["1.jpg", "2.jpg", "manifest.json"]
    (birds / "2.jpg").unlink()
    cost = study().plan(costs=True).costs["worst"]
    assert "1 of the images that are meant are missing" in cost
    capfd.readouterr()


def test_a_folder_that_is_called_like_a_recipe_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()  # as `clipgap demo -o demo` makes it
    monkeypatch.chdir(tmp_path)
    assert Study("demo", tmp_path / "demo").stages


def test_a_recipe_is_found_by_name_or_path() -> None:
    file = shipped_recipes()["demo"]
    assert read_recipe(file).name == "demo"
    assert Study("demo").folder == Path("clipgap-demo")
    assert Study(file).stages.keys() == Study("demo").stages.keys()
