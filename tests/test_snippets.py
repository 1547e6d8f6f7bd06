"""Every snippet of README and docs: run as it stands in a small world, or at least parsed.

`<!-- parsed only: what it needs -->` before a block says that it cannot be run here, and
`<!-- not run: COMMANDS: what they need -->` that these of its commands cannot.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

import clipgap
from clipgap.__main__ import app, main
from clipgap.cli.examples import EXAMPLES
from clipgap.cli.main import STUDIES
from clipgap.clip.data.classes import imagenet_ids
from clipgap.select.rules import Far, Prune
from clipgap.study.commands import Command, commands
from clipgap.study.recipe import parse_recipe
from clipgap.study.run import Study
from tests.clip_worlds import pictures, write_folder
from tests.report_worlds import shared_study
from tests.shards import write_shard
from tests.stores import keys_of, unit_rows, write_clip_retrieval

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?:<!-- (.*?) -->\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"""(?:-o |out="|StoreWriter\(")([\w-]+)""")
SMALL = {
    "100_000_000": "1_000",
    "--clusters 50000": "--clusters 50",
    "{00000..01023}": "{00000..00003}",
    "{00000..41407}": "{00000..00003}",
    "{00000..41455}": "{00000..00003}",
    "--num-shards 16": "--num-shards 2",
}
"""Of what the world of the tests has less: rows, clusters, shards."""


@dataclass(frozen=True)
class Snippet:
    """A block of a page."""

    place: str
    language: str
    text: str
    marked: str  # what stands in the comment before it

    @property
    def runs(self) -> bool:
        return not self.marked.startswith(("parsed only:", "file:"))

    @property
    def left_out(self) -> list[str]:
        """Commands that are not run."""
        named = re.match(r"not run: (.*?):", self.marked)
        return named[1].split(", ") if named else []

    @property
    def calls(self) -> list[list[str]]:
        """The words of each call of clipgap."""
        return _calls(self.text)

    @property
    def small(self) -> str:
        """With no more of everything than the world has."""
        text = self.text
        for much, little in SMALL.items():
            text = text.replace(much, little)
        return text


def _calls(text: str) -> list[list[str]]:
    for name, value in re.findall(r"^(\w+)='(.*)'$", text, re.MULTILINE):
        text = text.replace(f"${name}", value)
    lines = text.replace("\\\n", " ").splitlines()
    found = [re.match(r"(?:\$ |srun )?clipgap (.*)", line) for line in lines]
    return [shlex.split(line[1], comments=True) for line in found if line]


def snippets() -> Iterator[Snippet]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        if page.name == "cli.md":  # its synopses are made from the commands
            continue
        text = page.read_text()
        for block in BLOCK.finditer(text):
            line = text[: block.start()].count("\n") + 1
            yield Snippet(f"{page.name}:{line}", block[2], block[3], block[1] or "")


ALL = list(snippets())


def every_command() -> dict[str, Command]:
    """Those of recipes, and those that run them."""
    group = typer.main.get_command(app)
    return {**commands(), **{name: Command(name, group.commands[name]) for name in STUDIES}}


@pytest.mark.parametrize("snippet", [s for s in ALL if s.calls], ids=lambda s: s.place)
def test_every_call_is_one_that_the_command_line_takes(snippet: Snippet) -> None:
    known = every_command()
    for words in snippet.calls:
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        known[name].check(words[len(name.split()) :])


STUBS = {
    "clipgap": 'printf "%s\\0" "$@" END >>calls; [ "$1" != slurm ] || echo "{\\"jobs\\": [7, 8]}"',
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
    # What only a head takes is refused by all other nodes.
    "ray": 'while [ "$1" != -- ]; do case $1 in --*dashboard*) exit 2; esac; shift; done; '
    'shift; exec "$@"',
    "sbatch": 'for last; do :; done; eval "${last#--wrap=}"',
    "scontrol": '[ "$2" = node ] && echo " NodeAddr=10.0.0.1 " || printf "n1\\nn2\\n"',
}
"""In place of programs: what a script has them do is noted, or done at once."""


def write_program(path: Path, does: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{does}\n")
    path.chmod(0o755)


@pytest.fixture
def calls_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """What a script of recipes/cluster has clipgap do."""
    for name, does in STUBS.items():
        write_program(tmp_path / name, does)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def calls(script: str, **told: str) -> list[list[str]]:
        here = {**os.environ, "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", **told}
        path = ROOT / "recipes/cluster" / script
        subprocess.run(["bash", str(path)], cwd=tmp_path, env=here, check=True)
        words = (tmp_path / "calls").read_text().removesuffix("\0END\0").split("\0END\0")
        return [call.split("\0") for call in words]

    return calls


@pytest.mark.parametrize("script", ["one-node.sh", "slurm.sh", "ray.sbatch"])
def test_scripts_for_clusters_call_what_there_is(
    calls_of: Callable[..., list[list[str]]], script: str
) -> None:
    calls, known = calls_of(script), every_command()
    for name, *rest in calls:
        if name == "slurm":
            inner = rest.index("scan")
            known["slurm"].check(rest)
            known["scan"].check(rest[inner + 1 :])
        else:
            known[name].check(rest)
    made = [name if name != "slurm" else "scan" for name, *_ in calls]
    assert [name for name in made if name in ("gap", "scan", "verify")] == ["gap", "scan", "verify"]


def test_a_script_makes_its_tables(
    calls_of: Callable[..., list[list[str]]], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"SETS": "val=val.npy sketch=sketch.npy", "ON": "2cores"}
    monkeypatch.chdir(world)
    for made in ("gap", "scan", "pruned", "report"):
        shutil.rmtree(made, ignore_errors=True)
    for call in calls_of("one-node.sh", **told):
        assert main(call) == 0, call
    assert (world / "report/index.html").is_file() and (world / "pruned/manifest.json").is_file()


def test_every_help_ends_with_an_example_that_parses() -> None:
    known = every_command()
    assert known.keys() == EXAMPLES.keys()
    for name, call in EXAMPLES.items():
        words = shlex.split(call)
        assert " ".join(words[: len(name.split())]) == name
        known[name].check(words[len(name.split()) :])


@pytest.mark.parametrize(
    "snippet", [s for s in ALL if s.language == "python"], ids=lambda s: s.place
)
def test_every_piece_of_python_is_python(snippet: Snippet) -> None:
    compile(snippet.text, snippet.place, "exec")
    # Names that it takes from us are there, also where it cannot be run.
    for line in snippet.text.splitlines():
        if re.match(r"(from|import) clipgap", line):
            exec(line, {})
    for name in re.findall(r"\bclipgap\.(\w+)\(", snippet.text):
        assert hasattr(clipgap, name), name


def test_the_recipe_of_the_page_is_one(tmp_path: Path) -> None:
    text = next(s.text for s in ALL if s.place.startswith("recipes.md") and s.language == "toml")
    assert "report" in Study(parse_recipe(text, tmp_path / "recipe.toml"), tmp_path).stages


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages call by name, in small."""
    folder = tmp_path_factory.mktemp("world")
    sizes = (1_200, 1_200, 1_200, 2_000)
    write_clip_retrieval(folder / "laion400m", sizes)
    for number, rows in enumerate(sizes):
        write_shard(folder / "laion" / f"{number:05d}.tar", keys_of(number, rows))
    (folder / "shards").symlink_to(folder / "laion")
    write_clip_retrieval(folder / "imagenet-train", (300,))
    for seed, name in enumerate(("val", "sketch")):
        np.save(folder / f"{name}.npy", unit_rows(20, 100 + seed))
    for name, rows in (("data/train-0", 40), ("val", 10)):
        (folder / name).parent.mkdir(exist_ok=True)
        columns = {"id": [f"{name}-{row}" for row in range(rows)]}
        columns["embedding"] = unit_rows(rows, rows).astype(np.float32).tolist()
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    # For `check` a store will do as well, and need no weights.
    (folder / "train").symlink_to(folder / "imagenet-train")
    (folder / "val").mkdir()
    (folder / "val" / "val.npy").symlink_to(folder / "val.npy")
    write_folder(folder / "photos", pictures(4))
    for name in imagenet_ids():
        (folder / "imagenet" / "train" / name).mkdir(parents=True)
        (folder / "imagenet" / "train" / name / "1.jpg").write_bytes(b"an image")
    tests = {name: folder / f"{name}.npy" for name in ("val", "sketch")}
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    clipgap.gap(folder / "imagenet-train", tests, out=folder / "gap")
    scan = clipgap.scan(folder / "laion400m", tests, gap=folder / "gap", out=folder / "scan")
    clipgap.split(scan, Prune(("val", "sketch")), out=folder / "pruned")
    clipgap.split(scan, Far(100, ("val",)), out=folder / "far-100m")
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for the page of the report: with evaluations and images."""
    folder, made = tmp_path_factory.mktemp("study"), shared_study(tmp_path_factory).folder
    for name, there in {
        **{name: name for name in ("scan", "gap", "eval")},
        **{f"pruned-{name}": f"{name}-pruned" for name in ("val", "sketch")},
        "laion/shards": "images/web",
        "imagenet/shards": "images/curated",
        **{f"{name}/shards": f"images/{name}" for name in ("val", "sketch")},
        "table1.toml": "paper.toml",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(made / there)
    return folder


RUN = [s for s in ALL if s.runs and (s.calls or s.language == "python")]


@pytest.mark.parametrize("snippet", RUN, ids=lambda s: s.place)
def test_what_is_not_marked_runs(
    request: pytest.FixtureRequest,
    snippet: Snippet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_report = snippet.place.startswith("report.md")
    inputs: Path = request.getfixturevalue("study" if of_report else "world")
    for path in inputs.iterdir():
        if path.name not in OUTPUT.findall(snippet.text):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    if snippet.language == "python":
        exec(compile(snippet.small, snippet.place, "exec"), {})
    if any(words[0] == "slurm" for words in snippet.calls):
        write_program(tmp_path / "bin/sbatch", "echo 7")
        write_program(tmp_path / "bin/scontrol", "echo MaxArraySize = 1001")
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    for words in _calls(snippet.small):
        if words[0] not in snippet.left_out:
            assert main(words) == 0, words


def test_every_mark_says_why() -> None:
    marked = [s for s in ALL if s.marked and not s.marked.startswith("file:")]
    for snippet in marked:
        assert re.match(r"parsed only: \w|not run: [\w ,]+: \w", snippet.marked), snippet.place
        assert {*snippet.left_out} <= {words[0] for words in snippet.calls}, snippet.place
