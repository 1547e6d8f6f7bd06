"""Training on what a split keeps: CLIP by open_clip, classifiers by torchvision."""

from __future__ import annotations

from clipgap.clip.train.api import Progress, TrainResult, open_train, run_train, train
from clipgap.clip.train.options import RECIPES, Place, TrainOptions
from clipgap.clip.train.plan import TrainPlan, plan_train

__all__ = [
    "RECIPES",
    "Place",
    "Progress",
    "TrainOptions",
    "TrainPlan",
    "TrainResult",
    "open_train",
    "plan_train",
    "run_train",
    "train",
]
