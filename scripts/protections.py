"""Take out each protection that `tests/protections.toml` lists, and see its tests fail.

    scripts/protections.py [WORD]...    all of them, or those in whose entry a word stands
    scripts/protections.py --table      write the table of docs/reliability.md

A test that stays green without what it is there for is named, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clipgap.files import toml

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "protections.toml"
PAGE = ROOT / "docs" / "reliability.md"
BUILT = ("clipgap/kernels/_cpu.so", "clipgap/kernels/_cpu_build.json")
BEGIN, END = "<!-- protections -->", "<!-- end of protections -->"
PASSED, FAILED, SKIPPED = 0, 1, -1
LIMIT = 600  # seconds for the tests of one protection


@dataclass(frozen=True)
class Protection:
    """A few lines of code, what they are against, and the tests that fail without them."""

    against: str
    file: str
    was: str
    becomes: str
    tests: Sequence[str]


def protections() -> list[Protection]:
    """All of the list, in its order."""
    return [Protection(**entry) for entry in toml.parse(LIST.read_text())["protection"]]


def table() -> str:
    """The list as a table for people."""
    lines = ["| against | held by | seen by |", "|---|---|---|"]
    for one in protections():
        tests = ", ".join(f"`{_short(test)}`" for test in one.tests)
        lines.append(f"| {one.against} | `{one.file}` | {tests} |")
    return "\n".join(lines)


def replace_part(page: Path, begin: str, end: str, part: str) -> None:
    """Put what a script has made between two marks of a page."""
    before, _, rest = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}\n\n{part}\n\n{end}{rest.partition(end)[2]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("word", nargs="*", help="only those in whose entry this stands")
    parser.add_argument("--table", action="store_true", help="write the table of the docs")
    asked = parser.parse_args()
    if asked.table:
        replace_part(PAGE, BEGIN, END, table())
        return 0
    chosen = [one for one in protections() if not asked.word or _has(one, asked.word)]
    with _copy() as code:
        tests = sorted({test for one in chosen for test in one.tests})
        if _run(code, tests) != PASSED:
            print("with all protections in place these tests should pass, and do not:", *tests)
            return 1
        stayed = [one for one in chosen if not _fails_without(code, one)]
    print(f"{len(chosen) - len(stayed)} of {len(chosen)} protections are missed when they are gone")
    return 1 if stayed else 0


def _has(one: Protection, words: Sequence[str]) -> bool:
    return any(word in " ".join((one.against, one.file, *one.tests)) for word in words)


def _fails_without(code: Path, one: Protection) -> bool:
    """Whether each of its tests fails when a protection is gone."""
    path = code / one.file
    whole = path.read_text()
    assert whole.count(one.was) == 1, (
        f"{one.file} holds this {whole.count(one.was)} times: {one.was}"
    )
    path.write_text(whole.replace(one.was, one.becomes))
    try:
        _build(code, one.file)
        found = {test: _run(code, [test]) for test in one.tests}
    finally:
        path.write_text(whole)
    _build(code, one.file)
    said = {PASSED: "STAYS GREEN", SKIPPED: "IS SKIPPED"}
    problems = [
        f"{said.get(how, f'pytest ends with {how}')}: {test}"
        for test, how in found.items()
        if how != FAILED
    ]
    print(f"{one.against}: {', '.join(problems) or 'seen'}", flush=True)
    return not problems


def _run(code: Path, tests: Sequence[str]) -> int:
    """Run tests on a copy of the code; what pytest makes of them."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ended = subprocess.run(
            command, cwd=code, env=environment, timeout=LIMIT, stdout=subprocess.PIPE, text=True
        )
    except subprocess.TimeoutExpired:  # a test that waits for ever has not passed either
        return FAILED
    if ended.returncode < 0:  # a library has ended the process
        return FAILED
    # What a test needs may not be there, such as a cluster that starts in time.
    return SKIPPED if ended.returncode == 0 and " passed" not in ended.stdout else ended.returncode


@contextmanager
def _copy() -> Iterator[Path]:
    """The code as it is here, to be spoilt."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(listed, cwd=ROOT, text=True).split("\0")
    with tempfile.TemporaryDirectory(prefix="clipgap-protections-") as folder:
        for name in [*filter(None, names), *BUILT]:
            if (ROOT / name).is_file():
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)
        yield Path(folder)


def _build(code: Path, file: str) -> None:
    """Compile the kernels, if this file is part of them."""
    if not file.startswith("csrc/cpu/"):
        return
    build = ["setup.py", "-q", "build_kernels", "--build-lib", "build/p", "--build-temp", "build/t"]
    subprocess.run([sys.executable, *build], cwd=code, check=True, stdout=subprocess.DEVNULL)
    for name in BUILT:
        shutil.copy2(code / "build" / "p" / name, code / name)


def _short(test: str) -> str:
    file, _, name = test.partition("::")
    return f"{Path(file).stem}::{name}" if name else Path(file).stem


if __name__ == "__main__":
    sys.exit(main())
