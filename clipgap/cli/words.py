"""Numbers as people read them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clipgap.files.remote import RemotePath

_SECOND_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


class Sentence(str):
    """Prose, which a terminal may break between words; other lines are there to be copied."""


def count(value: float) -> str:
    """12345678 -> "12,345,678"."""
    return f"{value:,.0f}"


def size(bytes_: float) -> str:
    """Bytes in decimal units, as disks are sold and quotas are set."""
    return _scaled(bytes_, ("B", "kB", "MB", "GB", "TB", "PB"))


def binary_size(bytes_: int) -> str:
    """Memory and caches, which come in powers of two: "512 KiB"."""
    value, unit = float(bytes_), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:,.4g} {unit}"


def operations(value: float) -> str:
    """Floating-point operations: "81.2 Pflop"."""
    return _scaled(value, ("flop", "kflop", "Mflop", "Gflop", "Tflop", "Pflop", "Eflop"))


def rate(flop_per_second: float) -> str:
    """Effective speed: "512 GFLOP/s"."""
    return _scaled(flop_per_second, ("FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s"))


def duration(seconds: float) -> str:
    """The two largest units: "3 min 12 s", "2 d 4 h"; below ten seconds one decimal."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    parts: list[str] = []
    for length, unit in _SECOND_STEPS:
        amount, left = divmod(left, length)
        if parts:
            return f"{parts[0]} {amount} {unit}"
        if amount:
            parts.append(f"{amount:,} {unit}")
    return parts[0]


def plural(value: int, noun: str) -> str:
    """1 -> "1 row", 1234 -> "1,234 rows"."""
    return f"{count(value)} {noun}" if value == 1 else f"{count(value)} {noun}s"


def percent(share: float, places: int = 2) -> str:
    """0.1234 -> "12.34 %"."""
    return f"{100 * share:.{places}f} %"


def domains(counts: Mapping[str, Any]) -> Iterator[str]:
    """The share of each domain, from the counts of a manifest; a line for each threshold."""
    rows = counts["rows"] - counts["quarantined"]
    for column in ("domain", "domain_strict"):
        shares = (f"{percent(n / rows)} {name}" for name, n in counts[column].items() if rows)
        yield f"{column:<13}  {', '.join(shares) or 'no rows'}"


def complete(folder: object) -> str:
    """That a run found nothing to do."""
    return f"{folder} is already complete; every checksum holds."


def to_merge(parts: object, out: object) -> str:
    """The call that makes one output of its parts."""
    where = ["-o", str(out)]
    if isinstance(out, RemotePath):
        where = ["-o", out.name, "--upload", str(out)]
    return shlex.join(["clipgap", "merge", str(parts), *where])


def to_prove(folder: object) -> str:
    """What to do next."""
    return f"Prove it right: clipgap verify {shlex.quote(str(folder))}"


def command_line(call: str, width: int | None = None, indent: int = 2) -> str:
    """A call to be read and copied: lines end between words, never within one."""
    first, rest = " " * indent, " " * (indent + 4)
    if width is None:
        return first + call
    lines = [first]
    for word in shlex.split(call):
        quoted = shlex.quote(word)
        if lines[-1].strip() and len(lines[-1]) + len(quoted) + 3 > width:
            lines[-1] += " \\"
            lines.append(rest)
        lines[-1] += quoted if not lines[-1].strip() else f" {quoted}"
    return "\n".join(lines)


def quote_it(extra: Sequence[str]) -> str:
    """That more words came than are taken, most likely since a shell made many of one."""
    shown = " ".join(extra[:2]) + (" …" if len(extra) > 2 else "")
    return (
        f"{plural(len(extra), 'word')} too many: {shown}. If your shell expanded {{…}} or *, quote "
        "the pattern, as in 'laion/{00000..01023}.tar'"
    )


def _scaled(value: float, units: Sequence[str]) -> str:
    """Three significant figures in the largest unit that leaves at least 1."""
    step = 0
    while value >= 999.5 and step < len(units) - 1:
        value /= 1_000
        step += 1
    digits = 0 if step == 0 else sum(value < limit for limit in (9.995, 99.95))
    return f"{value:,.{digits}f} {units[step]}"
