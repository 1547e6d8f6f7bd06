"""`clipgap store info`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from clipgap.cli import words
from clipgap.cli.frame import command
from clipgap.cli.shell import Shell
from clipgap.options import argument
from clipgap.store.options import Gaps

if TYPE_CHECKING:
    from clipgap.store.duplicates import Duplicates
    from clipgap.store.info import StoreInfo


def register(app: typer.Typer) -> None:
    """Add the group and its commands to `app`."""
    group = typer.Typer(name="store", help="Look into stores of embeddings.", rich_markup_mode=None)
    command(group, "info", "laion400m")(info)
    app.add_typer(group)


def info(
    shell: Shell,
    gaps: Gaps,
    store: str = argument(
        "A folder, file, glob, {00000..01023} pattern, a::b join or URL.", metavar="STORE"
    ),
) -> None:
    """Read a store once: shards, norms, bad rows, duplicate keys."""
    from clipgap.runs.how import Progress
    from clipgap.store.info import inspect
    from clipgap.store.opening import open_store

    opened = open_store(gaps.named(store))
    began = time.monotonic()
    with shell.progress() as display:

        def watch(rows: int, total: int) -> None:
            seconds = time.monotonic() - began
            display(Progress(stage="reading", done=rows, total=total, seconds=seconds))

        found = inspect(opened, watch)
    shell.result(asdict(found), _describe(found))


def _describe(found: StoreInfo) -> Iterator[str]:
    dtypes = ", ".join(
        dtype if len(found.dtypes) == 1 else f"{dtype} ({words.plural(shards, 'shard')})"
        for dtype, shards in found.dtypes.items()
    )
    sizes = [shard.rows for shard in found.shards]
    yield f"{found.path}"
    yield f"  format  {found.format}"
    if sizes:
        low, high = words.count(min(sizes)), words.count(max(sizes))
        each = low if low == high else f"{low} to {high}"
        yield f"  shards  {words.count(len(sizes))} of {each} rows"
    yield f"  rows    {words.count(found.rows)} of {words.count(found.dim)} × {dtypes}"
    if found.norms is not None:
        norms = found.norms
        yield f"  norms   {norms.min:.6f} to {norms.max:.6f}, mean {norms.mean:.6f}"
    if found.normalised:
        yield (
            f"          {words.plural(found.normalised, 'row')} further than 0.001 from 1: a scan "
            "normalises them"
        )
    yield from _bad_rows(found)
    yield from _duplicates(found.duplicate_keys)


def _bad_rows(found: StoreInfo) -> Iterator[str]:
    if not found.zero + found.not_finite:
        yield "  bad     none"
        return
    yield (
        f"  bad     {words.plural(found.zero, 'row')} of zeros (quarantined), "
        f"{words.plural(found.not_finite, 'row')} with NaN or infinity (see --bad-rows)"
    )
    for bad in found.first_bad:
        key = "" if bad.key is None else f", key {_one_line(bad.key)}"
        yield f"          {bad.shard_name}, row {words.count(bad.row)}{key}: {bad.reason}"
    yield from _rest(found.zero + found.not_finite - len(found.first_bad))


def _duplicates(found: Duplicates | None) -> Iterator[str]:
    if found is None:
        yield "  keys    none: rows are told apart by shard and row"
        return
    if not (found.within_shards or found.across_shards or found.missing):
        yield "  keys    each occurs once"
        return
    yield (
        f"  keys    {words.plural(found.within_shards, 'row')} repeating a key of their own shard, "
        f"{words.plural(found.across_shards, 'key')} in more than one shard"
    )
    if found.missing:
        yield f"          {words.plural(found.missing, 'row')} without a key"
    for duplicate in found.first:
        places = ", ".join(f"{shard:,}:{words.count(row)}" for shard, row in duplicate.places)
        times = f"{duplicate.count:,} times, at shard:row {places}"
        yield f"          {_one_line(duplicate.key)}: {times}"


def _one_line(key: str) -> str:
    return key.replace("\n", "\\n")


def _rest(more: int) -> Iterator[str]:
    if more > 0:
        yield f"          … and {words.count(more)} more"
