"""A run in shares as a Slurm array: the job script, and the few programs of Slurm that it needs.

    OUT.slurm/job.sh           tasks 0 to K-1 each do a share, task K merges what they have made
    OUT.slurm/JOB_TASK.log     what each of them says
    OUT.slurm/jobs.jsonl       what was submitted

Slurm is asked by its programs alone. A task that is requeued, for whatever reason, goes on.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipgap.errors import InputError, MissingDependency, UsageError
from clipgap.files import lines
from clipgap.files.atomic import write_atomic
from clipgap.files.folders import make_folder
from clipgap.options import Options, option
from clipgap.runs.lock import cannot_make
from clipgap.runs.shares import MOST, parts_folder, ranges
from clipgap.runs.status import status_of

_JOBS = "jobs.jsonl"


@dataclass(frozen=True)
class SlurmOptions(Options):
    """What each task asks of Slurm."""

    tasks: int = option(16, "How many shares the work is dealt to.", metavar="K", min=1, max=MOST)
    at_once: int | None = option(
        None, "Run no more than so many at a time.", metavar="N", min=1, shown="as Slurm likes"
    )
    time: str | None = option(None, "Time limit of a task, as Slurm writes it.", metavar="TIME")
    partition: str | None = option(None, "The partition.", metavar="NAME")
    account: str | None = option(None, "The account.", metavar="NAME")
    constraint: str | None = option(None, "Features that nodes must have.", metavar="FEATURES")
    gpus: int | None = option(None, "GPUs of a task.", metavar="N", min=1)
    cpus: int | None = option(None, "Cores of a task.", metavar="N", min=1)
    mem: str | None = option(None, "Memory of a task, as Slurm writes it.", metavar="SIZE")
    sbatch: tuple[str, ...] = option(
        (), "Any other option of sbatch, such as --sbatch=--qos=low. Repeatable.", metavar="OPTION"
    )
    setup: tuple[str, ...] = option(
        (),
        "A line of shell before the command, such as 'module load cuda'. Repeatable.",
        metavar="LINE",
    )
    container: str | None = option(
        None, "Run the `clipgap` of this image.", metavar="IMAGE", shown="no container"
    )
    runtime: str = option("apptainer", "What runs containers.", choices=("apptainer", "pyxis"))
    mount: tuple[str, ...] = option(
        (), "A folder that the container shall see besides this one. Repeatable.", metavar="FOLDER"
    )


@dataclass(frozen=True)
class Array:
    """The run that `call` is, a command of clipgap with its options.

    `typed` is its --out, and `out` the folder that is meant; where there are several, what all of
    them are named after.
    """

    out: Path
    typed: str
    call: Sequence[str]
    options: SlurmOptions

    @property
    def folder(self) -> Path:
        return _folder(self.out)

    @property
    def script(self) -> Path:
        return self.folder / "job.sh"

    @property
    def text(self) -> bytes:
        """The script; names in it are the bytes that they are on disk."""
        return os.fsencode("\n".join([*self._lines(), ""]))

    def check_written(self) -> None:
        """Refuse to go on by a script that deals otherwise: its tasks would do other shares."""
        if self.script.read_bytes() != self.text:
            raise InputError(
                f"{self.script} was written for another call; --retry takes the same options, in "
                "the same folder"
            )

    def write(self) -> None:
        """Write the script."""
        text, folder = self.text, self.folder.absolute()
        with cannot_make(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            make_folder(folder.parent, folder.name)
        with write_atomic(self.script) as temporary:
            temporary.write_bytes(text)

    def _lines(self) -> Iterator[str]:
        options, of = self.options, self.options.tasks
        yield "#!/bin/bash"
        # A line break in a name must not end the comment.
        yield f"# Written by clipgap: {shlex.join(self.call)}".replace("\n", "\n# ")
        yield f"# Tasks 0 to {of - 1} do a share each; task {of} merges them. To submit by hand:"
        yield "#   job=$(sbatch --parsable job.sh)"
        yield f"#   sbatch --array={of} --dependency=afterok:$job job.sh"
        yield "# A task whose node is lost is requeued, and so is one that stops since its time is"
        yield "# nearly up; both go on with what is left, and write on in the same log."
        yield from (f"#SBATCH {line}" for line in self._directives())
        yield ""
        yield f"cd {shlex.quote(str(Path.cwd()))} || exit 1"
        if options.cpus is not None:
            yield "# A step does not inherit this, and clipgap would take all cores that it sees."
            yield f"export SRUN_CPUS_PER_TASK={options.cpus} CLIPGAP_THREADS={options.cpus}"
        yield from options.setup
        yield f'clipgap() {{ exec {self._program()} "$@"; }}'
        yield ""
        share = f'--shard-index "$SLURM_ARRAY_TASK_ID" --num-shards {of}'
        yield f'if [ "$SLURM_ARRAY_TASK_ID" = {of} ]; then'
        merge = ["merge", str(parts_folder(self.out)), "-o", self.typed, "--resume"]
        yield f"  clipgap {shlex.join(merge)} &"
        yield "else"
        yield f"  clipgap {shlex.join(self.call)} {share} --resume &"
        yield "fi"
        yield "step=$!"
        yield from _ENDING

    def _directives(self) -> Iterator[str]:
        options, of = self.options, self.options.tasks
        yield f"--job-name=clipgap-{re.sub('[^A-Za-z0-9_.-]', '_', self.out.name)}"
        yield f"--array=0-{of - 1}{self._most}"
        yield f"--output={_directive(f'{self.folder.absolute()}/%A_%a.log')}"
        yield "--open-mode=append"
        yield "--requeue"
        yield "--signal=B:USR1@120"
        yield "--ntasks=1"
        asked = {
            "time": options.time,
            "partition": options.partition,
            "account": options.account,
            "constraint": options.constraint,
            "gpus-per-task": options.gpus,
            "cpus-per-task": options.cpus,
            "mem": options.mem,
        }
        yield from (
            f"--{name}={_directive(str(value))}"
            for name, value in asked.items()
            if value is not None
        )
        yield from map(_line, options.sbatch)

    @property
    def _most(self) -> str:
        """How many tasks may run at a time, as --array wants it."""
        return "" if self.options.at_once is None else f"%{self.options.at_once}"

    def _program(self) -> str:
        options, here = self.options, str(Path.cwd())
        if options.container is None:
            return shlex.join(["srun", sys.executable, "-m", "clipgap"])
        seen = [here, *(str(Path(mount).absolute()) for mount in options.mount)]
        if options.runtime == "pyxis":
            mounts = ",".join(f"{folder}:{folder}" for folder in seen)
            flags = [f"--container-mounts={mounts}", f"--container-workdir={here}"]
            return shlex.join(["srun", f"--container-image={options.container}", *flags, "clipgap"])
        flags = ["--nv"] * (options.gpus is not None) + [f"--bind={','.join(seen)}"]
        flags += [f"--pwd={here}"]
        return shlex.join(["srun", "apptainer", "exec", *flags, options.container, "clipgap"])

    # --- what is asked of Slurm

    def check_size(self) -> None:
        """Refuse more tasks than the cluster's arrays can have."""
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", _slurm("scontrol", "show", "config"))
        if found is not None and self.options.tasks >= int(found[1]):
            raise UsageError(
                f"--tasks {self.options.tasks:,}: arrays of this cluster have at most "
                f"{int(found[1]) - 1:,} tasks besides the one that merges; a task may do any "
                "number of units"
            )

    def submit(self, shares: Sequence[int]) -> list[str]:
        """Submit these shares, if any, and the merging after them and those under way."""
        active, merging = self.active(), self.options.tasks
        if not shares and any(task == merging for _, task in active):
            return []
        after = [f"{job}_{share}" for job, share in active if share != merging]
        jobs = []
        if shares:
            jobs = [self._submit(f"--array={ranges(shares)}{self._most}")]
            after += jobs
        needed = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
        jobs.append(self._submit(f"--array={merging}", *(needed if after else ())))
        lines.append(self.folder / _JOBS, [{"job": job} for job in jobs])
        return jobs

    def _submit(self, *asked: str) -> str:
        """The number of the job; a federation tells its cluster behind it."""
        return _slurm("sbatch", "--parsable", *asked, str(self.script)).partition(";")[0]

    def active(self) -> list[tuple[str, int]]:
        """The tasks that wait or run: of which job, and which of its array."""
        ours = set(lines.read(self.folder / _JOBS, lambda line: str(line["job"])))
        queue = _slurm("squeue", "--noheader", "--array", "--format=%F %K") if ours else ""
        found = (line.split() for line in queue.splitlines())
        return [(job, int(task)) for job, task in found if job in ours and task.isdigit()]

    def to_retry(self) -> list[int]:
        """The shares that are neither done nor under way."""
        runs = status_of(self.out).runs if parts_folder(self.out).is_dir() else ()
        done = {share for run in runs if run.state == "done" for share in run.shares}
        active = {share for _, share in self.active()}
        return [s for s in range(self.options.tasks) if s not in done and s not in active]


