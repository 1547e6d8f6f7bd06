"""Evaluate checkpoints on sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipgap.clip.eval.options import EvalOptions
from clipgap.clip.eval.plan import EvalPlan, plan_evaluation
from clipgap.clip.eval.run import EvalResult, Progress, run
from clipgap.options import takes_options
from clipgap.runs.old_how import How


@takes_options
def evaluate(
    checkpoints: str | Sequence[str],
    data: str | Sequence[str],
    out: str | Path,
    *,
    options: EvalOptions,
    how: How[Progress],
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
    plan = plan_evaluation(_listed(checkpoints), _listed(data), options=options)
    return run_evaluation(plan, out, how=how)


@takes_options
def run_evaluation(plan: EvalPlan, out: str | Path, *, how: How[Progress]) -> EvalResult:
    """Carry out what `plan_evaluation` has planned."""
    how.report(Progress("checking"))
    return run(plan, Path(out), how)


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value
