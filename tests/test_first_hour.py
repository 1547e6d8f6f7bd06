"""What a new user meets first: something is missing, a name is mistyped, a shell expands."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipgap
from clipgap import doctor, packages
from clipgap.__main__ import main
from clipgap.clip import models
from clipgap.errors import InputError, MissingDependency, UsageError
from clipgap.kernels import choose
from clipgap.kernels.choose import KernelInfo
from clipgap.runs.how import Progress
from clipgap.study.run import Study
from clipgap.synthetic.rows import clip_like
from tests.clip_worlds import render

ROOT = Path(__file__).parents[1]


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets some packages be missing, as far as anybody asks for them."""

    def lack(*modules: str) -> None:
        def find(name: str) -> ModuleSpec | None:
            return None if name in modules else ModuleSpec(name, None)

        monkeypatch.setattr(packages, "find_spec", find)

    return lack


# --- packages


def test_a_command_says_what_it_lacks_before_it_begins(
    lacking: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking("torch", "open_clip", "PIL")
    out = tmp_path / "out"
    assert main(["render", "shapes", "-o", str(out)]) == 5
    said = capsys.readouterr().err
    assert f"render: not installed, and needed: pillow. pip install '{ROOT}[train]'" in said
    assert main(["embed", str(tmp_path), "--model", "x", "--pretrained", "", "-o", str(out)]) == 5
    said = capsys.readouterr().err
    assert "torch, open_clip_torch, pillow" in said and "bug" not in said
    assert not out.exists()


def test_a_study_says_so_before_its_first_stage(lacking: Any, tmp_path: Path) -> None:
    lacking("open_clip")
    with pytest.raises(MissingDependency, match=r"train, embed, eval: .*open_clip_torch"):
        Study("demo", tmp_path / "demo").run()
    assert not (tmp_path / "demo").exists()


def test_an_import_that_fails_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr(doctor, "examine", fail)
    assert main(["doctor"]) == 5
    said = capsys.readouterr().err
    assert "scikit-learn is not installed" in said and "pip install scikit-learn" in said
    assert "bug" not in said


def test_a_report_needs_no_torch(tmp_path: Path) -> None:
    """Which the extra that brings the report does not bring."""
    rows = np.eye(3, dtype=np.float16)
    clipgap.scan(rows, {"val": rows}, out=tmp_path / "scan")
    without = "import sys; sys.modules['torch'] = None; from clipgap.__main__ import main"
    call = ["report", "--scan", str(tmp_path / "scan"), "-o", str(tmp_path / "report")]
    code = f"{without}; sys.exit(main({call}))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, "torch" in ended.stderr) == (0, False), ended.stderr
    assert (tmp_path / "report" / "index.html").is_file()


def test_how_to_install_is_right_wherever_clipgap_came_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert packages.installation("train") == f"pip install '{ROOT}[train]'"
    installed = tmp_path / "site-packages" / "clipgap" / "packages.py"
    monkeypatch.setattr(packages, "__file__", str(installed))

    class Installed:
        origin: str | None = None

        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return self.origin

    there = Installed()
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: there)
    assert packages.installation("train") == "pip install 'clipgap[train]'"
    there.origin = '{"url": "file:///home/me/clip%20gap", "dir_info": {}}'
    assert packages.installation("train") == "pip install '/home/me/clip gap[train]'"
    there.origin = '{"url": "https://example.org/clipgap.whl"}'
    assert packages.installation("train") == "pip install 'clipgap[train]'"

    def unknown(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", unknown)
    assert packages.installation("train") == "pip install 'clipgap[train]'"


def test_the_table_is_that_of_the_project_and_doctor_names_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for package in packages.PACKAGES:
        assert package.name in project or package.name == "timm", package.name
    monkeypatch.setattr(doctor, "versions", lambda *names: {})
    missing = {one.what for one in doctor.examine().missing}
    assert missing == {package.name for package in packages.PACKAGES}
    assert {"open_clip_torch", "torchvision", "webdataset", "jinja2", "matplotlib"} <= missing


# --- nothing is made before everything named is known


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        ("ViT-B-23", "openai", "did you mean ViT-B-32"),
        ("ViT-B-23", None, "did you mean ViT-B-32"),
        ("ViT-B-32", "openay", "open_clip has for ViT-B-32 no weights 'openay'"),
        ("timm:resnet18x", "", "timm has no model 'resnet18x'"),
        ("torchvision:resnet19", "", "torchvision has no model 'resnet19'"),
    ],
)
def test_a_typo_in_the_model_leaves_nothing_behind(
    tmp_path: Path, model: str, weights: str | None, words: str
) -> None:
    images, out = tmp_path / "images", tmp_path / "store"
    images.mkdir()
    render(0, 0).save(images / "a.png")
    with pytest.raises(UsageError, match=words):
        clipgap.embed(images, model, weights, out=out, device="cpu")
    assert not out.exists()


