"""The settings of a call, resolved, in the file beside the folder that it filled.

Its last line has the sum of those above. People may edit it, and it is taken then, too; but whoever
takes it hears of that, since a disk may have done the same.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from clipgap.files.addresses import public
from clipgap.files.folders import read_if_there

HEADER = "# Written by clipgap: the resolved configuration of"
SUM = "# SHA-256 of the lines above: "


def settings_file(out: Path) -> Path:
    """Where the resolved configuration of an output folder lies: next to it, not in it."""
    named = out.resolve() if out.name in ("", "..") else out
    return named.with_name(f"{named.name}.toml")


def summed(content: bytes) -> bytes:
    """Settings with their sum below."""
    return content + SUM.encode() + hashlib.sha256(content).hexdigest().encode() + b"\n"


def is_changed(path: Path) -> bool:
    """Whether what clipgap wrote there is no longer as it was."""
    content = read_if_there(path) or b""
    above, _, _ = content.rpartition(SUM.encode())
    return content.startswith(HEADER.encode()) and content != summed(above)


def read_settings(out: Path) -> dict[str, str] | None:
    """The command that filled a folder, and its settings as `--config` takes them; None if no file
    of clipgap's is there."""
    try:
        text = (read_if_there(settings_file(out)) or b"").decode()
    except UnicodeDecodeError:
        return None
    if not text.startswith(HEADER):
        return None
    head, _, settings = text.partition("\n\n")
    command = head.splitlines()[0][len(HEADER) :].strip()
    return {"command": command, "settings": public(settings.partition(SUM)[0])}
