"""Libraries that tests build from the sources: once, whoever asks first, kept for the next run."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "build" / "emulated"


def built(name: str, commands: Sequence[Sequence[str]], sources: Iterable[Path]) -> Path:
    """The library that these commands make of these sources; `{out}` in them stands for its path.

    Its name holds all that went into it, so an old one is never taken for it.
    """
    texts = b"".join(path.read_bytes() for path in sorted(sources))
    identity = repr(commands).encode() + texts
    made = FOLDER / f"{name}-{hashlib.sha256(identity).hexdigest()[:20]}.so"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run in several processes
        if not made.exists():
            for old in FOLDER.glob(f"{name}-*"):
                old.unlink()
            partial = made.with_suffix(".partial")
            for command in commands:
                subprocess.run([part.format(out=partial) for part in command], check=True)
            partial.replace(made)
    return made
