"""The certificate beside a keep-list: `verify` writes what it proved of it, `report` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipgap.files.documents import Each, Form, checksum, is_count, read_document, write_document
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


def write_certificate(path: Path, entries: Mapping[str, Any]) -> None:
    write_document(path, FORM, entries)


def read_certificate(keep: KeepList) -> dict[str, Any] | None:
    """What was proved of this very list; None if there is none, or it is about another list."""
    path = certificate_file(keep.path)
    if not path.exists():
        return None
    found = read_document(path, FORM)
    return found if found["keep"]["manifest_sha256"] == checksum(keep.manifest) else None
