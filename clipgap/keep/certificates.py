"""The certificate beside a keep-list: `verify` writes what it proved of it, `report` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clipgap.errors import InputError
from clipgap.files.bucket import Bucket
from clipgap.files.documents import (
    Each,
    Form,
    checksum,
    format_of,
    is_count,
    read_document,
    write_document,
)
from clipgap.files.folders import remove
from clipgap.files.remote import RemotePath, path_of
from clipgap.keep.lists import KeepList

FORM = Form(
    "clipgap-certificate",
    "certificate",
    {
        "holds": bool,
        "keep": {"manifest_sha256": str},
        "claims": Each({"says": str, "holds": bool, "checked": is_count, "contradicted": is_count}),
        "checks": Each({"ok": bool, "detail": str}),
    },
)


def certificate_file(keep: Path) -> Path:
    """Where the certificate of a keep-list lies if nobody says otherwise."""
    return path_of(f"{keep}.certificate.json")


def require_certificate_place(path: Path, keep: Path) -> None:
    """Refuse a place where a certificate would replace what is none, before any work."""
    if path.is_symlink() or (path.exists() and format_of(path) != FORM.name):
        raise InputError(
            f"{path} is there, and is no certificate of clipgap's; it is not replaced. Name "
            "another file with --certificate."
        )
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder, so no certificate can be written there")
    if path.resolve().is_relative_to(keep.resolve()):
        raise InputError(f"{path} lies in the keep-list that it is about; name another file")


def write_certificate(path: Path, entries: Mapping[str, Any]) -> None:
    if not isinstance(path, RemotePath):
        write_document(path, FORM, entries)
        return
    with TemporaryDirectory(prefix="clipgap-") as folder:
        made = Path(folder, "certificate")
        write_document(made, FORM, entries)
        try:
            Bucket(str(path.parent)).put(path.name, made)
        except InputError as error:
            raise InputError(
                f"{error}. All of the keep-list is right. Name a file of this machine with "
                "--certificate, if that bucket is not yours to write to"
            ) from error


def withdraw_certificate(path: Path, keep: KeepList) -> None:
    """Remove a certificate of a list that turned out to be wrong."""
    if format_of(path) == FORM.name and not path.is_symlink():
        said = read_document(path, FORM)["keep"]["manifest_sha256"]
        if said == checksum(keep.manifest):
            if isinstance(path, RemotePath):
                Bucket(str(path.parent)).remove(path.name)
            else:
                remove(path.parent, [path.name])


def read_certificate(keep: KeepList) -> dict[str, Any] | None:
    """What was proved of this very list; None if there is none, or it is about another list."""
    path = certificate_file(keep.path)
    if not path.exists():
        return None
    found = read_document(path, FORM)
    return found if found["keep"]["manifest_sha256"] == checksum(keep.manifest) else None
