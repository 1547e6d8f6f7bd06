"""Evaluation: checkpoints on sets, with what they made of each sample."""

from __future__ import annotations

from clipgap.clip.eval.api import evaluate, run_evaluation
from clipgap.clip.eval.plan import EvalPlan, plan_evaluation
from clipgap.clip.eval.run import EvalHow, EvalResult, Progress, open_evaluation

__all__ = [
    "EvalHow",
    "EvalPlan",
    "EvalResult",
    "Progress",
    "evaluate",
    "open_evaluation",
    "plan_evaluation",
    "run_evaluation",
]
