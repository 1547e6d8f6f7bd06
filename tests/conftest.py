"""What holds for all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before anything imports Triton: without a GPU its kernels run interpreted.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command with -q or -v leaves its level behind, which would be the next test's."""
    log = logging.getLogger("clipgap")
    level, propagate, handlers = log.level, log.propagate, list(log.handlers)
    yield
    log.setLevel(level)
    log.propagate, log.handlers = propagate, handlers
