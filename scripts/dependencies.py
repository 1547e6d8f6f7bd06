"""What clipgap and its extras install beside it: under which licences, and with which known holes.

    python -m scripts.dependencies            a table: package, version, licence, for which extra
    python -m scripts.dependencies --audit    and what PyPI knows of vulnerabilities in them

Exits with 1 if what clipgap needs without any extra is not under a permissive licence, or if a
vulnerability is known. Where PyPI cannot be asked it says so, and that is no failure.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

PERMISSIVE = re.compile(r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Zlib|0BSD|Unlicense")
AUDIT = "pip-audit==2.10.1"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--audit", action="store_true", help="ask for known vulnerabilities, too")
    asked = parser.parse_args()
    needed = closure("clipgap", {""})
    for extra in sorted(metadata.metadata("clipgap").get_all("Provides-Extra", [])):
        for name in closure("clipgap", {extra}).keys() - needed.keys():
            needed[name] = extra
    wrong = []
    print("| package | version | licence | for |\n|---|---|---|---|")
    for name, extra in sorted(needed.items()):
        found = licence(name)
        print(f"| {name} | {metadata.version(name)} | {found} | {extra or 'all'} |")
        if not extra and not PERMISSIVE.search(found):
            wrong.append(name)
    print(*(f"{name} is needed by all, and not under a licence known here" for name in wrong))
    return 1 if wrong or (asked.audit and not audit(needed)) else 0


def closure(name: str, extras: set[str]) -> dict[str, str]:
    """All installed packages that this one needs with these extras."""
    found: dict[str, str] = {}
    left = [(name, extras)]
    while left:
        name, extras = left.pop()
        for requirement in _requirements(name, extras):
            try:
                metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                continue
            known = re.sub(r"[-_.]+", "-", requirement.name).lower()
            if known not in found:
                found[known] = ""
                left.append((requirement.name, requirement.extras or {""}))
    found.pop("clipgap", None)
    return found


def _requirements(name: str, extras: set[str]) -> Iterator[Requirement]:
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras
        ):
            yield requirement


def licence(name: str) -> str:
    """As its makers say it."""
    said = metadata.metadata(name)
    classifiers = [
        each.rpartition(" :: ")[2]
        for each in said.get_all("Classifier", [])
        if each.startswith("License ::") and each != "License :: OSI Approved"
    ]
    text = said.get("License-Expression") or ", ".join(classifiers) or said.get("License") or "?"
    return " ".join(text.split())[:60]


def audit(needed: dict[str, str]) -> bool:
    """Whether no hole is known, as far as anybody can be asked."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", AUDIT]
        if subprocess.run(install, check=False).returncode:
            print("WARNING: pip-audit cannot be installed: NO VULNERABILITIES ARE LOOKED UP")
            return True
        wanted = Path(folder, "wanted.txt")
        wanted.write_text("".join(f"{name}=={metadata.version(name)}\n" for name in needed))
        command = [python, "-m", "pip_audit", "-r", wanted, "--no-deps", "--disable-pip"]
        done = subprocess.run(
            [*command, "--progress-spinner", "off"], capture_output=True, text=True, check=False
        )
    unknown = done.stdout.count("could not be audited")
    if unknown == len(needed):
        print("WARNING: PyPI's advisories cannot be reached: NO VULNERABILITIES ARE LOOKED UP")
        return True
    print(f"{len(needed) - unknown} of {len(needed)} packages were looked up")
    if done.returncode:
        print(done.stdout, done.stderr)
    return not done.returncode


if __name__ == "__main__":
    sys.exit(main())
