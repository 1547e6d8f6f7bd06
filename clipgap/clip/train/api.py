"""From shards and a keep-list to a trained model.

LOGS/NAME/manifest.json      settings, data, checkpoint, last loss; written last
LOGS/NAME/checkpoints/       epoch_E.pt
LOGS/NAME/losses.jsonl       loss, learning rate and speed by step
LOGS/NAME/keys/              with log_keys: the samples of every batch of every rank
LOGS/NAME/quarantine.parquet   samples that could not be used; only if there are any
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

from clipgap.clip.train.logs import KEYS, LOSSES, Quarantine, reached
from clipgap.clip.train.options import Place, TrainOptions
from clipgap.clip.train.order import Position
from clipgap.clip.train.plan import PARAMETERS, Ranks, TrainPlan, plan_train
from clipgap.clip.train.worker import PLAN
from clipgap.errors import InputError, UsageError
from clipgap.files.documents import (
    FILES,
    MANIFEST,
    Form,
    format_of,
    is_count,
    is_number,
    read_manifest,
    write_json,
)
from clipgap.files.folders import is_inside
from clipgap.files.parquet import FileSum
from clipgap.files.remote import path_of
from clipgap.machine import machine, versions
from clipgap.options import takes_options
from clipgap.runs.how import How, OnProgress
from clipgap.runs.output import Answer, Complete, Damaged, Kind, Output, open_output
from clipgap.shards.problems import QUARANTINE, write_quarantine
from clipgap.version import __version__

MACHINE = {"device": str, "cpu": str, "cores": is_count, "memory_gib": is_number}
"""What a training notes of where it took place."""

KIND = Kind(
    Form(
        "clipgap-train",
        "training run",
        {
            "plan": {"batches": {"batches": is_count}, "options": {"seed": is_count}},
            "machine": (None, MACHINE),
            "counts": dict.fromkeys(("samples", "steps", "quarantined"), is_count),
            "checkpoint": {"path": is_inside, "sha256": str, "size": is_count},
            "final_loss": (None, is_number),
            "files": FILES,
        },
    ),
    owns=(
        *("checkpoints/epoch_*.pt", "checkpoints/results.jsonl", LOSSES, f"{KEYS}/rank-*.jsonl"),
        *(QUARANTINE, "out.log", PARAMETERS, "processes.log", "tensorboard/*"),
    ),
    labels={
        "plan": "plan:",
        "plan shards": "training shard",
        "plan keep_sha256": "keep-list",
        "plan captions": "captions",
        "plan labels": "labels",
        "plan options": "option",
        "plan batches": "batches:",
    },
)


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
    captions: str | Path | None = None,
    labels: str | Path | None = None,
    resume: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
    options: TrainOptions,
) -> TrainResult:
    """Train CLIP with open_clip, or with objective="classify" a network of torchvision's.

    `keep` is a keep-list that the samples are filtered by while they are read. `add_reference`
    names further shards, of which all is taken. `captions` is a file that says how captions are
    made of domains and classes, `labels` a table that says the classes of a classifier by key.
    `arguments=("--wd", "0.1")` is for any flag of
    open_clip_train. A process for each device is started, unless torchrun or Slurm has
    done that already. When `stop` is set, the step at hand is finished, a checkpoint is written
    and the run ends with `Interrupted`; `resume="latest"` goes on from there, to the same result.
    """
    place = Place(
        str(train_data),
        Path(logs),
        name,
        None if keep is None else path_of(keep),
        None if add_reference is None else str(add_reference),
        None if captions is None else path_of(captions),
        None if labels is None else path_of(labels),
    )
    how = how_to_train(resume, overwrite=overwrite, on_progress=on_progress, stop=stop)
    return run_train(plan_train(place, options), place.folder, how)


def how_to_train(resume: str | None, **more: Any) -> How:
    """As with any long run, but --resume says what to go on from, as in open_clip."""
    if resume not in (None, "latest"):
        raise UsageError(f"--resume {resume!r}: give 'latest'; a whole checkpoint is looked for")
    return How(resume=resume is not None, **more)


def run_train(plan: TrainPlan, folder: Path, how: How) -> TrainResult:
    """Carry out what `plan_train` has planned; see `train`."""
    from clipgap.clip.train.driver import check_meeting_point, launch, run_here

    ranks, stop = Ranks.of_environment(), how.stop or threading.Event()
    check_meeting_point(ranks)
    if ranks.launched and ranks.rank:
        run_here(plan, folder, ranks, stop)
        return TrainResult(folder, {})
    with open_output(folder, KIND, how) as output:
        match begin(output, plan):
            case Complete(manifest):
                return TrainResult(folder, manifest, already_complete=True)
            case Damaged(_, files):
                raise InputError(
                    f"{folder / files[0]} is damaged: its SHA-256 or size is not that of the "
                    "manifest. Train again with --overwrite."
                )
        if ranks.launched:
            run_here(plan, folder, ranks, stop)
        else:
            launch(plan, folder, stop, how.report)
        return TrainResult(folder, _finish(output, plan))


def begin(output: Output, plan: TrainPlan) -> Answer:
    """Take up what is in the folder, or make it new, and note what ranks are to do there."""
    answer = output.begin({"kind": "train", "plan": plan.to_json()})
    if output.state == "unfinished":
        output.refuse_links()  # open_clip would write through them
        write_json(output.progress / PLAN, plan.to_json())
    return answer


def open_train(path: str | Path) -> TrainResult:
    """A finished run."""
    unfinished = "Go on with it: `clipgap train … --resume latest`."
    folder = path_of(path)
    return TrainResult(folder, read_manifest(folder, KIND.form, unfinished))


def noted_of(checkpoint: Path) -> dict[str, Any]:
    """What a finished run of clipgap's noted of its checkpoint: samples of the keep-list that it
    was `missing`, if any, and how it was `trained`; nothing if none made it."""
    folder = checkpoint.resolve().parent.parent
    if format_of(folder / MANIFEST) != KIND.form.name:
        return {}
    manifest = open_train(folder).manifest
    missing = manifest["counts"].get("missing")
    noted: dict[str, Any] = {"missing": missing} if is_count(missing) and missing else {}
    if (here := manifest.get("machine")) is not None:
        noted["trained"] = {"seed": manifest["plan"]["options"]["seed"], **here}
    return noted


def _finish(output: Output, plan: TrainPlan) -> dict[str, Any]:
    from clipgap.clip.train.checkpoints import FOLDER, name_of, noted_sums

    problems = Quarantine(output.path).problems()
    files = {QUARANTINE: write_quarantine(output.path, problems)} if problems else {}
    last_name = name_of(Position(plan.epochs))
    checkpoint = f"{FOLDER}/{last_name}"
    # An earlier clipgap, whose run this went on with, noted none.
    noted = noted_sums(output.path).get(last_name)
    files[checkpoint] = noted or FileSum.of(output.path / checkpoint)
    for name in (LOSSES, *([PARAMETERS] if plan.options.objective == "clip" else [])):
        files[name] = FileSum.of(output.path / name)
    last = reached(output.path)
    entries = {
        "kind": "train",
        "plan": plan.to_json(),
        "counts": {
            "samples": plan.samples,
            "reference": plan.reference_samples,
            "missing": plan.missing,
            "samples_seen": plan.epochs * plan.batches.samples,
            "steps": plan.steps,
            "quarantined": len(problems),
        },
        "keep": plan.keep and {"path": plan.keep, "manifest_sha256": plan.keep_sha256},
        "checkpoint": {"path": checkpoint, **asdict(files[checkpoint])},
        # Neither NaN nor infinity is JSON.
        "final_loss": last.loss if last is not None and isfinite(last.loss) else None,
        "versions": {"clipgap": __version__, **versions("torch", "open_clip_torch")},
        "machine": _machine(plan),
    }
    return output.finish(entries, files)


def _machine(plan: TrainPlan) -> dict[str, Any]:
    """Where it was trained; if in several runs, where the last of them was."""
    here, world = machine(), plan.batches.world
    device = f"{world:,} processes" if world > 1 else "1 process"
    if plan.device != "cpu":
        import torch

        device = f"{world:,} x {torch.cuda.get_device_name(0)}"
    return {"device": device, **{name: here[name] for name in ("cpu", "cores", "memory_gib")}}
