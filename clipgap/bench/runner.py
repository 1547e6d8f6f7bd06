"""The one shape that everything measured has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipgap.kernels.interface import TopK


class Answer(NamedTuple):
    """What both directions have in common among all contenders."""

    sim: NDArray[Any]  # (n,), the best score of each training row of the block
    nn: NDArray[np.int64]  # (n,), its test point
    best: NDArray[Any]  # (m,), the best score of each test point
    ids: NDArray[np.int64]  # (m,), its training row


class Runner(ABC):
    """A contender on the test points of one case."""

    note: str = ""

    @abstractmethod
    def prepare(self, block: NDArray[np.float16], first_id: int) -> Any:
        """What `run` takes; not timed."""

    @abstractmethod
    def run(self, prepared: Any) -> Any:
        """Do the work; the only part that is timed."""

    @abstractmethod
    def answer(self, result: Any) -> Answer | None:
        """What `run` gave, in a common shape; None where a contender computes less than that."""

    def warm(self, lists: list[TopK]) -> None:
        """Go on from the lists of a scan under way, if this contender keeps any."""
        return

    def extra(self) -> dict[str, float]:
        """Figures of its own, for the record."""
        return {}
