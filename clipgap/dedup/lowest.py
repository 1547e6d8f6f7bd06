"""The rows with the lowest keys among many that pass by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Lowest:
    """Holds at most `room` rows: those of the lowest keys, of equals those of the lowest ids."""

    def __init__(self, room: int, dim: int, dtype: Any) -> None:
        self._room = room
        self.keys = np.empty(0, dtype)
        self.ids = np.empty(0, np.int64)
        self.rows = np.empty((0, dim), np.float16)

    def add(self, keys: NDArray[Any], ids: NDArray[np.int64], rows: NDArray[np.float16]) -> None:
        """Look at some rows."""
        if len(self.keys) == self._room:
            able = keys <= self.keys[-1]
            keys, ids, rows = keys[able], ids[able], rows[able]
        if not len(keys):
            return
        keys, ids = np.concatenate([self.keys, keys]), np.concatenate([self.ids, ids])
        order = np.lexsort((ids, keys))[: self._room]
        held = len(self.keys)
        chosen = np.empty((len(order), rows.shape[1]), np.float16)
        old = order < held
        chosen[old], chosen[~old] = self.rows[order[old]], rows[order[~old] - held]
        self.keys, self.ids, self.rows = keys[order], ids[order], chosen
