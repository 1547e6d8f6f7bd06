"""From shards and a keep-list to a trained model.

LOGS/NAME/manifest.json      settings, data, checkpoint, last loss; written last
LOGS/NAME/checkpoints/       epoch_E.pt
LOGS/NAME/losses.jsonl       loss, learning rate and speed by step
LOGS/NAME/keys/              with log_keys: the samples of every batch of every rank
LOGS/NAME/quarantine.parquet   samples that could not be used; only if there are any
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

from clipgap import __version__
from clipgap.clip.train.logs import Quarantine, reached
from clipgap.clip.train.options import Place, TrainOptions
from clipgap.clip.train.plan import Ranks, TrainPlan, plan_train
from clipgap.errors import InputError, UsageError
from clipgap.files.parquet import FileSum
from clipgap.machine import versions
from clipgap.options import takes_options
from clipgap.runs.changes import changes, refuse_changes
from clipgap.runs.old_lock import only_writer
from clipgap.runs.old_output import OutputFolder, State, read_manifest
from clipgap.shards.quarantine import QUARANTINE, write_quarantine

FORMAT = "clipgap-train"
_MADE = (
    *("checkpoints", "keys", "losses.jsonl", QUARANTINE),
    *("out.log", "params.txt", "processes.log", "tensorboard"),
)
_LABELS = {
    "shards": "training shard",
    "keep_sha256": "keep-list",
    "options": "option",
    "batches": "batches:",
}


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    stage: str
    samples: int = 0
    total: int = 0
    earlier: int = 0  # of an earlier run that this one goes on with
    seconds: float = 0.0
    loss: float | None = None


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class TrainResult:
    """A finished run."""

    path: Path
    manifest: Mapping[str, Any]
    already_complete: bool = False

    @property
    def checkpoint(self) -> Path:
        return self.path / str(self.manifest["checkpoint"]["path"])

    @property
    def final_loss(self) -> float:
        """NaN if it was not finite."""
        loss = self.manifest["final_loss"]
        return nan if loss is None else float(loss)

    @property
    def quarantined(self) -> int:
        return int(self.manifest["counts"]["quarantined"])


@takes_options
def train(
    train_data: str | Path,
    *,
    logs: str | Path,
    name: str,
    keep: str | Path | None = None,
    add_reference: str | Path | None = None,
    resume: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
    options: TrainOptions,
) -> TrainResult:
    """Train CLIP with open_clip, or with objective="classify" a network of torchvision's.

    `keep` is a keep-list that the samples are filtered by while they are read. `add_reference`
    names further shards, of which all is taken. `arguments=("--wd", "0.1")` is for any flag of
    open_clip_train. A process for each device is started, unless torchrun or Slurm has
    done that already. When `stop` is set, the step at hand is finished, a checkpoint is written
    and the run ends with `Interrupted`; `resume="latest"` goes on from there, to the same result.
    """
    place = Place(
        str(train_data),
        Path(logs),
        name,
        None if keep is None else Path(keep),
        None if add_reference is None else str(add_reference),
    )
    plan = plan_train(place, options)
    return run_train(
        plan, place.folder, resume=resume, overwrite=overwrite, on_progress=on_progress, stop=stop
    )


def run_train(
    plan: TrainPlan,
    folder: Path,
    *,
    resume: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> TrainResult:
    """Carry out what `plan_train` has planned; see `train`."""
    from clipgap.clip.train.driver import run_here

    if resume not in (None, "latest"):
        raise UsageError(f"--resume {resume!r}: give 'latest'; a whole checkpoint is looked for")
    ranks, stop = Ranks.of_environment(), stop or threading.Event()
    output = OutputFolder(folder, FORMAT, "training run")
    if ranks.launched and ranks.rank:
        run_here(plan, folder, stop)
        return TrainResult(folder, {})
    with only_writer(folder):
        return _run(plan, output, ranks, resume is not None, overwrite, on_progress, stop)


def _run(
    plan: TrainPlan,
    output: OutputFolder,
    ranks: Ranks,
    resume: bool,
    overwrite: bool,
    on_progress: OnProgress | None,
    stop: threading.Event,
) -> TrainResult:
    from clipgap.clip.train.driver import launch, run_here

    state, folder = output.state(), output.path
    if state == "finished" and resume and not overwrite:
        return _checked(output, plan)
    _prepare(output, state, plan, resume, overwrite)
    if ranks.launched:
        run_here(plan, folder, stop)
    else:
        launch(plan, folder, stop, on_progress or (lambda progress: None))
    manifest = _manifest(plan, folder)
    output.finish(manifest)
    return TrainResult(folder, manifest)


def open_train(path: str | Path) -> TrainResult:
    """A finished run."""
    folder = Path(path)
    unfinished = "Go on with it: `clipgap train … --resume latest`."
    return TrainResult(folder, read_manifest(folder, FORMAT, "training run", unfinished))


def _prepare(
    output: OutputFolder, state: State, plan: TrainPlan, resume: bool, overwrite: bool
) -> None:
    if state != "empty" and not (resume or overwrite):
        raise output.require_flag(state)
    if state == "unfinished" and not overwrite:
        _compare(output.path, output.started_with(), plan)
        output.go_on(plan.to_json())
    else:
        output.start(plan.to_json(), _MADE)


def _checked(output: OutputFolder, plan: TrainPlan) -> TrainResult:
    """A run that is done: is it the one that is wanted, and is its checkpoint sound?"""
    result = open_train(output.path)
    _compare(output.path, result.manifest["plan"], plan)
    kept = result.manifest["checkpoint"]
    files = {kept["path"]: FileSum(kept["sha256"], kept["size"])}
    if output.damaged(files):
        raise InputError(
            f"{result.checkpoint} is damaged: its SHA-256 or size is not that of the manifest. "
            "Train again with --overwrite."
        )
    output.tidy()
    return TrainResult(output.path, result.manifest, already_complete=True)


def _compare(folder: Path, before: Mapping[str, Any], plan: TrainPlan) -> None:
    now = json.loads(json.dumps(plan.to_json()))
    refuse_changes(folder, list(changes(before, now, _LABELS)))


def _manifest(plan: TrainPlan, folder: Path) -> dict[str, Any]:
    from clipgap.clip.train.checkpoints import FOLDER, name_of
    from clipgap.clip.train.order import Position

    problems = Quarantine(folder).problems()
    if problems:
        write_quarantine(folder, problems)
    last = reached(folder)
    checkpoint = f"{FOLDER}/{name_of(Position(plan.epochs))}"
    return {
        "format": FORMAT,
        "version": 1,
        "kind": "train",
        "plan": plan.to_json(),
        "counts": {
            "samples": plan.samples,
            "reference": plan.reference_samples,
            "samples_seen": plan.epochs * plan.batches.samples,
            "steps": plan.steps,
            "quarantined": len(problems),
        },
        "keep": plan.keep and {"path": plan.keep, "manifest_sha256": plan.keep_sha256},
        "checkpoint": {"path": checkpoint, **asdict(FileSum.of(folder / checkpoint))},
        # Neither NaN nor infinity is JSON.
        "final_loss": last.loss if last is not None and isfinite(last.loss) else None,
        "versions": {"clipgap": __version__, **versions("torch", "open_clip_torch")},
    }