def test_a_failed_download_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "store"
    images.mkdir()
    render(0, 0).save(images / "a.png")

    def unreachable(*_: object) -> None:
        raise InputError("ViT-B-32: cannot be made: no network")

    monkeypatch.setattr(models, "make", unreachable)
    with pytest.raises(InputError, match="no network"):
        clipgap.embed(images, "ViT-B-32", "openai", out=out, device="cpu")
    assert not out.exists()


@pytest.mark.parametrize("place", ["s3://bucket/scan", "hf://datasets/me/scan"])
def test_an_output_on_a_remote_store_is_refused_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.eye(3, dtype=np.float16)
    for out in (place, Path(place)):
        with pytest.raises(UsageError, match=r"cannot be written to (s3|hf)://"):
            clipgap.scan(rows, {"val": rows}, out=out)
    for call in (["gap", "nowhere", "--test", "a=b", "-o", place], ["demo", "-o", place]):
        assert main(call) == 2
        assert "cannot be written to" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- the shell


@pytest.mark.parametrize(
    "call",
    [
        ["filter", "a/0.tar", "a/1.tar", "a/2.tar", "a/3.tar", "--keep", "k", "-o", "x"],
        ["embed", "a/0.tar", "a/1.tar", "a/2.tar", "a/3.tar", "--model", "m", "-o", "x"],
        ["train", "--logs=l", "--name=x", "--train-data", *(f"a/{i}.tar" for i in range(4))],
    ],
)
def test_a_pattern_that_the_shell_expanded_is_known_as_such(
    call: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(call) == 2
    said = capsys.readouterr().err
    assert "3 words too many: a/1.tar a/2.tar …" in said
    assert "your shell expanded {…} or *, quote the pattern" in said


def make_demo(tmp_path: Path, script: str) -> subprocess.CompletedProcess[str]:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return subprocess.run(
        ["make", "demo", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('[ "$1" = --version ] && echo Python 3.9.2; [ "$1" = --version ]', "is Python 3.9.2"),
        ('case "$2" in *ensurepip*) exit 1; esac', "apt install python3-venv"),
        ('[ "$1 $2" != "-m venv" ] || { mkdir -p "$3/bin"; exit 1; }', ""),
    ],
)
def test_make_says_what_the_system_lacks_and_leaves_nothing(
    tmp_path: Path, script: str, words: str
) -> None:
    ended = make_demo(tmp_path, script)
    assert ended.returncode and words in ended.stdout
    assert not (tmp_path / "venv").exists()


def test_the_bare_command_shows_its_commands_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert said.index("Begin here:") < said.index("  demo ") < said.index("How near:")
    assert "Others:" not in said and max(map(len, said.splitlines())) <= 80


def test_that_no_compiler_was_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = KernelInfo("cpu", False, "there was no C++ compiler")
    monkeypatch.setattr(choose, "_cpu_info", lambda: lacking)
    monkeypatch.setattr(choose, "resolve", lambda *_: "torch")
    note = choose.fallback_note("auto", "cpu")
    assert note is not None and "much slower than the one in C++" in note
    assert "there was no C++ compiler" in note
    assert choose.fallback_note("torch", "cpu") is None
    rows, told = clip_like(64, 16), list[Progress]()
    clipgap.scan(rows, {"t": rows[:3]}, kernel="auto", device="cpu", on_progress=told.append)
    clipgap.dedup(rows, 0.1, clusters=2, kernel="auto", device="cpu", on_progress=told.append)
    assert [progress.note for progress in told].count(note) == 2  # one each
