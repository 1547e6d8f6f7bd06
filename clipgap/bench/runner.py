"""The one shape that everything measured has."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Answer(NamedTuple):
    """What both directions have in common among all contenders."""

    sim: NDArray[Any]  # (n,), the best score of each training row of the block
    nn: NDArray[np.int64]  # (n,), its test point
    best: NDArray[Any]  # (m,), the best score of each test point
    ids: NDArray[np.int64]  # (m,), its training row


class Runner(Protocol):
    """A contender on the test points of one case."""

    note: str = ""

    def prepare(self, block: NDArray[np.float16], first_id: int) -> Any:
        """What `run` takes; not timed."""
        ...

    def run(self, prepared: Any) -> Any:
        """Do the work; the only part that is timed."""
        ...

    def answer(self, result: Any) -> Answer | None:
        """What `run` gave, in a common shape; None where a contender computes less than that."""
        ...

    def extra(self) -> dict[str, float]:
        """Figures of its own, for the record."""
        return {}
