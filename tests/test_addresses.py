"""What an address keeps to itself is in no file, log or page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from clipgap.cli.config import tomllib
from clipgap.cli.main import main
from clipgap.files.addresses import public
from tests.stores import unit_rows

SECRET = "hush-hush"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://ann:hush@host/a/b.npy", "https://***@host/a/b.npy"),
        (
            "http://a:hush@h/x::http://c:hush@d/y?token=hush",
            "http://***@h/x::http://***@d/y?token=***",
        ),
        (
            "https://h/x.npz?X-Amz-Signature=hush&X-Amz-Date=3?array=img",
            "https://h/x.npz?X-Amz-Signature=***&X-Amz-Date=***?array=img",
        ),
        (
            "/d/x?dim=4&paths=https://u:hush@h/p?sig=hush",
            "/d/x?dim=4&paths=https://***@h/p?sig=***",
        ),
        (
            "http://h/x?sig=hush%2Fb==&AWSAccessKeyId=AK, and more",
            "http://h/x?sig=***&AWSAccessKeyId=***, and more",
        ),
        ("401, url=URL('http://h:80/a?token=hush')", "401, url=URL('http://h:80/a?token=***')"),
        ("https://h/x?dim=4&token=hush.er", "https://h/x?dim=4&token=***"),
        ("http://h/#access_token=hush", "http://h/#access_token=***"),
        ("http:/ann:hush@h/x?token=hush", "http:/***@h/x?token=***"),  # as a Path has it
        ("c:/ann@home/x?y=1", "c:/ann@home/x?y=1"),
        ("file:///home/ann@host/x", "file:///home/ann@host/x"),
        ("memory://data/x?.npy", "memory://data/x?.npy"),
        ("s3://bucket/{0..9}.npz", "s3://bucket/{0..9}.npz"),
        ("/folder/ann@home/x?.npy", "/folder/ann@home/x?.npy"),
    ],
)
def test_public_forms(address: str, shown: str) -> None:
    assert public(address) == shown
    assert public(shown) == shown


class Guarded(MemoryFileSystem):  # type: ignore[misc]
    """A memory that only those enter who know the secret."""

    protocol = "guarded"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).removeprefix("guarded://").rstrip("/")

    def unstrip_protocol(self, name: str) -> str:
        return f"guarded://{self._strip_protocol(name)}"

    def _path(self, path: str) -> str:
        user, _, rest = self._strip_protocol(path).partition("@")
        if user != f"ann:{SECRET}":
            raise PermissionError(f"guarded://{user}@{rest}: no entry")
        return rest.partition("/")[2]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        inner = self._path(path)
        if inner in self.store:
            size = len(self.store[inner])
            return {"name": self._strip_protocol(path), "size": size, "type": "file"}
        if any(name.startswith(f"{inner}/") for name in self.store):
            return {"name": self._strip_protocol(path), "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def isdir(self, path: str) -> bool:
        try:
            return bool(self.info(path)["type"] == "directory")
        except FileNotFoundError:
            return False

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        inner = self._path(path)
        return [
            self.info(f"{path.rstrip('/')}/{name.removeprefix(f'{inner}/')}")
            for name in sorted(self.store)
            if name.startswith(f"{inner}/")
        ]

    def cat_ranges(self, paths: Any, starts: Any, ends: Any, **_: Any) -> list[bytes]:
        return [
            self.store[self._path(path)][start:end]
            for path, start, end in zip(paths, starts, ends, strict=True)
        ]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    fsspec.register_implementation("guarded", Guarded, clobber=True)
    for name, rows in [("train/0.npy", unit_rows(30)), ("train/1.npy", unit_rows(9, 1))]:
        np.save(tmp_path / "x.npy", rows)
        Guarded.store[name] = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").unlink()
    yield f"guarded://ann:{SECRET}@host/train"
    Guarded.store.clear()


def test_a_secret_is_in_no_file_and_no_line(
    guarded: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "test.npy", unit_rows(4, 5))
    out = tmp_path / "out"
    test, gap, kept = f"t={tmp_path / 'test.npy'}", str(tmp_path / "gap"), str(tmp_path / "kept")
    assert main(["gap", str(tmp_path / "test.npy"), "--test", test, "-o", gap]) == 0
    scan = ["scan", guarded, "--test", test, "--gap", gap, "-o", str(out)]
    assert main([*scan, "-vv"]) == 0
    assert main([*scan, "--resume", "--json"]) == 0  # public forms are compared
    assert main(["store", "info", guarded]) == 0
    assert main(["store", "info", guarded, "--json"]) == 0
    assert main(["store", "info", guarded.replace("host/train", "host/none"), "-vv"]) == 3
    assert main(["store", "info", guarded.replace("ann", "bob"), "-vv"]) == 3
    assert main(["store", "info", f"{guarded}/0.npy", "--frob"]) == 2
    assert main(["emulate", str(out)]) == 3  # it is asked for the password again
    assert main(["emulate", str(out), "--train", guarded, "-o", kept, "-vv"]) == 0
    assert main(["data", "check", "mnist", guarded]) == 2  # it takes folders alone
    assert main(["data", "link", "objectnet", guarded, "-o", str(tmp_path / "linked"), "-vv"]) == 2
    assert main(["data", "caption", guarded, "-o", str(tmp_path / "tars"), "-vv"]) == 2
    said = capsys.readouterr()
    assert "guarded://***@host" in said.out
    assert SECRET not in said.out + said.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"guarded://***@host/train" in path.read_bytes() for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    document = tomllib.loads(out.with_name("out.toml").read_text())
    assert document["train"] == "guarded://***@host/train"
