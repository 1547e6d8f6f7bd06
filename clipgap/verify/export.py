"""`export`: test points and their nearest training rows, as viewers of embeddings read them.

    OUT/table.parquet     for Embedding Atlas and Spotlight: a row an item
    OUT/samples.json      for FiftyOne: `Dataset.from_json`; its pictures are in OUT/images
    OUT/manifest.json

Items are the training rows that are in some list of the scan, by shard and row, and then the points
of each test set. A neighbour is an item, by its number from 0. Training rows have the test points
as neighbours that have them: true neighbours in both directions, as far as the lists reach.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import InputError, UsageError
from clipgap.files.documents import FILES, Each, Form, checksum, is_count
from clipgap.files.naming import Given
from clipgap.files.parquet import FileSum, parquet_file, write_tables
from clipgap.files.staging import Staging
from clipgap.files.sums import AnySum
from clipgap.options import takes_options
from clipgap.report.pictures import Wanted, find_samples, image_in
from clipgap.report.sources import Images
from clipgap.runs.how import How
from clipgap.runs.lock import PROGRESS
from clipgap.runs.output import Complete, Kind, New, Output, open_output, spare
from clipgap.scan.lists import entries_of, lengths_of, numbers_of, take_strings
from clipgap.scan.result import ScanResult, open_scan
from clipgap.verify.checks import Problems
from clipgap.verify.evidence import Evidence, check_inputs
from clipgap.verify.options import VIEWERS, ExportOptions
from clipgap.version import __version__

KIND = Kind(
    Form(
        "clipgap-export",
        "export",
        {
            "settings": {"to": str, "most": is_count},
            "inputs": {
                "scan": {"path": str, "manifest_sha256": str},
                "images": Each({"path": str, "sha256": str}),
            },
            "counts": Each(is_count),
            "files": FILES,
        },
    ),
    free=("path",),
)

TRAIN = "train"
"""The set of the training rows."""

TABLE, SAMPLES, PICTURES = "table.parquet", "samples.json", "images"
_ROWS, _BYTES = 8_192, 64 << 20

COLUMNS = pa.schema(
    [
        ("set", pa.string()),
        ("key", pa.string()),
        ("shard", pa.int32()),  # of a training row
        ("row", pa.int64()),
        ("similarity", pa.float64()),  # to the nearest neighbour
        ("threshold", pa.float64()),  # of a test point
        ("margin", pa.float64()),  # the most by which a neighbour exceeds a threshold
        (
            "neighbors",
            pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))]),
        ),
    ]
)


@dataclass(frozen=True)
class Exported:
    """What lies in the folder."""

    path: Path
    counts: Mapping[str, int]  # items by set
    already_complete: bool = False  # True: a resumed run found nothing to do


@takes_options
def export(
    scan: str | Path | ScanResult,
    *,
    to: str,
    out: Given,
    images: Mapping[str, Given] | None = None,
    train: Any = None,
    tests: Mapping[str, Any] | None = None,
    options: ExportOptions,
    how: How,
) -> Exported:
    """Write the test points of a scan, and the training rows nearest to them, for a viewer.

    `to` is "atlas" (Embedding Atlas), "spotlight" (Renumics Spotlight) or "fiftyone". `images` are
    tar shards or folders by name of a test set, and of "train"; FiftyOne needs them. `train` and
    `tests` are where the stores of the scan are now, if they have moved.
    """
    if to not in VIEWERS:
        raise UsageError(f"unknown viewer {to!r}; choose one of: {', '.join(VIEWERS)}")
    how.tell("reading headers")
    result = scan if isinstance(scan, ScanResult) else open_scan(scan)
    if TRAIN in result.test_names:
        raise UsageError(f"{result.label}: a test set is called {TRAIN!r}, as training rows are")
    given = {name: Images(str(path)) for name, path in (images or {}).items()}
    names = (TRAIN, *result.test_names)
    if strangers := sorted(given.keys() - {*names}):
        raise UsageError(f"images of {strangers[0]!r}: {result.label} has {', '.join(names)}")
    if to == "fiftyone" and given.keys() != {*names}:
        lacking = next(name for name in names if name not in given)
        raise UsageError(f"FiftyOne shows images: give those of {lacking!r} with --images")
    # Of shorter lists all is taken, whatever was asked for.
    most = min(options.most, _longest(result))
    described = {
        "kind": "export",
        "settings": {"to": to, "most": most},
        "inputs": {
            "scan": {
                "path": "" if result.path is None else str(result.path.resolve()),
                "manifest_sha256": checksum(result.manifest),
            },
            "images": {name: one.identity() for name, one in given.items()},
        },
    }
    spare(Path(out), [result.path], how)
    with open_output(out, KIND, how) as output:
        answer = output.begin(described)
        if isinstance(answer, Complete):
            return Exported(output.path, answer.manifest["counts"], already_complete=True)
        if not isinstance(answer, New):
            output.start()
        how.tell("reading embeddings", works=True)
        evidence = Evidence.load(result, train, tests or {})
        problems = Problems()
        check_inputs(result, evidence, problems)
        if problems.count:
            raise InputError(f"{result.label} was made from other stores: {problems}")
        items = items_of(result, most)
        table = table_of(to, items, embeddings_of(items, evidence))
        how.tell("writing", works=True)
        shards = [shard["name"] for shard in result.manifest["inputs"]["train"]["shards"]]
        pictures = _pictures(items, given, shards)
        return _write(output, described, items, table, pictures)


def _write(
    output: Output,
    described: Mapping[str, Any],
    items: Any,
    table: Any,
    pictures: Iterable[tuple[int, bytes, str]],
) -> Exported:
    if described["settings"]["to"] == "fiftyone":
        with Staging(output.path, f"{PROGRESS}/files") as files:
            paths = [""] * len(table)
            for item, content, ending in pictures:
                output.how.check()
                paths[item] = f"{PICTURES}/{item:08d}.{ending}"
                files.write(paths[item], content)
            files.write(SAMPLES, samples_json(table, paths))
            output.expect(files.sums)
            files.publish(last=SAMPLES)
        sums: Mapping[str, AnySum] = files.sums
    else:
        output.expect([TABLE])
        images = bool(described["inputs"]["images"])
        sums = {TABLE: _write_table(output, table, pictures if images else None)}
    names = items["set"].to_pylist()
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    versions = {"clipgap": __version__, "numpy": np.__version__, "pyarrow": pa.__version__}
    output.finish({**described, "counts": counts, "versions": versions}, sums)
    return Exported(output.path, counts)


def _write_table(
    output: Output, table: Any, pictures: Iterable[tuple[int, bytes, str]] | None
) -> FileSum:
    """A table, with a column of images if there are any: of these a row group holds no more than
    so many rows or bytes, or one image."""
    path = output.path / TABLE
    if pictures is None:
        return write_tables(path, table.schema, [table])
    column = pa.field("image", pa.binary())
    with TemporaryFile() as spool:
        places = {}
        for item, content, _ in pictures:
            output.how.check()
            places[item] = spool.tell(), len(content)
            spool.write(content)
        with parquet_file(path, table.schema.append(column)) as file:
            start = 0
            while start < len(table):
                contents = list(_some(spool, places, range(start, len(table))))
                piece = table.slice(start, len(contents))
                file.put(
                    piece.append_column(column, pa.array(contents, pa.binary())).combine_chunks()
                )
                start += len(contents)
    return file.sum


def _some(
    spool: IO[bytes], places: Mapping[int, tuple[int, int]], items: Iterable[int]
) -> Iterator[bytes | None]:
    """The images of the first items, as many as one row group holds."""
    size = 0
    for number, item in enumerate(items):
        place, length = places.get(item, (0, 0))
        size += length
        if number == _ROWS or (number and size > _BYTES):
            return
        spool.seek(place)
        yield spool.read(length) if item in places else None


def _longest(scan: ScanResult) -> int:
    """Neighbours in the longest list of a scan."""
    lengths = [lengths_of(scan.test(name)["nn_sim"]) for name in scan.test_names]
    return max((int(each.max(initial=0)) for each in lengths), default=0)


def items_of(scan: ScanResult, most: int) -> Any:
    """A table of all items, of lists cut to their first `most`."""
    shards = scan.manifest["inputs"]["train"]["shards"]
    starts = np.cumsum([0, *(shard["rows"] for shard in shards)])
    lists = [_Lists.read(scan, name, most, starts) for name in scan.test_names]
    found, first = np.unique(np.concatenate([one.ids for one in lists]), return_index=True)
    pieces, base = [_training(starts, found, first, lists)], len(found)
    for one in lists:
        pieces.append(one.table(np.searchsorted(found, one.ids)))
        one.begin, base = base, base + len(one.rows)
    ends = np.searchsorted(found, np.concatenate([one.ids for one in lists]))
    owners = np.concatenate([one.begin + one.owner for one in lists])
    sims = np.concatenate([one.sim for one in lists])
    margins = np.concatenate([one.sim - one.gap[one.owner] for one in lists])
    order = np.lexsort((owners, -sims, ends))
    counts = np.bincount(ends, minlength=len(found))
    heads = np.cumsum(counts) - counts
    margin = np.full(len(found), -np.inf)
    np.maximum.at(margin, ends[~np.isnan(margins)], margins[~np.isnan(margins)])
    training = pieces[0]
    for name, column in (
        ("similarity", pa.array(sims[order][heads])),
        ("margin", pa.array(np.where(np.isinf(margin), np.nan, margin), from_pandas=True)),
        ("neighbors", _neighbours(counts, owners[order], sims[order])),
    ):
        place = training.schema.get_field_index(name)
        training = training.set_column(place, COLUMNS.field(name), column)
    return pa.concat_tables([training, *pieces[1:]])


@dataclass
class _Lists:
    """The lists of a test set, one entry after the other."""

    name: str
    rows: NDArray[np.int64]  # of the usable points
    keys: Any
    gap: NDArray[np.float64]  # of these; NaN without
    owner: NDArray[np.int64]  # of each entry: which of the usable points
    ids: NDArray[np.int64]  # of each entry: the training row, counted through all shards
    sim: NDArray[np.float64]
    nn_keys: Any
    begin: int = field(default=0)  # the item of the first point

    @classmethod
    def read(cls, scan: ScanResult, name: str, most: int, starts: NDArray[np.int64]) -> _Lists:
        table = scan.test(name)
        lengths = lengths_of(table["nn_sim"])
        usable = np.flatnonzero(lengths)
        ends = np.cumsum(lengths)
        place = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
        taken = np.flatnonzero(place < most)
        gap = table["gap"].to_numpy(zero_copy_only=False).astype(np.float64)
        ids = starts[numbers_of(table["nn_shard"])] + numbers_of(table["nn_row"])
        keys = take_strings(table["key"].chunks, usable)
        return cls(
            name,
            usable,
            keys,
            gap[usable],
            np.repeat(np.arange(len(usable)), np.minimum(lengths[usable], most)),
            ids[taken],
            numbers_of(table["nn_sim"])[taken],
            take_strings(entries_of(table["nn_key"]), taken),
        )

    def table(self, items: NDArray[np.int64]) -> Any:
        """The points as items, given the items of all entries."""
        counts = np.bincount(self.owner, minlength=len(self.rows))
        nearest = self.sim[np.cumsum(counts) - counts]
        columns = {
            "set": pa.array([self.name] * len(self.rows), pa.string()),
            "key": self.keys,
            "shard": pa.nulls(len(self.rows), pa.int32()),
            "row": pa.array(self.rows),
            "similarity": pa.array(nearest),
            "threshold": pa.array(self.gap, from_pandas=True),
            "margin": pa.array(nearest - self.gap, from_pandas=True),
            "neighbors": _neighbours(counts, items, self.sim),
        }
        return pa.table(columns, schema=COLUMNS)


def _training(
    starts: NDArray[np.int64],
    found: NDArray[np.int64],
    first: NDArray[np.int64],
    lists: list[_Lists],
) -> Any:
    """The training rows, without what follows from all lists."""
    shard = np.searchsorted(starts, found, side="right") - 1
    columns = {
        "set": pa.array([TRAIN] * len(found), pa.string()),
        "key": take_strings([one.nn_keys for one in lists], first),
        "shard": pa.array(shard.astype(np.int32)),
        "row": pa.array(found - starts[shard]),
    }
    empty = {
        name: pa.nulls(len(found), COLUMNS.field(name).type)
        for name in COLUMNS.names
        if name not in columns
    }
    return pa.table({**columns, **empty}, schema=COLUMNS)


def _neighbours(counts: NDArray[np.int64], ids: NDArray[np.int64], sim: NDArray[np.float64]) -> Any:
    ends = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    lists = [pa.ListArray.from_arrays(ends, pa.array(values)) for values in (ids, 1.0 - sim)]
    return pa.StructArray.from_arrays(lists, ["ids", "distances"])


def embeddings_of(items: Any, evidence: Evidence) -> NDArray[np.float32]:
    """The embedding of each item."""
    rows = np.empty((len(items), evidence.plan.train.dim), np.float32)
    sets = np.array(items["set"].to_pylist())
    number, shard = items["row"].to_numpy(), items["shard"].to_numpy(zero_copy_only=False)
    for one in range(len(evidence.plan.train.shards)):
        mine = np.flatnonzero((sets == TRAIN) & (shard == one))
        for part, found in evidence.rows_at(one, number[mine]):
            rows[mine[part]] = found
    for test in evidence.tests:
        mine = np.flatnonzero(sets == test.name)
        rows[mine] = test.rows[np.searchsorted(test.row_of, number[mine])]
    return rows


def project(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first two principal components; of each the largest weight is above 0."""
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(axes.shape[1])])
    found = np.zeros((len(rows), 2), np.float32)
    found[:, : axes.shape[1]] = centred @ axes
    return found


