"""The frame of the command line, tried with commands of its own: options, config files, output."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from clipgap.__main__ import app
from clipgap.cli import main as entry
from clipgap.cli.config import HEADER
from clipgap.cli.frame import Running, command, output
from clipgap.cli.shell import Shell, jsonable, settings_file
from clipgap.errors import (
    ClipgapError,
    InputError,
    Interrupted,
    MissingDependency,
    ResumeError,
    UsageError,
)
from clipgap.options import REQUIRED, Options, argument, option


@dataclasses.dataclass(frozen=True)
class Group(Options):
    k: int = option(32, "A number.", flags=("-k", "--k"), metavar="K", min=1, max=64)
    above: tuple[float, ...] = option((0.8, 0.9), "Several.", metavar="SIM")
    train_table: bool = option(True, "A switch with an opposite.")
    kind: str = option("near", "One of some.", choices=("near", "far"))
    names: tuple[str, ...] = option((), "Several, and none by default.", metavar="NAME")
    folder: Path | None = option(None, "A path.", metavar="FOLDER", shown="beside it")
    threads: int | None = option(None, "Another number.", metavar="N")


class Toy:
    """An app with one command that notes what it was called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, Any]] = []
        self.error: BaseException | None = None
        app = typer.Typer(rich_markup_mode=None)
        command(app, "toy", "T -o out")(self.body)

        @app.callback()
        def _root() -> None:
            pass

        monkeypatch.setattr(entry, "app", app)

    def body(
        self,
        shell: Shell,
        group: Group,
        running: Running,
        train: str = argument("Where it begins.", metavar="TRAIN"),
        test: tuple[str, ...] = option(REQUIRED, "One or more.", metavar="TEST"),
        out: Path | None = output("TOY"),
    ) -> int | None:
        """A toy."""
        if self.error is not None:
            raise self.error
        self.calls.append(
            {"shell": shell, "train": train, "test": test, "running": running, "out": out}
            | dataclasses.asdict(group)
        )
        if out is not None:
            shell.check_settings_file(out)
            shell.save_settings(out)
        shell.note("a note")
        shell.result({"train": train, "worst": float("inf")}, [f"train is {train}"])
        return 4 if train == "quarantined" else None

    def __call__(self, *arguments: str | Path) -> int:
        return entry.main(["toy", *map(str, arguments)])

    @property
    def last(self) -> dict[str, Any]:
        return self.calls[-1]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Toy:
    monkeypatch.chdir(tmp_path)
    return Toy(monkeypatch)


def test_groups_are_spread_out_and_handed_over_whole(toy: Toy) -> None:
    assert toy("T", "--test", "a=1", "--test", "b=2", "-k", "5", "--above", "0.5", "--resume") == 0
    assert toy.last["train"] == "T"
    assert toy.last["test"] == ("a=1", "b=2")
    assert (toy.last["k"], toy.last["above"], toy.last["threads"]) == (5, (0.5,), None)
    assert toy.last["running"] == Running(resume=True)


