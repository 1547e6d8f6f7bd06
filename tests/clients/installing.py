"""Packages of others, so that no version stands in another's way: in folders, or environments.

Environments are kept between runs, since some take minutes and gigabytes: in CLIPGAP_CLIENTS, or in
the user's folder of caches. Another Python or other requirements make another one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_CACHES = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
_DONE = "installed"


def installed(folder: Path, *packages: str) -> Path:
    """Put packages into a folder that can stand on PYTHONPATH; what they need is there already."""
    _pip(sys.executable, "--no-deps", "--target", str(folder), *packages)
    return folder


def environment(name: str, *requirements: str) -> Path:
    """An environment of their own, with all that they need; its Python."""
    what = "\n".join([sys.version, str(ROOT), *requirements])
    caches = Path(os.environ.get("CLIPGAP_CLIENTS", _CACHES / "clipgap-clients"))
    folder = caches / f"{name}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    if not (folder / _DONE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        _pip(str(python), *requirements)
        (folder / _DONE).touch()
    return python


def run(python: Path | str, *arguments: object, **others: str) -> str:
    """What a program prints, which must end well."""
    done = attempt(python, *arguments, **others)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-4_000:]
    return done.stdout


def attempt(
    python: Path | str, *arguments: object, **others: str
) -> subprocess.CompletedProcess[str]:
    command = [str(python), *map(str, arguments)]
    return subprocess.run(command, env=variables(**others), capture_output=True, text=True)


def variables(**others: str) -> dict[str, str]:
    """Those of a user who knows of no other environment."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**ours, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", **others}


def _pip(python: str, *arguments: str) -> None:
    command = [python, "-m", "pip", "install", "-q", "--no-compile", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{' '.join(arguments)} cannot be installed: {done.stderr[-300:]}")
