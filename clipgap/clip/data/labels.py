"""Labels that lie beside the images of a shard, in members called KEY.cls."""

from __future__ import annotations

from collections.abc import Mapping

from clipgap.errors import InputError
from clipgap.shards.samples import Sample


def label_of_cls(sample: Sample, labels: Mapping[str, int]) -> int:
    """The label of a sample: its .cls holds the number of a class, or what its folder is called."""
    where = f"{sample.shard}, sample {sample.key!r}"
    content = sample.contents.get("cls")
    if content is None:
        raise InputError(f"{where}: has no .cls member, so its class is not known")
    text = content[:200].decode("utf-8", "backslashreplace").strip()
    if text.isdecimal() and text.isascii():
        if int(text) < len(labels):
            return int(text)
    elif text in labels:
        return labels[text]
    raise InputError(
        f"{where}: its .cls says {text[:40]!r}, which is none of the {len(labels):,} classes. "
        f"It should be a number from 0 to {len(labels) - 1:,}, or the key of a class"
    )
