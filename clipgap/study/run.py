"""A whole study: every stage whose output does not stand yet, one after the other."""

from __future__ import annotations

import shlex
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clipgap.errors import QUARANTINED, ClipgapError, InputError, Interrupted, UsageError
from clipgap.files.addresses import public, require_local
from clipgap.files.atomic import write_atomic
from clipgap.files.toml import nearest
from clipgap.keep.lists import open_keep
from clipgap.packages import require_for
from clipgap.runs.lock import only_writer
from clipgap.study.expand import Stage, check_named, dependants, expand, ordered
from clipgap.study.ledger import FOLDER, Finding, Ledger, fingerprint
from clipgap.study.process import Stages, start_stages
from clipgap.study.recipe import Recipe, find_recipe, read_recipe

PRECIOUS_SECONDS = 600.0
"""A finished stage that took longer than this is not replaced unless that is asked for."""


@dataclass(frozen=True)
class Step:
    """A stage, and what is to happen to it."""

    stage: Stage
    finding: Finding
    runs: bool
    why: str  # it runs, or cannot

    @property
    def call(self) -> str:
        return shlex.join(["clipgap", *self.stage.command.words, *self.stage.arguments])


@dataclass(frozen=True)
class Plan:
    """What a run would do now."""

    recipe: Recipe
    folder: Path
    steps: tuple[Step, ...]
    missing: tuple[str, ...]  # data that the chosen stages need and nobody has given
    costs: Mapping[str, str] = field(default_factory=dict)  # what a stage's own --dry-run says

    @property
    def to_run(self) -> list[str]:
        return [step.stage.name for step in self.steps if step.runs]


@dataclass(frozen=True)
class StageOutcome:
    """One stage that ran."""

    name: str
    seconds: float
    exit_code: int


@dataclass(frozen=True)
class StudyResult:
    """How a run ended."""

    recipe: Recipe
    folder: Path
    ran: tuple[StageOutcome, ...]
    skipped: tuple[str, ...]
    results: Mapping[str, str]  # what the stages of `show` printed

    @property
    def quarantined(self) -> bool:
        return any(outcome.exit_code == QUARANTINED for outcome in self.ran)


@dataclass(frozen=True)
class Starting:
    """Told before each stage."""

    number: int  # among all stages, so that it is the same after a stop
    total: int
    step: Step


OnStage = Callable[[Starting], None]


