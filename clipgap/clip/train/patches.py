"""What has to be replaced inside open_clip_train so that it can be driven, all in one place.

    data.get_wds_dataset      our shards: keep-list, white-listed members, an order that resumes
    main.train_one_epoch      stops between steps, takes up an epoch in its middle, logs losses
    main.get_latest_checkpoint, main.pt_load    only whole checkpoints, and no code out of them
    zero_shot.accuracy        fails on NumPy 2
    DistributedDataParallel   open_clip gives it device_ids, which CPUs don't have
    torch.save                to a temporary name first

`broken_promises` says what of this a version of open_clip_train no longer has.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipgap.clip.train.checkpoints import saved_whole
from clipgap.errors import MissingDependency
from clipgap.packages import installation, missing

PARAMETERS = {
    ("main", "main"): "args",
    ("main", "get_latest_checkpoint"): "path remote",
    ("file_utils", "pt_load"): "file_path map_location",
    ("train", "train_one_epoch"): (
        "model data loss epoch optimizer scaler scheduler dist_model args tb_writer"
    ),
    ("data", "get_wds_dataset"): "args preprocess_img is_train epoch floor tokenizer",
    ("data", "DataInfo"): "dataloader sampler shared_epoch",
    ("data", "SharedEpoch"): "epoch",
    ("zero_shot", "accuracy"): "output target topk",
    ("params", "parse_args"): "args",
}
"""Functions and classes that are called or replaced, and the parameters they have."""

SENTENCES = {
    ("main", "main"): (
        "train_one_epoch(model, data, loss, epoch, optimizer, scaler, scheduler, dist_model, args",
        "get_latest_checkpoint(checkpoint_path, remote=",
        "checkpoint = pt_load(args.resume",
        'start_epoch = checkpoint["epoch"]',
        "torch.nn.parallel.DistributedDataParallel(model, device_ids=",
        "torch.save(",
        "resume_latest = args.resume == 'latest'",
    ),
    ("data", "get_dataset_fn"): ("return get_wds_dataset",),
    ("train", "train_one_epoch"): (
        "data['train'].set_epoch(epoch)",
        "dataloader = data['train'].dataloader",
        "for i, batch in enumerate(dataloader)",
        "step = num_batches_per_epoch * epoch + i_accum",
        "images, texts = batch",
        "losses = loss(**",
    ),
    ("zero_shot", "run"): ("accuracy(logits, target, topk=(1, 5))",),
}
"""Words in their bodies without which a replacement would not be reached, or would do harm."""


@dataclass(frozen=True)
class Replacements:
    """What our side puts in place of open_clip's."""

    dataset: Callable[..., Any]
    train_one_epoch: Callable[..., Any]
    latest_checkpoint: Callable[..., str | None]
    load: Callable[..., dict[str, Any]]


@contextmanager
def patched(ours: Replacements) -> Iterator[Callable[[Sequence[str]], Any]]:
    """Give open_clip_train's main function, with everything in place while the block runs."""
    check_promises()
    main = import_trainer("main")
    replaced = [
        (import_trainer("data"), "get_wds_dataset", ours.dataset),
        (main, "train_one_epoch", ours.train_one_epoch),
        (main, "get_latest_checkpoint", ours.latest_checkpoint),
        (main, "pt_load", ours.load),
        (import_trainer("zero_shot"), "accuracy", accuracy),
        (torch.nn.parallel, "DistributedDataParallel", AnyDeviceParallel),
    ]
    before = [getattr(module, name) for module, name, _ in replaced]
    levels = {logger: logger.level for logger in _loggers()}
    aloud = logging.raiseExceptions
    # A line of its log that the disk refuses would be a traceback, and training would go on. What
    # has to last, losses and checkpoints, we write; that fails with an error.
    logging.raiseExceptions = False
    for module, name, replacement in replaced:
        setattr(module, name, replacement)
    try:
        with saved_whole():
            yield main.main
    finally:
        for (module, name, _), original in zip(replaced, before, strict=True):
            setattr(module, name, original)
        logging.raiseExceptions = aloud
        # open_clip has all loggers talk, and some of torch's do so when the process ends.
        for logger in _loggers():
            logger.setLevel(levels.get(logger, logging.NOTSET))


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logging.root, *(each for each in known if isinstance(each, logging.Logger))]


