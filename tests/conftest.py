"""What holds for all tests."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.thorough import THOROUGH

if TYPE_CHECKING:
    from tests.lifecycle import House

# Set before anything imports Triton: without a GPU its kernels run interpreted.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Before anything imports torch or NumPy: tests run side by side, and threads that wait for each
# other on too few cores spin. How many threads our own kernels use is another matter.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=300, deadline=None)
settings.load_profile("thorough" if THOROUGH else "quick")

LONGEST = (
    *("test_lifecycle_kills", "test_lifecycle_others", "test_lifecycle"),
    *("test_train", "test_cuda", "test_gpu", "test_study_demo"),
    *("test_study", "test_embed", "test_packaging", "test_gpu_compiled", "test_bench"),
    *("test_kernels", "test_report", "test_report_kill", "test_train_stops", "test_check"),
    *("test_tutorial", "test_report_pages", "test_eval_resume", "test_slurm"),
)


@pytest.fixture(autouse=True)
def _torch_threads_as_found() -> Iterator[None]:
    """Floats of a network differ by the number of threads, so none may be left to other tests."""
    was_there = "torch" in sys.modules
    yield
    if torch := sys.modules.get("torch"):
        left = torch.get_num_threads()
        torch.set_num_threads(1)
        # Whoever imports it first finds as many as there are cores.
        assert left == 1 or not was_there, f"PyTorch was left with {left} threads"


@pytest.fixture(scope="module")
def house_of_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Where the commands of a file of `test_lifecycle*` run."""
    from tests.lifecycle import open_house

    yield from open_house(tmp_path_factory.mktemp("lifecycle"))


@pytest.fixture
def house(house_of_file: House) -> House:
    """It, as new."""
    house_of_file.renew()
    return house_of_file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, whatever the number of their tests: processes that take files in
    turn then end at about the same time."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(autouse=True)
def logging_as_at_first() -> None:
    """A command leaves its level and its handler behind, for the next test as for its own process;
    also one that a fixture of a whole file has run."""
    log = logging.getLogger("clipgap")
    log.setLevel(logging.NOTSET)
    log.propagate, log.handlers = True, []


@pytest.fixture(autouse=True, scope="session")
def quick_disk() -> Iterator[None]:
    """Tests ask what files hold and when they are flushed, not whether they survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
