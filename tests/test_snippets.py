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

import pytest
import typer

import clipgap
from clipgap.__main__ import app, main
from clipgap.cli.frame import EXAMPLE
from clipgap.cli.main import STUDIES
from clipgap.clip.train import driver
from clipgap.study.commands import Command, commands
from clipgap.study.recipe import parse_recipe
from clipgap.study.run import Study
from tests.report_worlds import shared_study
from tests.snippet_worlds import MODEL, make_world
from tests.train_worlds import launch_here

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?:<!-- (.*?) -->\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"""(?:-o |--logs |out="|logs="|StoreWriter\(")([\w-]+)""")
TINY = "tiny-clip.json"
OWN = "--classnames names.txt --templates prompts.txt"
SMALL = {
    "100_000_000": "40",
    "1000, 2000": "10, 20",
    "far=1000": "far=40",
    "44_000_000": "12",
    "13_000_000": "6",
    "16_000_000": "8",
    "--clusters 50000": "--clusters 5",
    "{00000..01023}": "{00000..00003}",
    "{00000..41407}": "{00000..00003}",
    "{00000..41455}": "{00000..00003}",
    "{00000..00127}": "{00000..00003}",
    "val/{000..009}": "laion/{00000..00000}",
    "--num-shards 16": "--num-shards 2",
    "--epochs 32 --batch-size 4200": "--epochs 1 --batch-size 16",
    "--epochs 90 --batch-size 256": "--epochs 1 --batch-size 4",
    "--recipe vit-b-32-paper": f"--model {TINY} --epochs 1 --batch-size 16",
    "--train-data laion --logs": "--train-data laion --epochs 1 --batch-size 16 --logs",
    "epoch_32": "epoch_1",
    "imagenet/train --keep keep": "photos --keep photos-kept",
    "--model ViT-B-16-plus-240 --pretrained laion400m_e32": f"--model {TINY} --pretrained tiny.pt",
    "--domain rendition": "--domain rendition --sample 9",
    "--precision amp": "--precision fp32",
    "--model RN50": f"--model {TINY}",
    "--neurons 50": "--neurons 2",
    "--model ViT-B-32 --data": f"--model {TINY} {OWN} --data",
    "--model ViT-B-32": f"--model {TINY}",
    "/data/": "data/",
    "--data imagenet-val=": "--data photos=",
    "--subsets imagenet-val=": "--subsets photos=",
    "--data imagenet-sketch=": "--data drawings=",
    "imagenet-a=data/imagenet-a": "hard=data/hard",
    '"imagenet-a")': '"hard")',
    "domains fit labelled": f"domains fit labelled --model {MODEL}",
    "domains label laion400m": f"domains label laion400m --model {MODEL}",
    "domains label val ": f"domains label photos-store --model {MODEL} ",
    'name="run", model="ViT-B-32"': f'name="run", model="{TINY}", epochs=1, batch_size=16',
    'model="ViT-B-32"': f'model="{TINY}", classnames="names.txt", templates="prompts.txt"',
}
"""Of what the world of the tests has less, or other: rows, clusters, shards, models, classes."""


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
    for name, known in every_command().items():
        shown = known._declared.epilog.removeprefix(EXAMPLE).replace("\\\n", "")
        words = shlex.split(shown)
        assert " ".join(words).startswith(f"clipgap {name}")
        known.check(words[1 + len(name.split()) :])


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
    folder = make_world(tmp_path_factory.mktemp("world"))
    for name, page in {"mixes": "mixes.md", "clean": "domains.md"}.items():
        shown = (s for s in ALL if s.place.startswith(page) and s.language == "toml")
        (folder / f"{name}.toml").write_text(next(shown).small)
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
    monkeypatch.setattr(driver, "launch", launch_here)
    if snippet.language == "python":
        exec(compile(snippet.small, snippet.place, "exec"), {})
    if any(words[0] == "slurm" for words in snippet.calls):
        write_program(tmp_path / "bin/sbatch", "echo 7")
        write_program(tmp_path / "bin/scontrol", "echo MaxArraySize = 1001")
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    for words in _calls(snippet.small):
        assert main(words) == 0, words


def test_every_mark_says_why() -> None:
    marked = [s for s in ALL if s.marked and not s.marked.startswith("file:")]
    for snippet in marked:
        assert re.match(r"parsed only: \w", snippet.marked), snippet.place
