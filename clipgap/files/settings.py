"""The settings of a call, resolved, in the file beside the folder that it filled."""

from __future__ import annotations

from pathlib import Path

from clipgap.files.addresses import public

HEADER = "# Written by clipgap: the resolved configuration of"


def settings_file(out: Path) -> Path:
    """Where the resolved configuration of an output folder lies: next to it, not in it."""
    named = out.resolve() if out.name in ("", "..") else out
    return named.with_name(f"{named.name}.toml")


def read_settings(out: Path) -> dict[str, str] | None:
    """The command that filled a folder, and its settings as `--config` takes them."""
    try:
        text = settings_file(out).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if not text.startswith(HEADER):
        return None
    head, _, settings = text.partition("\n\n")
    command = head.splitlines()[0][len(HEADER) :].strip()
    return {"command": command, "settings": public(settings)}
