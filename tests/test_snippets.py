"""Every snippet of README and docs: run as it stands in a small world, or at least parsed.

`<!-- parsed only: what it needs -->` before a block says that it cannot be run here.
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
import pytest
import typer

import clipgap
from clipgap.__main__ import app, main
from clipgap.cli.examples import EXAMPLES
from clipgap.cli.main import STUDIES
from clipgap.select.rules import Far, Prune
from clipgap.study.commands import Command, commands
from clipgap.study.recipe import parse_recipe
from clipgap.study.run import Study
from tests.stores import unit_rows, write_clip_retrieval

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?:<!-- (.*?) -->\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r'(?:-o |out=")([\w-]+)')


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
    def calls(self) -> list[list[str]]:
        """The words of each call of clipgap."""
        lines = self.text.replace("\\\n", " ").splitlines()
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


@pytest.mark.parametrize("snippet", [s for s in ALL if s.calls], ids=lambda s: s.place)
def test_every_call_is_one_that_the_command_line_takes(snippet: Snippet) -> None:
    known, group = commands(), typer.main.get_command(app)
    for words in snippet.calls:
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        command = Command(name, group.commands[name]) if name in STUDIES else known[name]
        command.check(words[len(name.split()) :])


STUBS = {
    "clipgap": 'printf "%s\\0" "$@" END >>calls; [ "$1" != slurm ] || echo "{\\"jobs\\": [7, 8]}"',
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
    "ray": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "sbatch": 'for last; do :; done; eval "${last#--wrap=}"',
    "scontrol": '[ "$2" = node ] && echo " NodeAddr=10.0.0.1 " || printf "n1\\nn2\\n"',
}
"""In place of programs: what a script has them do is noted, or done at once."""


@pytest.fixture
def calls_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """What a script of recipes/cluster has clipgap do."""
    for name, does in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
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
    calls, known = calls_of(script), commands()
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
    group = typer.main.get_command(app)
    studies = {name: Command(name, group.commands[name]) for name in STUDIES}
    known = {**commands(), **studies}
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
    write_clip_retrieval(folder / "laion400m", (1_200, 1_200, 1_200, 2_000))
    write_clip_retrieval(folder / "imagenet-train", (300,))
    for seed, name in enumerate(("val", "sketch")):
        np.save(folder / f"{name}.npy", unit_rows(20, 100 + seed))
    tests = {name: folder / f"{name}.npy" for name in ("val", "sketch")}
    clipgap.gap(folder / "imagenet-train", tests, out=folder / "gap")
    scan = clipgap.scan(folder / "laion400m", tests, gap=folder / "gap", out=folder / "scan")
    clipgap.split(scan, Prune(("val", "sketch")), out=folder / "pruned")
    clipgap.split(scan, Far(100, ("val",)), out=folder / "far-100m")
    return folder


RUN = [s for s in ALL if s.runs and (s.calls or s.language == "python")]


@pytest.mark.parametrize("snippet", RUN, ids=lambda s: s.place)
def test_what_is_not_marked_runs(
    world: Path, snippet: Snippet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    for made in OUTPUT.findall(snippet.text):
        shutil.rmtree(made, ignore_errors=True)
    if snippet.language == "python":
        exec(compile(snippet.text, snippet.place, "exec"), {})
    for words in snippet.calls:
        assert main(words) == 0, words


def test_most_of_python_runs_and_every_mark_says_why() -> None:
    marked = [s for s in ALL if s.marked and s.marked.startswith("parsed only")]
    assert all(len(s.marked) > len("parsed only: ") for s in marked)
    assert {s.place.partition(":")[0] for s in RUN} >= {"README.md", "splits.md", "formats.md"}
