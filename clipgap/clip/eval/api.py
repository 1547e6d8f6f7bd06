"""Evaluate checkpoints on sets."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from clipgap.clip.eval.plan import DRAWS, EvalPlan, plan_evaluation
from clipgap.clip.eval.run import EvalHow, EvalResult, OnProgress, Progress, run


def evaluate(
    checkpoints: str | Sequence[str],
    data: str | Sequence[str],
    out: str | Path,
    *,
    model: str | None = None,
    classnames: str | Sequence[str] = (),
    templates: str | Sequence[str] = (),
    group_by: str | Sequence[str] = (),
    precision: str = "fp32",
    draws: int = DRAWS,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 64,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> EvalResult:
    """Top-1 and top-5 accuracy of checkpoints on sets, and what they made of each sample.

    `checkpoints` are files (`path` or `name=path`) or pretrained tags of `model`; classifiers that
    clipgap trained name their own network. `data` are `name=path`; the names of `clipgap data list`
    bring their classes and prompts along, all other sets take them from the files `classnames` and
    `templates`. With `group_by="celeba=Eyeglasses"` accuracies come by the values of a column of
    the set's table too. Images that cannot be decoded are left out and listed in
    `quarantine.parquet`. When `stop` is set, the run ends with `Interrupted`; `resume=True` goes on
    after the last finished checkpoint and set.
    """
    plan = plan_evaluation(
        _listed(checkpoints),
        _listed(data),
        model=model,
        classnames=_listed(classnames),
        templates=_listed(templates),
        group_by=_listed(group_by),
        precision=precision,
        draws=draws,
        seed=seed,
    )
    how = EvalHow(
        device=device,
        batch_size=batch_size,
        workers=workers,
        resume=resume,
        overwrite=overwrite,
        on_progress=on_progress,
        stop=stop,
    )
    return run_evaluation(plan, out, how)


def run_evaluation(plan: EvalPlan, out: str | Path, how: EvalHow | None = None) -> EvalResult:
    """Carry out what `plan_evaluation` has planned."""
    how = how or EvalHow()
    how.report(Progress("checking"))
    return run(plan, Path(out), how)


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value