def import_trainer(part: str) -> Any:
    """A module of open_clip_train."""
    try:
        return importlib.import_module(f"open_clip_train.{part}")
    except ImportError as error:
        raise MissingDependency(
            f"open_clip_train cannot be imported ({error}); {installation('train')}"
        ) from error


def check_promises() -> None:
    """Refuse a version of open_clip_train that is not what the replacements were made for."""
    if broken := broken_promises():
        raise MissingDependency(
            "this version of open_clip_train cannot be driven: "
            f"{'; '.join(broken)}. `pip install 'open_clip_torch>=2.32,<3.4'`"
        )


def broken_promises(read: Callable[[str], str] | None = None) -> list[str]:
    """What we rely on in open_clip_train and is not there, each in a sentence.

    Its source is looked at, which `read` gives for each module; to import it would take seconds.
    """
    parts = sorted({part for part, _ in [*PARAMETERS, *SENTENCES]})
    sources = {part: (read or _source)(part) for part in parts}
    found = {
        (part, node.name): node
        for part, source in sources.items()
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    wanted = {*PARAMETERS, *SENTENCES}
    broken = [f"open_clip_train.{p} has no {name}" for p, name in sorted(wanted - found.keys())]
    for (part, name), parameters in PARAMETERS.items():
        if (node := found.get((part, name))) and (has := _parameters(node)) != parameters:
            broken.append(f"open_clip_train.{part}.{name} takes ({has}), not ({parameters})")
    for (part, name), sentences in SENTENCES.items():
        node = found.get((part, name))
        body = ast.get_source_segment(sources[part], node) or "" if node else ""
        broken += [
            f"open_clip_train.{part}.{name} no longer says {sentence!r}"
            for sentence in sentences
            if node and sentence not in body
        ]
    return broken


def _source(part: str) -> str:
    try:
        spec = importlib.util.find_spec(f"open_clip_train.{part}")
    except ModuleNotFoundError:
        raise missing("open_clip") from None
    return Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""


def _parameters(node: ast.FunctionDef | ast.ClassDef) -> str:
    """The names of what a function takes, or of what makes an instance of a class."""
    if isinstance(node, ast.FunctionDef):
        return " ".join(argument.arg for argument in node.args.args if argument.arg != "self")
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            return _parameters(inner)
    fields = [inner.target for inner in node.body if isinstance(inner, ast.AnnAssign)]
    return " ".join(field.id for field in fields if isinstance(field, ast.Name))


class AnyDeviceParallel(torch.nn.parallel.DistributedDataParallel):
    """DistributedDataParallel that overlooks device_ids where the devices are CPUs."""

    def __init__(self, module: torch.nn.Module, device_ids: Any = None, **rest: Any) -> None:
        on_cpu = any(parameter.device.type == "cpu" for parameter in module.parameters())
        super().__init__(module, device_ids=None if on_cpu else device_ids, **rest)


class LaterEpoch(int):
    """An epoch that is taken up after some of its steps.

    open_clip counts steps as `steps_per_epoch * epoch + i`: the learning rate, tensorboard and
    wandb all follow from that product.
    """

    steps: int

    def __new__(cls, epoch: int, steps: int) -> LaterEpoch:
        made = super().__new__(cls, epoch)
        made.steps = steps
        return made

    def __rmul__(self, steps_per_epoch: int) -> int:
        return steps_per_epoch * int(self) + self.steps


def accuracy(output: Any, target: Any, topk: tuple[int, ...] = (1,)) -> list[float]:
    """How many targets are among the k highest outputs, for each k."""
    best = output.topk(max(topk), dim=1).indices
    hits = best == target[:, None]
    return [float(hits[:, :k].any(1).sum()) for k in topk]
