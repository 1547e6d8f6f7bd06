"""A reference set that joins the training set whole, with captions made of class names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipgap.errors import InputError, UsageError
from clipgap.files.remote import path_of
from clipgap.keep.lists import REFERENCE_SCHEMA
from clipgap.keep.writing import KeepWriter
from clipgap.select.labels import cite_labels, read_labels
from clipgap.select.options import CAPTION
from clipgap.store.base import Store
from clipgap.store.keys import called_otherwise
from clipgap.store.opening import open_store
from clipgap.store.options import Mixing
from clipgap.store.provenance import Meeting, meet, models_in

CLASS = "class"

_PLACE = "{class}"
_ROWS = 65_536


@dataclass(frozen=True)
class Reference:
    """A reference store, a table of its samples' classes, and the template of their captions."""

    store: Any  # whatever `open_store` takes
    classes: str | None = None
    caption: str = CAPTION

    def __post_init__(self) -> None:
        if (_PLACE in self.caption) != (self.classes is not None):
            raise UsageError(
                f"the caption {self.caption!r} "
                + (
                    "needs to know the class of each reference sample: give a table of them "
                    "(--reference-classes), or a caption without {class}"
                    if self.classes is None
                    else "does not contain {class}, so the table of classes would do nothing"
                )
            )

    @cached_property
    def opened(self) -> Store:
        return open_store(self.store)

    def to_json(self) -> dict[str, Any]:
        classes = None if self.classes is None else cite_labels(self.classes)
        return {"store": self.opened.identity(), "classes": classes, "caption": self.caption}

    def meet(self, store: Mapping[str, Any], mixing: Mixing) -> Meeting:
        """Compare the models of the reference and of the store that it joins."""
        stores = {
            f"training store {store['path']}": models_in(store),
            f"reference {self.opened.path}": self.opened.models,
        }
        return meet(stores, mixing)

    def write(self, writer: KeepWriter) -> None:
        """Put the reference's samples and captions beside the keep-list."""
        writer.add_reference(self._tables(), rows=self.opened.rows)

    def _tables(self) -> Iterator[pa.Table]:
        store, labels = self.opened, self._labels()
        if labels is not None and not store.has_keys:
            raise InputError(f"{store.path} has no keys, so nothing tells which class a row has")
        for shard in store.shards:
            for start in range(0, shard.rows, _ROWS):
                stop = min(start + _ROWS, shard.rows)
                keys = store.keys(shard.index, start, stop)
                yield pa.Table.from_arrays(
                    [
                        pa.array(np.full(stop - start, shard.index, np.int32)),
                        pa.array(np.arange(start, stop, dtype=np.int64)),
                        pa.nulls(stop - start, pa.string()) if keys is None else keys,
                        self._captions(stop - start, keys, labels),
                    ],
                    schema=REFERENCE_SCHEMA,
                )

    def _labels(self) -> pa.Table | None:
        return None if self.classes is None else read_labels(path_of(self.classes), [CLASS])

    def _captions(self, rows: int, keys: pa.Array | None, labels: pa.Table | None) -> pa.Array:
        if labels is None or keys is None:
            return pa.array([self.caption] * rows, pa.string())
        place = pc.index_in(keys, value_set=labels["key"].combine_chunks())
        names = labels[CLASS].cast(pa.string()).combine_chunks().take(place)
        if names.null_count:
            unknown = keys.filter(pc.is_null(names)).slice(0, 20).to_pylist()
            raise InputError.listing(
                f"{self.classes} does not say the class of {names.null_count:,} reference samples"
                f"{called_otherwise(unknown[0], labels['key'].combine_chunks())}:",
                unknown,
            )
        before, _, after = self.caption.partition(_PLACE)
        return pc.binary_join_element_wise(before, names, after, "")
