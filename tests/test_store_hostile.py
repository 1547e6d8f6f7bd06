"""Files and names that mean harm end in an error that names them, or are read; never a crash."""

from __future__ import annotations

import bz2
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgap.cli.config import save, tomllib
from clipgap.cli.consoles import shown
from clipgap.cli.main import main
from clipgap.errors import InputError
from clipgap.files.atomic import TEMPORARY_SUFFIX
from clipgap.store.opening import open_store
from clipgap.store.writer import StoreWriter
from tests.stores import DIM, keys_of, unit_rows, write_keys


def read_all(path: str | Path) -> None:
    """Read a store as any command does; only `InputError` may come of it, and names the file."""
    try:
        store = open_store(path)
        for shard in store.shards:
            store.read(shard.index, 0, shard.rows)
            store.keys(shard.index, 0, shard.rows)
    except InputError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    "header", ["{[1]: 2}", "{{}: 1}", "[[" * 300, "1" * 5_000, "{1, []}", "\0"]
)
def test_headers_that_no_parser_expects(tmp_path: Path, header: str) -> None:
    content = header.encode() + b"\n"
    file = tmp_path / "x.npy"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content)
    with pytest.raises(InputError, match=r"x\.npy: the \.npy header at byte 10"):
        open_store(file)


def archive(kind: int) -> bytes:
    held, array = io.BytesIO(), io.BytesIO()
    np.save(array, unit_rows(30))
    with zipfile.ZipFile(held, "w", kind) as packed:
        packed.writestr("b32_img.npy", array.getvalue())
    return held.getvalue()


def npy() -> bytes:
    held = io.BytesIO()
    np.save(held, unit_rows(30))
    return held.getvalue()


def parquet() -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table({"uid": keys_of(0, 30)}), held)
    return held.getvalue()


SEEDS = {
    "x.npy": npy(),
    "stored.npz": archive(zipfile.ZIP_STORED),
    "deflated.npz": archive(zipfile.ZIP_DEFLATED),
    "bzip2.npz": archive(zipfile.ZIP_BZIP2),
    "lzma.npz": archive(zipfile.ZIP_LZMA),
    "x.parquet": parquet(),
}


@pytest.mark.parametrize("name", SEEDS)
@given(data=st.data())
def test_mutated_files_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(content)))
        content = content[:cut] + content[data.draw(st.integers(cut, len(content))) :]
    folder = tmp_path_factory.mktemp("mutated")
    if name.endswith(".parquet"):
        (folder / "x.npz").write_bytes(SEEDS["stored.npz"])
    (folder / name).write_bytes(content)
    read_all(folder)


def test_damage_in_bzip2_names_the_file(tmp_path: Path) -> None:
    content = bytearray(SEEDS["bzip2.npz"])
    place = content.index(bz2.compress(b"")[:3])
    content[place + 20] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz: "):
        open_store(tmp_path / "a.npz").read(0, 0, 30)


def test_names_in_archives_that_no_encoding_has(tmp_path: Path) -> None:
    content = SEEDS["stored.npz"].replace(b"b32_img.npy", b"b\xff\xfe_img.npy")
    raw = bytearray(content)
    raw[raw.index(b"PK\x01\x02") + 9] |= 0x08  # says that it is UTF-8
    (tmp_path / "a.npz").write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.npz: not a readable \.npz archive"):
        open_store(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["a", "b" * 20_000, "c"], "key of row 1"),
        (["a"] * 5_000 + ["b" * 20_000] * 3, "key of row 5,000"),
        (["b" * 20_000] * 3, "the key of row 0"),
        (["b" * 3_000_000] * 9, "a key of rows 0 to 8"),  # once in the dictionary
    ],
)
def test_keys_have_a_length(tmp_path: Path, keys: list[str], named: str) -> None:
    np.savez(tmp_path / "0.npz", img=unit_rows(len(keys)))
    write_keys(tmp_path / "0.parquet", "uid", keys, row_group=9_000)
    store = open_store(tmp_path)
    with pytest.raises(InputError, match=rf"0\.parquet: .*{named} is longer than 16,384"):
        store.keys(0, 0, 1)


@pytest.mark.parametrize("name", ["a::b", "[1]", "{x}", "{1..2}", "what?", "st*r", "a?dim=3"])
def test_what_is_there_is_meant_as_it_is(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    np.save(folder / "0.npy", unit_rows(5))
    np.save(folder / "1.npy", unit_rows(6))
    assert open_store(folder).rows == 11
    assert open_store(folder / "1.npy").rows == 6
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "9.npy", unit_rows(7))
    assert open_store(f"{folder}::{tmp_path / 'other' / '9.npy'}").rows == 18


def test_links_that_lead_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert main(["store", "info", str(tmp_path / "a")]) == 3
    assert main(["store", "info", str(tmp_path / "a" / "x.npy")]) == 3
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "1.npy").symlink_to("1.npy")
    np.save(folder / "0.npy", unit_rows(5))
    assert main(["store", "info", str(folder)]) in (0, 3)


def test_names_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    os.mkdir(folder)  # noqa: PTH102
    np.save(f"{folder}/0.npy", unit_rows(3))
    np.save(os.fsdecode(os.fsencode(tmp_path) + b"/\xfe.npy"), unit_rows(3))
    assert main(["store", "info", folder]) == 3
    assert main(["store", "info", str(tmp_path)]) == 3
    assert main(["store", "info", "a\0b"]) == 3
    assert capsys.readouterr().err.count("is not UTF-8") == 2


def test_keys_cannot_drive_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = "\x1b]0;owned\x07\x1b[2J\u202egpj\nfake"
    with StoreWriter(tmp_path / "s", DIM) as writer:
        writer.add(unit_rows(4), ["a", key, key, "b"])
    assert main(["store", "info", str(tmp_path / "s")]) == 0
    said = capsys.readouterr().out
    assert r"\x1b]0;owned\x07\x1b[2J\u202egpj\nfake: 2 times" in said
    assert all(character.isprintable() or character == "\n" for character in said)


def test_what_is_printed_stays_readable() -> None:
    assert shown("Zoë\u3000東京 𝛼\ta\nb") == "Zoë\u3000東京 𝛼\ta\nb"
    assert shown("a\rb\x9b31m\udcff") == r"a\rb\x9b31m\udcff"


def test_settings_of_an_output_with_any_name_can_be_read(tmp_path: Path) -> None:
    out = tmp_path / 'a\nb = 1\r"\x7f\x1b'
    (out / ".progress").mkdir(parents=True)
    save(tmp_path / "x\n[y].toml", "clipgap scan", {"out": str(out), "k": 3}, out)
    text = (tmp_path / "x\n[y].toml").read_text()
    assert tomllib.loads(text) == {"out": str(out), "k": 3}


def test_what_a_kill_left_of_the_settings_is_removed(tmp_path: Path) -> None:
    left = tmp_path / f".[x].toml.123456{TEMPORARY_SUFFIX}"
    others = tmp_path / f".x.toml.123456{TEMPORARY_SUFFIX}"
    for path in (left, others):
        path.write_text("k =")
    save(tmp_path / "[x].toml", "clipgap scan", {"k": 3}, tmp_path / "[x]")
    assert not left.exists() and others.exists()
