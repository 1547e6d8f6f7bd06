"""Packages of others, each in a folder of its own, so that no version stands in another's way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def installed(folder: Path, *packages: str) -> Path:
    """Put packages into a folder that can stand on PYTHONPATH; what they need is there already."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*command, *packages], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{' '.join(packages)} cannot be installed: {done.stderr[-300:]}")
    return folder
