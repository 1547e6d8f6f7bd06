"""The folder of a store that is being embedded.

store.json, embeddings/, keys/    the store, as any writer of clipgap makes it
quarantine.parquet                images and shards that could not be used; only if there are any
manifest.json                     model, preprocessing, inputs, checksums; written last
.progress/                        plan.json, units/; gone when all is done
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clipgap.clip.embed.sources import Unit
from clipgap.clip.embed.worker import Done
from clipgap.files.documents import MANIFEST, format_of, write_json
from clipgap.files.parquet import FileSum
from clipgap.runs.old_output import OutputFolder, remove
from clipgap.shards.quarantine import QUARANTINE
from clipgap.store.own import EMBEDDINGS, KEYS, STORE_FILE

FORMAT = "clipgap-embed"


class StoreFolder(OutputFolder):
    """Shards appear in it whole, one by one; it is a store when `store.json` is there."""

    def __init__(self, path: Path) -> None:
        inner = (EMBEDDINGS, KEYS, ".progress/units")
        super().__init__(path, FORMAT, "store of embeddings", inner)
        self._units = self.progress / "units"

    def start(self, described: Mapping[str, Any], earlier: Iterable[str] = ()) -> None:
        super().start(described, [*earlier, STORE_FILE, QUARANTINE, EMBEDDINGS, KEYS])

    def reopen(self, described: Mapping[str, Any], done: Iterable[Done]) -> None:
        """Take a finished store up again, with these units still done."""
        self.progress.mkdir(parents=True, exist_ok=True)
        self.go_on(described)
        for each in done:
            self.save(each)
        for name in (MANIFEST, STORE_FILE, QUARANTINE):
            remove(self.path / name)

    def save(self, done: Done) -> None:
        """Note that a unit is done."""
        write_json(self._note(done.entry.name), {"format": FORMAT, **done.to_json()})

    def saved(self, units: Iterable[Unit]) -> dict[str, Done]:
        """The units that are done and whole, by name."""
        found: dict[str, Done] = {}
        for unit in units:
            note = self._note(unit.name)
            if format_of(note) == FORMAT:
                done = Done.from_json(json.loads(note.read_bytes()))
                if not self.damaged(done.files):
                    found[unit.name] = done
        return found

    def remove_strangers(self, wanted: Mapping[str, FileSum]) -> None:
        """Delete shards that an earlier run, replaced by this one, has left."""
        for name in (EMBEDDINGS, KEYS):
            for file in (self.path / name).iterdir():
                if f"{name}/{file.name}" not in wanted:
                    remove(file)

    def _note(self, name: str) -> Path:
        return self._units / f"{name}.json"