class Study:
    """A recipe and the folder that it fills."""

    def __init__(
        self,
        recipe: str | Path | Recipe,
        folder: str | Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(recipe, Recipe):
            recipe = read_recipe(find_recipe(recipe), settings)
        self.recipe = recipe
        if folder is not None:
            require_local(folder)
        self.folder = Path(folder) if folder is not None else Path(f"clipgap-{self.recipe.name}")
        self.stages = ordered(expand(self.recipe, self.folder))
        check_named(self.stages, self.recipe.show, f"{self.recipe.at('study', 'show')}: show")
        self._ledger = Ledger(self.recipe, self.folder, self.stages)

    def plan(
        self, only: Sequence[str] = (), again_from: Sequence[str] = (), costs: bool = False
    ) -> Plan:
        """What `run` would do; with `costs`, what the stages that could start say of theirs."""
        check_named(self.stages, only, "--only")
        check_named(self.stages, again_from, "--from")
        if only and again_from:
            raise UsageError("give either --only or --from")
        chosen = set(only) if only else set(self.stages)
        forced = set(only) | dependants(self.stages, again_from)
        steps: list[Step] = []
        pending: set[str] = set()
        for name, stage in self.stages.items():
            step = self._step(stage, name in chosen, name in forced, pending)
            if step.runs or step.finding.condition != "done":
                pending.add(name)
            steps.append(step)
        plan = Plan(self.recipe, self.folder, tuple(steps), tuple(self._missing(steps)))
        if not costs:
            return plan
        return Plan(plan.recipe, plan.folder, plan.steps, plan.missing, self._costs(plan, pending))

    def run(
        self,
        only: Sequence[str] = (),
        again_from: Sequence[str] = (),
        overwrite: bool = False,
        quiet: bool = False,
        on_stage: OnStage = lambda starting: None,
        stop: threading.Event | None = None,
    ) -> StudyResult:
        """Bring the study up to date; raises at the first stage that fails.

        What a stage shows while it runs goes to stderr, unless `quiet`.
        """
        plan = self.plan(only, again_from)
        if plan.missing:
            raise InputError.listing(
                f"{self.recipe.file} needs data that is not there:", plan.missing
            )
        if only:
            self._refuse_gaps(plan, only)
        wanted = [step.stage.command.name for step in plan.steps if step.runs]
        require_for(*dict.fromkeys(wanted))
        forced = set(only) | dependants(self.stages, again_from)
        total = len(plan.steps)
        ran: list[StageOutcome] = []
        with self._lock(), start_stages() as processes:
            for number, step in enumerate(plan.steps, 1):
                name = step.stage.name
                if not step.runs:
                    continue
                # Looked at again: a stage before it may have come out as it was.
                now = self._step(step.stage, True, name in forced, set())
                if not now.runs:
                    continue
                _refuse(now, overwrite or name in forced)
                on_stage(Starting(number, total, now))
                ran.append(self._run(now, processes, quiet, stop))
                if stop is not None and stop.is_set():
                    raise Interrupted("stopped; the same command goes on from here")
        names = {outcome.name for outcome in ran}
        return StudyResult(
            recipe=self.recipe,
            folder=self.folder,
            ran=tuple(ran),
            skipped=tuple(name for name in self.stages if name not in names),
            results={name: self._printed(name) for name in self.recipe.show},
        )

    def _step(self, stage: Stage, chosen: bool, forced: bool, pending: set[str]) -> Step:
        found = self._ledger.find(stage)
        if not chosen:
            return Step(stage, found, False, "not asked for")
        if forced:
            return Step(stage, found, True, "asked for")
        if found.condition != "done":
            return Step(stage, found, True, found.why)
        if waits := [name for name in stage.after if name in pending]:
            return Step(stage, found, True, f"if {', '.join(waits)} comes out differently")
        return Step(stage, found, False, "")

    def _missing(self, steps: Sequence[Step]) -> Iterator[str]:
        used = {path for step in steps if step.runs for path in step.stage.paths}
        for name, place in self.recipe.paths.items():
            if name not in used:
                continue
            at = self.recipe.at("paths", name)
            if not place.where:
                yield f"{name} ({at}): {place.about}. Say where it is: --set {name}=PATH"
            elif fingerprint(place.where) == "missing":
                yield f"{name} ({at}): {place.where} does not exist; wanted: {place.about}"

    def _refuse_gaps(self, plan: Plan, only: Sequence[str]) -> None:
        """With --only, what the chosen stages read must be there."""
        states = {step.stage.name: step.finding for step in plan.steps}
        for name in only:
            for earlier in self.stages[name].after:
                if earlier not in only and states[earlier].condition != "done":
                    raise InputError(
                        f"--only {name}: it reads {earlier}, which must run first "
                        f"({states[earlier].why})"
                    )

    def _run(
        self, step: Step, processes: Stages, quiet: bool, stop: threading.Event | None
    ) -> StageOutcome:
        stage = step.stage
        flags = ["--quiet"] if quiet else []
        if stage.out is not None and stage.out.exists():
            flags += stage.command.going_on(again=not _worth_mending(step.finding))
        self._ledger.begin(stage)
        began = time.monotonic()
        code = processes.run(
            [*stage.command.words, *flags, *stage.sized(self._size)],
            stdout=self._ledger.result(stage.name),
            stop=stop,
        )
        seconds = time.monotonic() - began
        if code == -signal.SIGTERM and stop is not None and stop.is_set():
            code = Interrupted.exit_code  # it was asked to leave before it could listen
        if code not in (0, QUARANTINED):
            raise _failure(step, code)
        self._ledger.finish(stage, seconds, code)
        return StageOutcome(stage.name, seconds, code)

    def _costs(self, plan: Plan, pending: set[str]) -> dict[str, str]:
        """What the stages whose inputs are all there say they would take."""
        ready = [
            step.stage
            for step in plan.steps
            if step.runs
            and step.stage.command.has("dry-run")
            and not pending.intersection(step.stage.after)
            and all(fingerprint(self.recipe.paths[p].where) != "missing" for p in step.stage.paths)
        ]
        if not ready:
            return {}
        told = {}
        with tempfile.TemporaryDirectory() as folder, start_stages() as processes:
            said, problems = Path(folder, "said.txt"), Path(folder, "problems.txt")
            for stage in ready:
                call = [*stage.command.words, "--dry-run", *stage.sized(self._size)]
                code = processes.run(call, stdout=said, stderr=problems)
                told[stage.name] = (said if code == 0 else problems).read_text()
        return told

    def _size(self, name: str, size: str) -> int:
        """A size of the keep-list that a stage made."""
        keep = open_keep(self.folder / name)
        found = keep.sizes.get(size)
        if not isinstance(found, int):
            known = [key for key, value in keep.sizes.items() if type(value) is int]
            raise InputError(f"{keep.path} has no size {size!r}; {nearest(size, known)}")
        return found

    def _printed(self, name: str) -> str:
        path = self._ledger.result(name)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Make the folder ours, and keep a second run out of it."""
        inner = self.folder / FOLDER
        if self.folder.is_dir() and not inner.exists() and any(self.folder.iterdir()):
            raise InputError(
                f"{self.folder} is not empty and holds no study; name another folder with --out"
            )
        try:
            inner.mkdir(parents=True, exist_ok=True)
            with write_atomic(inner / "recipe.toml") as temporary:
                temporary.write_text(public(self.recipe.text), encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write to {self.folder}: {error.strerror}") from error
        with only_writer(self.folder):
            yield


def _refuse(step: Step, allowed: bool) -> None:
    """Refuse to write over what this study did not make, or what took long to make."""
    name, found = step.stage.name, step.finding
    if found.condition == "foreign" and not allowed:
        raise InputError(f"stage {name}: {found.why}. Move it, or give --overwrite")
    long = found.seconds is not None and found.seconds > PRECIOUS_SECONDS
    if found.condition == "changed" and long and not allowed:
        raise InputError(
            f"stage {name}: {found.why}. Its output took {found.seconds:,.0f} s to make, so it is "
            "kept until you give --overwrite, or undo the change"
        )


def _worth_mending(found: Finding) -> bool:
    """Whether to go on with what is there; what is made in no time is made anew, and whole."""
    precious = found.seconds is not None and found.seconds > PRECIOUS_SECONDS
    return found.condition == "unfinished" or (found.condition == "damaged" and precious)


def _failure(step: Step, code: int) -> ClipgapError:
    name = step.stage.name
    if code in (Interrupted.exit_code, 130):
        stopped = Interrupted(f"stage {name} was stopped; the same command goes on from here")
        stopped.exit_code = code
        return stopped
    how = f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"
    failed = ClipgapError(
        f"stage {name} ({step.stage.place}) {how}. Its own words are above; the call was\n"
        f"  {step.call}\nThe same command goes on from here."
    )
    failed.exit_code = code if code > 0 else 1
    return failed


def run_study(
    recipe: str | Path,
    folder: str | Path | None = None,
    *,
    settings: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    again_from: Sequence[str] = (),
    overwrite: bool = False,
    quiet: bool = False,
    on_stage: OnStage = lambda starting: None,
    stop: threading.Event | None = None,
) -> StudyResult:
    """Run a recipe: a file, or the name of one that clipgap brings."""
    study = Study(recipe, folder, settings)
    return study.run(only, again_from, overwrite, quiet, on_stage, stop)
