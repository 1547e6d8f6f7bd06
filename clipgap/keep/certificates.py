"""The certificate beside a keep-list: `verify` writes what it proved of it, `report` shows it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipgap.errors import InputError
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
    return Path(f"{keep}.certificate.json")


def require_certificate_place(path: Path, keep: Path) -> None:
    """Refuse a place where a certificate would replace what is none, before any work."""
    if path.is_symlink() or (os.path.lexists(path) and format_of(path) != FORM.name):
        raise InputError(
            f"{path} is there, and is no certificate of clipgap's; it is not replaced. Name "
            "another file with --certificate."
        )
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder, so no certificate can be written there")
    if path.resolve().is_relative_to(keep.resolve()):
        raise InputError(f"{path} lies in the keep-list that it is about; name another file")


def write_certificate(path: Path, entries: Mapping[str, Any]) -> None:
    write_document(path, FORM, entries)


def withdraw_certificate(path: Path, keep: KeepList) -> None:
    """Remove a certificate of a list that turned out to be wrong."""
    if format_of(path) == FORM.name and not path.is_symlink():
        said = read_document(path, FORM)["keep"]["manifest_sha256"]
        if said == checksum(keep.manifest):
            remove(path.parent, [path.name])


def read_certificate(keep: KeepList) -> dict[str, Any] | None:
    """What was proved of this very list; None if there is none, or it is about another list."""
    path = certificate_file(keep.path)
    if not path.exists():
        return None
    found = read_document(path, FORM)
    return found if found["keep"]["manifest_sha256"] == checksum(keep.manifest) else None