def test_config_supplies_options_and_arguments_and_the_command_line_wins(
    toy: Toy, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        'train = "T"\ntest = ["a=1", "b=2"]\nk = 7\nabove = [0.25, 1]\ntrain-table = false\n'
    )
    assert toy("--config", file) == 0
    assert (toy.last["train"], toy.last["test"]) == ("T", ("a=1", "b=2"))
    assert (toy.last["k"], toy.last["above"], toy.last["train_table"]) == (7, (0.25, 1.0), False)
    assert toy("--config", file, "U", "--test", "c=3", "-k", "9", "--train-table") == 0
    assert (toy.last["train"], toy.last["test"]) == ("U", ("c=3",))
    assert (toy.last["k"], toy.last["train_table"]) == (9, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("abov = [1]", r"unknown key 'abov' in .*c\.toml; did you mean 'above'\?"),
        ("zzz = 3", r"unknown key 'zzz' in .*c\.toml; the keys are: .*train-table"),
        ("config = 'x'", r"unknown key 'config'"),
        ("train_table = false", r"unknown key 'train_table'.*'train-table'"),
        ("k = [3]", r"'k' in .*c\.toml must be one number or string"),
        ("k = true", r"'k' in .*c\.toml must be one number or string"),
        ("k = 3.5", r"-k.*int.*set in .*c\.toml"),
        ('k = "many"', r"-k.*int.*set in .*c\.toml"),
        ('test = "a=1"', r"'test' in .*c\.toml must be a list"),
        ("test = [true]", r"'test' in .*c\.toml must be a list"),
        ('train-table = "no"', r"'train-table' in .*c\.toml must be true or false"),
        ("k = ", r"c\.toml is not valid TOML: .*line 1"),
    ],
)
def test_config_mistakes_are_named(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (tmp_path / "c.toml").write_text(text + "\n")
    assert toy("T", "--test", "a=1", "--config", tmp_path / "c.toml") == 2
    captured = capsys.readouterr()
    assert re.search(said, captured.err), captured.err
    assert captured.out == ""
    assert toy.calls == []


def test_a_missing_config_file_is_named(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy("T", "--test", "a=1", "--config", "nowhere.toml") == 2
    assert "nowhere.toml: No such file" in capsys.readouterr().err


def test_resolved_configuration_can_be_fed_back(toy: Toy, tmp_path: Path) -> None:
    odd = 'tab\t "quoted" \\ é \x7f [x]'
    assert toy(odd, "--test", "a=1", "-k", "9", "--no-train-table", "-o", "out", "--resume") == 0
    saved = tmp_path / "out.toml"
    assert saved.read_text().startswith(HEADER)
    first = dict(toy.last, shell=None, running=None)
    text = saved.read_text()
    assert toy("--config", saved) == 0
    assert dict(toy.last, shell=None, running=None) == first
    assert toy.last["running"] == Running(), "how a call was run is no part of its configuration"
    assert saved.read_text() == text


def test_the_resolved_configuration_never_replaces_a_file_of_the_users(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "run.toml"
    mine.write_text('# mine\ntrain = "T"\ntest = ["a=1"]\nout = "run"\n')
    before = mine.read_text()
    assert toy("--config", "run.toml") == 0, "nothing was added, so the file says it all"
    assert mine.read_text() == before
    assert toy("--config", "run.toml", "-k", "5") == 3
    assert "run.toml" in capsys.readouterr().err
    assert toy("T", "--test", "a=1", "-o", "run") == 3
    assert mine.read_text() == before


def test_settings_lie_next_to_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert settings_file(Path("a/b.scan")) == Path("a/b.scan.toml")
    assert settings_file(Path()) == tmp_path / "inner.toml"
    assert settings_file(Path("x/../..")) == tmp_path.with_name(f"{tmp_path.name}.toml")


def test_json_is_all_there_is_on_stdout(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy("T", "--test", "a=1", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"train": "T", "worst": None}
    assert captured.err == "a note\n"


def test_without_json_people_read_lines(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    long = "[red]" + "x" * 300
    assert toy(long, "--test", "a=1", "-q") == 0
    captured = capsys.readouterr()
    assert captured.out == f"train is {long}\n", "neither wrapped nor read as markup"
    assert captured.err == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ClipgapError("that"), 1),
        (UsageError("that"), 2),
        (InputError("that"), 3),
        (ResumeError("that"), 3),
        (OSError(28, "No space left on device", "that"), 3),
        (MissingDependency("that"), 5),
        (Interrupted("that"), 75),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_codes_without_a_traceback(
    toy: Toy, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    toy.error = error
    assert toy("T", "--test", "a=1", "--json") == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("that" in captured.err) == (code != 130)
    assert "Traceback" not in captured.err
    assert toy("T", "--test", "a=1", "-vv") == code
    assert ("Traceback" in capsys.readouterr().err) == (code != 130)


def test_a_bug_shows_its_traceback(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    toy.error = ZeroDivisionError("oh")
    assert toy("T", "--test", "a=1") == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "bug in clipgap" in said


def test_quarantined_rows_show_in_the_exit_code(toy: Toy) -> None:
    assert toy("quarantined", "--test", "a=1") == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["toy"], "TRAIN"),
        (["toy", "T"], "--test"),
        (["toy", "T", "--test", "a", "--nope"], "--nope"),
        (["tyo"], "tyo"),
    ],
)
def test_a_wrong_call_is_explained(
    toy: Toy, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert entry.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert "--help" in error


def test_numpy_values_and_dataclasses_become_json() -> None:
    numpy = pytest.importorskip("numpy")
    found = jsonable({"a": numpy.float32(0.5), "b": (numpy.int64(3), Path("x")), "c": Running()})
    assert json.loads(json.dumps(found)) == {
        "a": 0.5,
        "b": [3, "x"],
        "c": {"dry_run": False, "resume": False, "overwrite": False, "upload": None},
    }


@pytest.mark.parametrize("arguments", ["--help", "--version", "", "scan --help"])
def test_help_imports_only_what_it_shows(arguments: str) -> None:
    """Counted, since times depend on who else is at work."""
    code = (
        "import sys; sys.argv[1:] = sys.argv[1].split()\n"
        "from clipgap.__main__ import run\n"
        "try: run()\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "print('imported', *sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "clipgap" in done.stdout
    imported = done.stdout.splitlines()[-1].split()
    assert not {"numpy", "pyarrow", "torch", "fsspec", "faiss", "rich"}.intersection(imported)
    ours = {name for name in imported if name.startswith("clipgap.")}
    homes = ours.intersection(entry.HOMES.values())
    if arguments.startswith("scan"):
        assert homes == {"clipgap.cli.scan"} and "clipgap.scan.plan" not in ours
    else:
        assert homes == set() and len(ours) < 20, sorted(ours)


def test_the_help_of_all_says_what_each_says_of_itself() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    said = {name: text for names in entry.COMMANDS.values() for name, text in names.items()}
    assert {name: each.get_short_help_str(200) for name, each in commands.items()} == said


def test_scans_and_splits_begin_without_pandas() -> None:
    """Which takes longer to import than all else that they need."""
    code = (
        "import sys, clipgap.scan.api, clipgap.select.splitting, clipgap.shards.api\n"
        "assert not {'pandas', 'pyarrow.dataset', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_products_of_numpy_have_no_more_threads_than_we() -> None:
    code = "import os; from clipgap.__main__ import run\ntry: run()\nfinally: "
    code += "os.write(1, os.environ.get('OPENBLAS_NUM_THREADS', 'none').encode())"

    def threads(**more: str) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.endswith(("_THREADS", "COMPLETE"))}
        call = [sys.executable, "-c", code, "--version"]
        done = subprocess.run(call, env={**kept, **more}, capture_output=True, text=True)
        return done.stdout.splitlines()[-1]

    assert threads(CLIPGAP_THREADS="3") == "3"
    assert threads(CLIPGAP_THREADS="3", OMP_NUM_THREADS="2") == "none", "that is told already"
