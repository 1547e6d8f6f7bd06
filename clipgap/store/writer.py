"""Writing a store in clipgap's own format, a shard a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipgap.errors import InputError, UsageError
from clipgap.files.atomic import remove_leftovers, sync_folder, write_atomic
from clipgap.files.sums import FileSum, Hashed, write_file
from clipgap.kernels.admit import Admitted, Status, admit
from clipgap.store.keys import ListedKeys
from clipgap.store.own import EMBEDDINGS, KEY_COLUMN, KEYS, STORE_FILE, Catalogue, Entry
from clipgap.store.rows import sum_of_rows

_ROW_GROUP = 65_536


class StoreWriter:
    """Writes a store; used as a context manager, it is complete when the block ends well.

    Rows are admitted on the way in: they must be finite and not zero, are scaled to norm 1 where
    they are more than 1e-3 off, and are rounded to float16 once. After an error the folder has no
    `store.json` and cannot be mistaken for a store.
    """

    def __init__(self, path: str | Path, dim: int, *, overwrite: bool = False) -> None:
        if dim < 1:
            raise UsageError(f"dim={dim}: rows have at least one dimension")
        self.path = Path(path)
        self.dim = dim
        self._entries: list[Entry] = []
        self._with_keys: bool | None = None
        self._columns: tuple[str, ...] = ()
        self._prepare(overwrite)

    def add(
        self,
        rows: Any,
        keys: Sequence[str] | pa.Array | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> str:
        """Write one shard and return its name.

        `keys` and the further `columns` (captions, for example) are stored beside the rows; all
        shards have keys or none has, and all have the same columns.
        """
        name = f"{len(self._entries):05d}"
        block = np.asarray(rows)
        if block.ndim != 2 or block.shape[1] != self.dim or block.dtype.kind != "f":
            raise InputError(
                f"{self.path}, shard {name}: shape {block.shape} of {block.dtype}, "
                f"expected floats of shape (rows, {self.dim})"
            )
        table = self._table(name, len(block), keys, columns)
        admitted = admit(block)
        _refuse_bad(f"{self.path}, shard {name}", admitted)
        self._entries.append(write_shard(self.path, name, admitted, table))
        return name

    def close(self) -> None:
        """Write the catalogue; from now on this is a store."""
        if not self._entries:
            raise InputError(f"{self.path}: a store needs at least one shard, none was added")
        write_catalogue(self.path, Catalogue(self.dim, bool(self._with_keys), tuple(self._entries)))

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()

    def _prepare(self, overwrite: bool) -> None:
        """Make the folders; what is there already is only removed if a writer of ours made it."""
        held = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        if held and not overwrite:
            raise InputError(f"{self.path}: is not empty; choose another folder or overwrite it")
        strangers = sorted(held - {STORE_FILE, EMBEDDINGS, KEYS})
        if strangers:
            raise InputError(
                f"{self.path}: holds {', '.join(strangers[:5])}, which no store has; "
                "it is not overwritten"
            )
        try:
            (self.path / STORE_FILE).unlink(missing_ok=True)  # first, so that no torso looks whole
            for folder, suffix in ((EMBEDDINGS, ".npy"), (KEYS, ".parquet")):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
                for file in (self.path / folder).glob(f"*{suffix}"):
                    file.unlink()
            remove_leftovers(self.path)
            sync_folder(self.path)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _table(
        self,
        name: str,
        rows: int,
        keys: Sequence[str] | pa.Array | None,
        columns: Mapping[str, Any] | None,
    ) -> pa.Table | None:
        """Keys and further columns of a shard, checked against its rows and earlier shards."""
        where = f"{self.path}, shard {name}"
        if keys is None and columns:
            raise UsageError(f"{where}: columns need keys")
        names = tuple(columns or ())
        if KEY_COLUMN in names:
            raise UsageError(f"{where}: the column {KEY_COLUMN!r} is what `keys` gives")
        if self._entries and (keys is not None, names) != (self._with_keys, self._columns):
            raise UsageError(
                f"{where}: every shard must have the same columns; the first had "
                f"{', '.join([KEY_COLUMN] * bool(self._with_keys) + list(self._columns)) or 'none'}"
            )
        self._with_keys, self._columns = keys is not None, names
        if keys is None:
            return None
        table = key_table(keys, columns or {})
        if table.num_rows != rows:
            raise InputError(f"{where}: {rows:,} rows but {table.num_rows:,} keys")
        return table


def key_table(keys: Sequence[str] | pa.Array, columns: Mapping[str, Any]) -> pa.Table:
    """Keys of a shard and what stands beside them."""
    table = pa.table({KEY_COLUMN: ListedKeys.of(keys).keys})
    for column, values in columns.items():
        table = table.append_column(column, pa.array(values))
    return table


def write_shard(store: Path, name: str, admitted: Admitted, keys: pa.Table | None) -> Entry:
    """Write the files of one shard into the folder of a store; what its catalogue says of it."""
    array_file = store / EMBEDDINGS / f"{name}.npy"
    with write_atomic(array_file) as temporary, temporary.open("wb") as file:
        array = Hashed(file)
        np.lib.format.write_array(array, admitted.rows, allow_pickle=False)
    keys_sum = None
    if keys is not None:
        key_file = store / KEYS / f"{name}.parquet"
        with write_atomic(key_file) as temporary, temporary.open("wb") as file:
            table = Hashed(file)
            pq.write_table(keys, pa.PythonFile(table, "w"), row_group_size=_ROW_GROUP)
        keys_sum = table.sum.sha256
    normalised = int(np.count_nonzero(admitted.status == Status.NORMALISED))
    return Entry(
        name,
        len(admitted.rows),
        normalised,
        array.sum.sha256,
        keys_sum,
        f"{sum_of_rows(0, admitted.rows):016x}",
    )


def write_catalogue(store: Path, catalogue: Catalogue) -> FileSum:
    """The last file of a store: with it the folder is one."""
    return write_file(store / STORE_FILE, catalogue.to_json().encode())


def _refuse_bad(where: str, admitted: Admitted) -> None:
    bad: NDArray[np.intp] = np.flatnonzero(~admitted.ok)
    if len(bad):
        kinds = {Status.ZERO: "is zero", Status.NOT_FINITE: "has NaN or Inf"}
        raise InputError.listing(
            f"{where}: {len(bad):,} of {len(admitted.status):,} rows cannot be stored; "
            "leave them out:",
            [f"row {row:,} {kinds[Status(admitted.status[row])]}" for row in bad.tolist()],
        )
