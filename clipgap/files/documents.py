"""JSON documents that are equal files when they are equal, and the manifests made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipgap.errors import InputError
from clipgap.files.atomic import write_atomic

MANIFEST = "manifest.json"
"""The last file to be written into an output folder: with it the folder is whole."""


def encode(document: Mapping[str, Any]) -> bytes:
    """One way to write JSON, so that equal documents are equal files."""
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def checksum(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(encode(document)).hexdigest()


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    with write_atomic(path) as temporary:
        temporary.write_bytes(encode(document))


def read_manifest(folder: Path, form: str, noun: str, unfinished: str) -> dict[str, Any]:
    """The manifest of a finished output, or an error that says what the folder is instead.

    `form` is what its entry `format` must be, `noun` what people call such a folder, and
    `unfinished` what to do if there is no manifest.
    """
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a finished {noun}: it has no {MANIFEST}. {unfinished}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict) or document.get("format") != form:
        raise InputError(f"{path} is not the manifest of a clipgap {noun}")
    if document.get("version") != 1:
        raise InputError(
            f"{path} has version {document.get('version')}; this clipgap reads version 1. "
            "Use the clipgap that wrote it, or a newer one."
        )
    return document


def format_of(path: Path) -> str | None:
    """What the document at `path` says that it is; None if it is no document of ours."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return document.get("format") if isinstance(document, dict) else None
