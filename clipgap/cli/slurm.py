"""`clipgap slurm`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Dealt, command, dealt
from clipgap.cli.shell import Shell
from clipgap.errors import InputError, UsageError
from clipgap.files.addresses import public
from clipgap.files.documents import MANIFEST
from clipgap.options import argument, fields_of, option
from clipgap.runs.slurm import SlurmOptions

if TYPE_CHECKING:
    from clipgap.runs.slurm import Array


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    # What follows the name of the inner command is that command's.
    command(
        app,
        "slurm",
        "--tasks 64 --dry-run scan laion400m --test val=val.npy -o scan",
        {"allow_interspersed_args": False},
    )(slurm)


def slurm(
    shell: Shell,
    options: SlurmOptions,
    dry_run: bool = option(False, "Write the job script, and submit nothing."),
    retry: bool = option(False, "Submit again what has failed, and the merging."),
    call: tuple[str, ...] = argument(
        "A command that fills a folder by units, with its options.", metavar="COMMAND..."
    ),
) -> int:
    """Run a command as a Slurm array, a share a task; a last task merges them.

    Writes OUT.slurm/job.sh and submits it. A task that is requeued, after a lost node or near its
    time limit, goes on where it was. Options of Slurm come before COMMAND.
    """
    from clipgap.dedup.api import common_name
    from clipgap.runs.slurm import Array

    typed = _output_of(shell, call)
    array = Array(common_name(typed), typed, call, options)
    if not dry_run:
        array.check_size()
    if retry:
        array.check_written()
    else:
        if (array.out / MANIFEST).exists():
            raise InputError(f"{array.out} is finished already. Remove it or name another --out.")
        array.write()
    shares = array.to_retry() if retry else list(range(options.tasks))
    jobs = [] if dry_run else array.submit(shares)
    result = {"out": array.out, "script": array.script, "shares": shares, "jobs": jobs}
    shell.result(result, _describe(array, shares, jobs) if jobs or dry_run else [_NOTHING])
    return 0


_NOTHING = "Nothing to submit: all shares are done or under way, and so is the merging."


def _output_of(shell: Shell, call: Sequence[str]) -> str:
    """The folder that the inner call fills; refuses a call that cannot be dealt."""
    declared, name, rest = shell.app, "", list(call)
    while rest and (inner := getattr(declared, "commands", {}).get(rest[0])) is not None:
        declared, name = inner, f"{name} {rest.pop(0)}".strip()
    known = {parameter.name for parameter in declared.params}
    if not fields_of(Dealt).keys() <= known:
        raise UsageError(
            f"{name or call[0]!r} is not a command whose work can be dealt to tasks; such are "
            + ", ".join(dealt(shell.app))
        )
    values: dict[str, Any] = declared.make_context(f"clipgap {name}", rest).params
    if values["upload"] is not None:
        raise UsageError(
            "leave --upload out of COMMAND; once all is merged, this puts it up: clipgap merge "
            f"OUT.parts -o OUT --resume --upload {public(values['upload'])}"
        )
    if given := [key for key in fields_of(Dealt) if values[key] not in (None, False, [], ())]:
        flag = f"--{given[0].replace('_', '-')}"
        raise UsageError(f"leave {flag} out of COMMAND: each task is given what it needs")
    if values["out"] is None:
        raise UsageError("--out is missing in COMMAND: name the folder that it shall fill")
    return str(values["out"])


def _describe(array: Array, shares: Sequence[int], jobs: Sequence[str]) -> Iterator[str]:
    out, folder = shlex.quote(str(array.out)), shlex.quote(str(array.folder))
    of = array.options.tasks
    if not jobs:
        yield f"Nothing is submitted. The script: {folder}/job.sh"
        yield "To submit it:"
        yield f"  job=$(sbatch --parsable {folder}/job.sh)"
        yield f"  sbatch --array={of} --dependency=afterok:$job {folder}/job.sh"
        return
    if shares:
        yield f"Submitted {words.plural(len(shares), 'share')} of {of:,} as job {jobs[0]}"
    yield f"Submitted the merging, after all shares, as job {jobs[-1]}"
    yield f"  script  {folder}/job.sh"
    yield f"  logs    {folder}/*.log, named by job and task"
    yield f"  watch   clipgap status {out}; squeue --jobs {','.join(jobs)}"
    yield f"  stop    scancel {' '.join(jobs)}"
    yield "  go on   this command with --retry: what has failed is submitted again"