def table_of(to: str, items: Any, rows: NDArray[np.float32]) -> Any:
    """Items as a viewer takes them: Embedding Atlas has no use for embeddings beside x and y."""
    at = project(rows)
    table = items.append_column("x", pa.array(at[:, 0])).append_column("y", pa.array(at[:, 1]))
    if to == "atlas":
        return table
    flat = pa.array(rows.reshape(-1))
    ends = pa.array(np.arange(len(rows) + 1, dtype=np.int64) * rows.shape[1])
    embedding = pa.LargeListArray.from_arrays(ends, flat)
    if to == "spotlight":  # which knows lists of numbers, and no structures
        lists = table["neighbors"].combine_chunks()
        for name in ("ids", "distances"):
            table = table.append_column(f"neighbor_{name}", lists.field(name))
        table = table.drop_columns(["neighbors"])
    return table.append_column("embedding", embedding)


def samples_json(table: Any, paths: list[str]) -> bytes:
    """As FiftyOne's own export of samples: values by field, and the types of the fields."""
    plain = "fiftyone.core.fields.{}Field".format
    numbers = f"{plain('List')}({plain('Float')})"
    fields = {
        **dict.fromkeys(("set", "key"), plain("String")),
        **dict.fromkeys(("item", "shard", "row"), plain("Int")),
        **dict.fromkeys(("similarity", "threshold", "margin", "x", "y"), plain("Float")),
        "neighbors": f"{plain('List')}({plain('Int')})",
        "distances": numbers,
        "embedding": numbers,
    }
    samples = []
    for number, (row, path) in enumerate(zip(table.to_pylist(), paths, strict=True)):
        lists = row.pop("neighbors")
        values = {**row, "item": number, "neighbors": lists["ids"], "distances": lists["distances"]}
        said = {name: values[name] for name in fields}
        samples.append({"filepath": path, "tags": [row["set"]], **said})
    document = {"name": "clipgap", "media_type": "image", "sample_fields": fields}
    text = json.dumps({**document, "samples": samples}, ensure_ascii=False, allow_nan=False)
    return text.encode()


def _pictures(
    items: Any, images: Mapping[str, Images], shards: Sequence[str]
) -> Iterator[tuple[int, bytes, str]]:
    """Item, image as it is and its ending, as they are found; in the end all must have been."""
    sets, keys, of = (items[name].to_pylist() for name in ("set", "key", "shard"))
    for name, source in images.items():
        wanted: dict[Wanted, list[int]] = {}
        for item in range(len(items)):
            if sets[item] == name:
                shard = "" if of[item] is None else shards[of[item]]
                wanted.setdefault((shard, keys[item] or ""), []).append(item)
        found: set[Wanted] = set()
        ambiguous: set[Wanted] = set()
        for one, sample in find_samples(source, {*wanted}, [], ambiguous):
            if (image := image_in(sample)) is not None:
                found.add(one)
                yield from ((item, *image) for item in wanted[one])
        if lacking := [one for one in wanted if one not in found or one in ambiguous]:
            raise InputError.listing(
                f"{source.path}: has no image, or several, for {len(lacking):,} of the "
                f"{len(wanted):,} items of {name!r}:",
                [key for _, key in lacking],
            )
