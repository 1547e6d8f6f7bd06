"""Spoil files of every kind until readers have seen enough; they read them, or refuse them by name.

    python -m scripts.fuzz                          10,000 files for each reader of tests/readers
    python -m scripts.fuzz "tar shard" npy --cases 100000
    python -m scripts.fuzz --table [FILE]...        write the table of docs/reliability.md

Where atheris is installed it goes where the code has not been yet; elsewhere files are spoilt as
`tests/test_fuzz.py` does it. What comes out of a reader and is none of our errors is a finding: its
file is kept in `--findings`, and belongs into tests/corpus when that is mended. What has been done
stands in a ledger. Exits with 1 if anything is found.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from clipgap.files import lines
from scripts.protections import PAGE, ROOT, replace_part

LEDGER = ROOT / "build" / "fuzz.jsonl"
FINDINGS = ROOT / "build" / "findings"
BEGIN, END = "<!-- fuzz -->", "<!-- end of fuzz -->"
SLOW = 20  # seconds of a processor that no file may take
ENDLESS = 600  # seconds by the clock, which others' work fills too, after which one is given up


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="*", help="readers, as in tests/readers")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    parser.add_argument("--findings", type=Path, default=FINDINGS)
    parser.add_argument("--keep", type=Path, help="a folder for files that led somewhere new")
    parser.add_argument("--table", nargs="*", type=Path, help="write the table of the docs")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.table is not None:
        replace_part(PAGE, BEGIN, END, table(asked.table or [LEDGER]))
    elif asked.child:
        _child(asked.name[0], asked.cases, asked.findings, asked.keep)
    else:
        return _all(asked)
    return 0


def _all(asked: argparse.Namespace) -> int:
    """Each reader in a process of its own, since libraries in C++ and Rust may end theirs."""
    from tests.readers import READERS

    asked.ledger.parent.mkdir(parents=True, exist_ok=True)
    asked.findings.mkdir(parents=True, exist_ok=True)
    found = 0
    for reader in READERS:
        if asked.name and reader.name not in asked.name:
            continue
        before, begun = set(asked.findings.iterdir()), time.monotonic()
        more = ["--cases", str(asked.cases), "--findings", str(asked.findings)]
        if asked.keep is not None:
            more += ["--keep", str(asked.keep)]
        command = [sys.executable, "-m", "scripts.fuzz", reader.name, "--child", *more]
        ended = subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL).returncode
        new = sorted(path.name for path in set(asked.findings.iterdir()) - before)
        if ended and not new:
            new = [f"the process ended with {ended}"]
        found += len(new)
        seconds = round(time.monotonic() - begun)
        record = {"reader": reader.name, "cases": asked.cases if not ended else 0}
        lines.append(asked.ledger, [{**record, "seconds": seconds, "findings": new}])
        print(
            f"{reader.name}: {asked.cases:,} files in {seconds} s, {len(new)} findings",
            *new,
            flush=True,
        )
    return 1 if found else 0


def _child(name: str, cases: int, findings: Path, keep: Path | None) -> None:
    try:
        import atheris
    except ImportError:
        atheris = None
    if atheris is not None:
        with atheris.instrument_imports(include=["clipgap"]):
            pass
    from tests.readers import READERS
    from tests.test_fuzz import contents_of, spoilt

    (reader,) = [one for one in READERS if one.name == name]
    seen = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="clipgap-fuzz-") as folder:
        place = Path(folder, "files")
        place.mkdir()
        contents = contents_of(reader, place)

        def one(content: bytes) -> None:
            begun = time.process_time()
            try:
                reader.accepts(place, content)
                if (took := time.process_time() - begun) > SLOW:
                    raise TimeoutError(f"it took {took:.0f} s")
            except Exception as error:
                _note(findings, reader.name, content, error, seen)
            except BaseException as error:
                if type(error).__name__ != "PanicException":  # of Rust
                    raise
                _note(findings, reader.name, content, error, seen)

        if atheris is None:
            for content in islice(spoilt(contents, random.Random(cases)), cases):
                one(content)
            return
        corpus = Path(folder, "corpus") if keep is None else keep / name.replace(" ", "-")
        corpus.mkdir(parents=True, exist_ok=True)
        for content in contents:
            (corpus / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
        options = [f"-runs={cases}", f"-timeout={ENDLESS}", "-rss_limit_mb=4096", "-seed=1"]
        options += [f"-artifact_prefix={findings}/{name.replace(' ', '-')}-", "-max_len=100000"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], one)
        atheris.Fuzz()


def _note(
    findings: Path, name: str, content: bytes, error: BaseException, seen: Counter[str]
) -> None:
    """Keep a file for each place where something went wrong."""
    import traceback

    last = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in last if "/clipgap/" in frame.filename][-1:] or last[-1:]
    where = f"{type(error).__name__} in {Path(ours[0].filename).name}, line {ours[0].lineno}"
    seen[where] += 1
    if seen[where] == 1:
        stem = f"{name} {where}".replace(" ", "-").replace(",", "")
        (findings / stem).write_bytes(content)
        (findings / f"{stem}.txt").write_text("".join(traceback.format_exception(error)))


def table(ledgers: Sequence[Path]) -> str:
    """The counts of all that ledgers tell, as a table for people."""
    cases, found = Counter[str](), Counter[str]()
    for ledger in ledgers:
        for record in lines.read(ledger, dict):
            cases[record["reader"]] += record["cases"]
            found[record["reader"]] += len(record["findings"])
    rows = [f"| {name} | {count:,} |" for name, count in cases.items()]
    return "\n".join(["| reader | files |", "|---|--:|", *rows, f"| all | {cases.total():,} |"])


if __name__ == "__main__":
    sys.exit(main())
