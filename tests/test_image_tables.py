"""Images in rows of tables: the same as in a folder, under keys that find them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipgap.clip.embed.api import embed
from clipgap.clip.embed.sources import find_units
from clipgap.clip.images.tables import find_tables
from clipgap.errors import InputError, UsageError
from clipgap.report.pictures import Thumbnails, read_pictures
from clipgap.report.sources import Images
from clipgap.shards.problems import Problem, refuse
from clipgap.store.opening import open_store
from tests.clip_worlds import encoded, render
from tests.shards import member, tar_bytes, write_shard
from tests.test_check import TOWER

IMAGES = [encoded(render(seed % 4, seed), "PNG") for seed in range(9)]
STRUCTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
MODEL = "tower.py:tower"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("tower.py").write_text(TOWER)
    return tmp_path


def structures(contents: list[bytes | None] = IMAGES) -> Any:
    """As `datasets` writes images."""
    return pa.array([{"bytes": c, "path": f"{n}.png"} for n, c in enumerate(contents)], STRUCTURE)


def write(path: str, **columns: Any) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if path.endswith(".arrow"):
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
        state = {"_data_files": [{"filename": Path(path).name}]}
        (Path(path).parent / "state.json").write_text(json.dumps(state))
    else:
        pq.write_table(table, path, row_group_size=4)
    return Path(path)


@pytest.mark.parametrize(
    ("path", "columns", "keys"),
    [
        ("t/train-00000-of-00001.parquet", {"image": structures(), "label": [1] * 9}, None),
        ("t/data-00000-of-00001.arrow", {"image": structures(), "id": list("abcdefghi")}, "abc"),
        ("t/00000.parquet", {"jpg": IMAGES, "key": list("abcdefghi"), "sum": IMAGES}, "abc"),
    ],
    ids=["hub", "datasets", "img2dataset"],
)
def test_rows_are_those_of_the_same_images_in_a_folder(
    path: str, columns: dict[str, Any], keys: str | None
) -> None:
    file = write(path, **columns)
    Path("folder").mkdir()
    for number, content in enumerate(IMAGES):
        Path(f"folder/{number}.png").write_bytes(content)
    for source in ("t", "folder"):
        embed(source, MODEL, out=f"{source}-store", device="cpu")
    ours, theirs = open_store("t-store"), open_store("folder-store")
    np.testing.assert_array_equal(ours.read(0, 0, 9), theirs.read(0, 0, 9))
    found = ours.keys(0, 0, 9).to_pylist()
    assert found[:3] == list(keys or [f"{file.stem}/{row}" for row in range(3)])
    assert ours.shards[0].name == file.stem
    assert embed("t", MODEL, out="t-store", device="cpu", resume=True).already_complete


def test_what_is_no_image_is_set_aside_by_row() -> None:
    contents = [*IMAGES[:2], None, b"", b"no image", IMAGES[5]]
    names = ["a", "b", "c", "d", "e", None]
    write("t.parquet", image=structures(contents), uid=names, text=["one", None] * 3)
    made = embed("t.parquet", MODEL, out="store", device="cpu", captions=True)
    assert (made.images, made.problems) == (2, 4)
    aside = pq.read_table("store/quarantine.parquet").to_pylist()
    assert {one["name"]: one["reason"] for one in aside} == {
        "c": "row 2 of 'image' holds no bytes",
        "d": "the image is empty",
        "e": "not an image (known are JPEG, PNG, WEBP, GIF, BMP)",
        "t/5": "nothing says its uid",
    }
    assert {one["shard"] for one in aside} == {"t.parquet"}
    assert pq.read_table("store/keys/t.parquet")["caption"].to_pylist() == ["one", None]


def test_a_table_that_is_damaged_is_named(tmp_path: Path) -> None:
    path = write("t.parquet", image=pa.array(structures()))
    whole = path.read_bytes()
    for at in np.linspace(4, len(whole) - 1, 60).astype(int).tolist():
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 128]) + whole[at + 1 :])
        problems: list[Problem] = []
        try:
            (unit,) = find_units(path)
            images = list(unit.images(False, problems.append))
        except InputError as error:
            assert "t.parquet" in str(error)
        else:
            assert len(images) == 9 or "t.parquet" in str(problems[0])


@pytest.mark.parametrize(
    ("source", "columns", "said"),
    [
        ("t.parquet", {"text": ["x"]}, r"t\.parquet: has no column of images.*It has text"),
        (
            "t.parquet",
            {"a": structures(), "b": structures()},
            r"2 columns of images: a, b.*array=a",
        ),
        ("t.parquet?array=x", {"image": structures()}, r"no column of images 'x'; it has image"),
        ("t/1.parquet", {"sum": IMAGES}, r"called image.* It has sum; PATH\?array=NAME"),
        ("t", {"text": ["x"]}, "holds neither .tar files nor tables with a column of images"),
        ("{a,b}.parquet", {"image": structures()}, r"b\.parquet: there is no such file"),
    ],
)
def test_tables_without_images_are_refused(source: str, columns: Any, said: str) -> None:
    write(
        {"t": "t/0.parquet", "{a,b}.parquet": "a.parquet"}.get(source, source.split("?")[0]),
        **columns,
    )
    with pytest.raises(InputError, match=said):
        find_units(source)


def test_of_several_files_all_must_have_images() -> None:
    write("t/0.parquet", image=structures())
    write("t/1.parquet", text=["x"])
    with pytest.raises(InputError, match=r"t/1\.parquet: has no column of images"):
        find_units("t")
    write("t/1.parquet", other=IMAGES, image=structures())
    assert [table.column for table in find_tables("t?array=image")] == ["image", "image"]
    assert [unit.name for unit in find_units(["t/1.parquet", "t/0.parquet"])] == ["1", "0"]
    write_shard(Path("t/0.tar"), ["a"])  # tables beside shards tell of these
    assert [unit.source for unit in find_units("t")] == ["t/0.tar"]


def test_rows_can_be_called_by_a_column_or_the_path_of_their_image() -> None:
    write("t.parquet", image=structures(), text=["k"] * 9, number=range(9))
    named = {"number": list("012"), "path": ["0.png", "1.png", "2.png"], "text": ["k"] * 3}
    for field, keys in named.items():
        (unit,) = find_units("t.parquet", field)
        assert [image.key for image in unit.images(False, refuse)][:3] == keys
    with pytest.raises(InputError, match=r"--match uid: .*\n.*t\.parquet"):
        find_units("t.parquet", "uid")
    write("t.parquet", image=structures())
    with pytest.raises(UsageError, match=r"t\.parquet: has no captions"):
        embed("t.parquet", MODEL, out="store", device="cpu", captions=True)


@pytest.mark.parametrize("source", ["0.tar", "t.parquet"])
def test_pictures_are_found_where_a_store_calls_samples_by_a_field(
    source: str, tmp_path: Path
) -> None:
    """As `embed --match` does; keys that are found as they are come first."""
    if source == "0.tar":
        said = [json.dumps({"uid": f"u{n}", "other": "u1"}).encode() for n in range(9)]
        members = [
            member(f"{n}.{ending}", content)
            for n in range(9)
            for ending, content in (("png", IMAGES[n]), ("json", said[n]))
        ]
        Path(source).write_bytes(tar_bytes(members))
    else:
        write(source, image=structures(), uid=[f"u{n}" for n in range(9)], key=list("012345678"))
    for wanted in ({("", "u4"), ("", "u7")}, {("", "4"), ("", "7")}):
        with (tmp_path / "spool").open("w+b") as spool:
            thumbnails = Thumbnails([("val", one) for one in wanted], spool)
            found = read_pictures("val", Images(source), wanted, thumbnails)
        assert {one for one, picture in found.found.items() if picture.number is not None} == wanted
        assert not found.problems
