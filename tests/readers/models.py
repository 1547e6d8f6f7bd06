"""Checkpoints, configurations of models, and what a training notes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from clipgap.clip.checkpoints import read_weights
from clipgap.clip.networks import register_config
from clipgap.clip.train.checkpoints import is_whole
from clipgap.clip.train.logs import QUARANTINE, Log, Quarantine, reached
from clipgap.clip.train.order import Position
from tests.readers.reader import Reader, written


def make_checkpoint(folder: Path) -> None:
    import torch

    torch.save({"epoch": 1, "state_dict": {"a": torch.zeros(2, 3)}}, folder / "a.pt")


def read_configuration(folder: Path) -> None:
    """open_clip reads all that it was told of once more, each time; this file will not stay."""
    from open_clip import factory

    told = list(factory._MODEL_CONFIG_PATHS)
    try:
        register_config(str(folder / "m.json"))
    finally:
        factory._MODEL_CONFIG_PATHS[:] = told
        factory._rescan_model_configs()


def read_checkpoint(folder: Path) -> None:
    is_whole(folder / "a.pt")
    read_weights(folder / "a.pt", "meta")


def make_weights(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros((2, 3), np.float32)}, folder / "a.safetensors")


MODEL = {"embed_dim": 16, "vision_cfg": {"layers": 1}, "text_cfg": {"layers": 1}}
LOSSES = '{"epoch": 1, "batch": 2, "samples": 8, "loss": 0.5}\n' * 3
PROBLEMS = '{"what": "sample", "shard": "a", "name": "b", "reason": "c"}\n' * 3


def read_log(folder: Path) -> None:
    reached(folder)
    Log(folder / "losses.jsonl", Position(1, 1))


READERS = [
    Reader("checkpoint", "a.pt", make_checkpoint, read_checkpoint),
    Reader(
        "weights in safetensors",
        "a.safetensors",
        make_weights,
        lambda f: read_weights(f / "a.safetensors"),
    ),
    Reader(
        "configuration of a model",
        "m.json",
        written("m.json", json.dumps(MODEL)),
        read_configuration,
    ),
    Reader("log of losses", "losses.jsonl", written("losses.jsonl", LOSSES), read_log),
    Reader(
        "quarantine of training",
        f"{QUARANTINE}/0.jsonl",
        written(f"{QUARANTINE}/0.jsonl", PROBLEMS),
        lambda f: Quarantine(f).problems(),
    ),
]
