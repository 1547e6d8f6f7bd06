"""`verify`: proves that what a folder holds is what its manifest says, or names what is wrong.

Checksums show that the files are those that were written. That what was written is true is shown by
deriving it anew, as far as its inputs are there. What is not known here is not right: a kind, a
version, a rule or a value that makes no sense fails.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from clipgap.errors import QUARANTINED, InputError, UsageError
from clipgap.files.documents import MANIFEST, format_of
from clipgap.files.folders import require_files
from clipgap.files.remote import path_of
from clipgap.keep.certificates import require_certificate_place
from clipgap.kernels.options import Compute
from clipgap.options import Options, takes_options
from clipgap.runs.how import OnProgress, ignore
from clipgap.store.own import STORE_FILE
from clipgap.store.provenance import EMBED
from clipgap.verify.analyses import prove_analysis
from clipgap.verify.captioned import prove_captioned
from clipgap.verify.checks import Asked, Checks, Problems, VerifyReport
from clipgap.verify.exports import prove_export
from clipgap.verify.folders import (
    prove_embeddings,
    prove_links,
    prove_rendered,
    prove_shards,
    prove_store,
)
from clipgap.verify.heads import prove_audit, prove_domains, prove_heads
from clipgap.verify.models import prove_evaluation, prove_training
from clipgap.verify.options import ScanChecks
from clipgap.verify.reports import prove_report
from clipgap.verify.scans import prove_scan
from clipgap.verify.splits import prove_split

LOG = logging.getLogger("clipgap")


@dataclass(frozen=True)
class Kind:
    """A kind of folder; of what else can be said, only `uses` does anything for it."""

    noun: str
    prove: Callable[[Asked, Checks], Path | None]  # returns the certificate that it wrote
    uses: tuple[str, ...] = ()


KINDS = {
    "clipgap-scan": Kind("scan", prove_scan, ("train", "tests", "options")),
    "clipgap-keep": Kind("split", prove_split, ("train", "tests", "certify", "compute")),
    "clipgap-heads": Kind("folder of heads", prove_heads),
    "clipgap-domains": Kind("folder of domains", prove_domains),
    "clipgap-audit": Kind("audit", prove_audit),
    "clipgap-shards": Kind("folder of filtered shards", prove_shards),
    EMBED: Kind("store of embeddings", prove_embeddings),
    "clipgap-eval": Kind("evaluation", prove_evaluation),
    "clipgap-analysis": Kind("analysis", prove_analysis),
    "clipgap-train": Kind("training run", prove_training),
    "clipgap-report": Kind("report", prove_report),
    "clipgap-export": Kind("export", prove_export),
    "clipgap-rendered": Kind("folder of rendered images", prove_rendered),
    "clipgap-captioned": Kind("folder of captioned shards", prove_captioned),
    "clipgap-links": Kind("folder of links", prove_links),
}
"""By the `format` of the manifest: all that a command of clipgap fills."""

_STORE = Kind("store", prove_store)
_RECORDS = ".study"
"""Where a study notes what became of its stages: a document each, beside what they printed."""

# What a check may stumble over that believes a value of a document to be of its type.
_STUMBLES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@takes_options
def verify(
    path: Any,
    *,
    train: Any = None,
    tests: Mapping[str, Any] | None = None,
    certify: str | Path | None = None,
    on_progress: OnProgress | None = None,
    options: ScanChecks,
    compute: Compute,
) -> VerifyReport:
    """Check any folder that clipgap has filled, by what its manifest says that it is.

    `path` is the folder, or what made it: a scan, a split, a keep-list, a report. Of a scan:
    checksums, schemas, counts, a sample of `sample` training rows and test points derived anew by
    the oracle, and every tie; with `full`, everything derived anew. Of a split: every row, by its
    rule; `certify` is where to write the certificate, as JSON, if all is right. Of a study: each
    stage's output. `train` and `tests` say where the inputs lie now, if not where the manifest
    says.
    """
    folder = _folder_of(path)
    asked = Asked(
        folder,
        train,
        tests or {},
        None if certify is None else path_of(certify),
        options,
        compute,
        on_progress or ignore,
    )
    checks = Checks(asked.on_progress)
    kind = _kind_of(folder)
    require_files(folder)
    _refuse_idle(kind, asked)
    if asked.certify is not None:
        require_certificate_place(asked.certify, folder)
    certificate = None
    try:
        certificate = kind.prove(asked, checks)
    except _STUMBLES as error:
        LOG.debug("stumbled over a value of %s", folder, exc_info=True)
        problems = Problems()
        problems.add(f"it says something that makes no sense ({type(error).__name__}: {error})")
        checks.add(MANIFEST, problems, "")
    return VerifyReport(str(folder), tuple(checks.done), certificate)


def _folder_of(made: Any) -> Path:
    """The folder of a result, or a path as it is."""
    if isinstance(made, str | Path):
        return path_of(made)
    made = getattr(made, "keep", made)  # of a split
    path = getattr(made, "path", None)
    if not isinstance(path, str | Path):
        raise UsageError(
            f"{made!r} lies in no folder that could be verified; give a path, or what was written"
        )
    return path_of(path)


def noun_of(folder: Path) -> str:
    """What people call such a folder."""
    return _kind_of(folder).noun


def is_split(folder: Path) -> bool:
    """Whether there can be a certificate of it."""
    return format_of(folder / MANIFEST) == "clipgap-keep"


def _kind_of(folder: Path) -> Kind:
    if not (folder / MANIFEST).exists():
        if (folder / STORE_FILE).exists():
            return _STORE
        if (folder / _RECORDS).is_dir():
            return Kind("study", _prove_study)
        raise InputError(
            f"{folder} is not a finished scan, split or other output of clipgap: it has no "
            f"{MANIFEST}. If its making was interrupted, run the same command again with --resume."
        )
    found = format_of(folder / MANIFEST)
    if found not in KINDS:
        said = "is no document of clipgap" if found is None else f"is of the unknown kind {found!r}"
        raise InputError(
            f"{folder / MANIFEST} {said}, or was damaged; there are: {', '.join(KINDS)}"
        )
    return KINDS[found]


def _refuse_idle(kind: Kind, asked: Asked) -> None:
    """Refuse what would do nothing, as if it had been heard."""
    groups: dict[str, Options] = {"options": asked.options, "compute": asked.compute}
    given = [
        name.replace("_", "-")
        for group, values in groups.items()
        if group not in kind.uses
        for name in (field.name for field in fields(values))
        if getattr(values, name) != getattr(type(values)(), name)
    ]
    for name, flag in (("train", "train"), ("tests", "test"), ("certify", "certificate")):
        value = getattr(asked, name)
        if name not in kind.uses and value is not None and value != {}:
            given.append(flag)
    if given:
        raise UsageError(f"--{given[0]} does nothing for a {kind.noun}")


def _prove_study(asked: Asked, checks: Checks) -> None:
    """Each stage was finished, and what it left is right."""
    for record in sorted((asked.path / _RECORDS).glob("*.json")):
        problems, out = Problems(), asked.path / record.stem
        seen = "finished; it leaves no folder"
        left = _left_by(record)
        if left is None:
            problems.add("was begun, but not finished; run the recipe again")
        elif left and not out.is_dir():
            problems.add(f"{out} is missing")
        elif left:
            try:
                report = verify(out, on_progress=asked.on_progress)
                seen = f"{noun_of(out)}, {len(report.checks):,} checks"
                problems.add_all(f"{c.name}: {c.detail}" for c in report.checks if not c.ok)
            except InputError as error:
                problems.add(str(error))
        checks.add(f"stage {record.stem}", problems, seen)


def _left_by(record: Path) -> bool | None:
    """Whether a stage left a folder; None if it was not finished."""
    try:
        document = json.loads(record.read_bytes())
        if "output" not in document or document["exit_code"] not in (0, QUARANTINED):
            return None
        return bool(document["output"] != "none")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"cannot read {record}: {error}. Run the recipe again.") from error