def is_submitted(out: Path) -> bool:
    """Whether an array fills it."""
    return (_folder(out) / _JOBS).is_file()


def _folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.slurm")


_ENDING = """
# Signals come to this shell alone and are passed on; what is finished then is kept.
pass_on() { passed=yes; kill -"$1" "$step"; }
trap 'pass_on USR1' USR1
trap 'pass_on TERM' TERM
passed=yes
while [ "$passed" = yes ]; do  # a signal ends the waiting, but not the step
  passed=no
  wait "$step"
  code=$?
done

# 75: stopped in time, to go on; 4: done, with rows in quarantine.
if [ "$code" = 75 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
elif [ "$code" = 4 ]; then
  code=0
fi
exit "$code"
""".split("\n")[:-1]


def _directive(value: str) -> str:
    """A value as a line of #SBATCH takes it."""
    if '"' in value:
        raise UsageError(f"{value!r} cannot stand in a job script")
    return f'"{_line(value)}"' if " " in value else _line(value)


def _line(value: str) -> str:
    if "\n" in value:
        raise UsageError(f"{value!r} cannot stand in a job script")
    return value


def _slurm(*call: str) -> str:
    """What one of Slurm's programs says."""
    if shutil.which(call[0]) is None:
        raise MissingDependency(
            f"there is no {call[0]} here: run this where jobs are submitted from, or with "
            "--dry-run, which only writes the script"
        )
    ended = subprocess.run(call, capture_output=True, text=True)
    if ended.returncode:
        raise InputError(f"{call[0]} refuses: {ended.stderr.strip() or ended.stdout.strip()}")
    return ended.stdout.strip()
