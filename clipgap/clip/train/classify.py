"""A classifier, trained with labels: torchvision's usual recipe, on the samples that are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import Value
from typing import Any

import torch

from clipgap.clip.models import autocast
from clipgap.clip.train import checkpoints
from clipgap.clip.train.labels import as_planned, read_class_labels
from clipgap.clip.train.options import TrainOptions
from clipgap.clip.train.order import Position
from clipgap.clip.train.patches import AnyDeviceParallel
from clipgap.clip.train.plan import Ranks, TrainPlan
from clipgap.clip.train.samples import WithClass
from clipgap.clip.train.session import Session, Steps, StopAt

LR_PER_256 = 0.1
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
DROPS = 3
"""The learning rate falls tenfold after each third of the epochs."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIZE = 224


class SharedNumber:
    """A number that loader processes see, too."""

    def __init__(self) -> None:
        self._value = Value("i", 0)

    def get_value(self) -> int:
        return int(self._value.value)

    def set_value(self, value: int) -> None:
        self._value.value = value


def run_classify(session: Session) -> None:
    """Train until all epochs are done; raises `Interrupted` when stopped before."""
    ranks = Ranks.of_environment()
    session.rank = ranks.rank
    (session.folder / checkpoints.FOLDER).mkdir(exist_ok=True)
    with _process_group(ranks, session.plan.device):
        _train(session, _device(ranks, session.plan.device))


def _train(session: Session, device: torch.device) -> None:
    plan, options = session.plan, session.plan.options
    torch.manual_seed(options.seed)
    plain = _network(plan).to(device)
    optimizer = torch.optim.SGD(
        plain.parameters(),
        lr=rate(plan, 0),
        momentum=MOMENTUM,
        weight_decay=_weight_decay(options),
    )
    scaler = torch.amp.GradScaler(device.type, enabled=_is_scaled(plan))
    begin = session.latest()
    if begin is not None:
        content = checkpoints.load(begin)
        plain.load_state_dict(content["state_dict"])
        optimizer.load_state_dict(content["optimizer"])
        scaler.load_state_dict(content["scaler"])
        session.begin = Position(content["epoch"], content.get("batch", 0))
    model = AnyDeviceParallel(plain, [device]) if plan.batches.world > 1 else plain
    epoch_of_loader = SharedNumber()
    labels = as_planned(plan.labels, read_class_labels)
    encode = WithClass(_augmentation(), len(plan.classes), labels)
    batches = session.loader(encode, epoch_of_loader)

    def content_now() -> dict[str, Any]:
        return {
            "state_dict": plain.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "objective": "classify",
            "arch": options.arch,
            "classes": list(plan.classes),
        }

    for epoch in range(session.begin.epoch, plan.epochs):
        epoch_of_loader.set_value(epoch)
        steps = Steps(batches, session, epoch, optimizer)
        try:
            _train_epoch(session, model, steps, epoch, optimizer, scaler)
        except StopAt as stopped:
            session.leave(stopped, content_now)
        if session.rank == 0:
            checkpoints.save(session.folder, Position(epoch + 1), content_now())
            checkpoints.drop_stopped(session.folder)


def _train_epoch(
    session: Session, model: Any, steps: Steps, epoch: int, optimizer: Any, scaler: Any
) -> None:
    plan = session.plan
    accum, device = plan.batches.accum, next(model.parameters()).device
    total = torch.zeros((), device=device)
    model.train()
    for number, (images, labels) in enumerate(steps, start=session.first_batch(epoch)):
        if number % accum == 0:
            optimizer.zero_grad()
            total = torch.zeros((), device=device)
        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        with autocast(_autocast_name(plan), str(device)):
            loss = torch.nn.functional.cross_entropy(model(images), labels) / accum
        scaler.scale(loss).backward()
        total += loss.detach()
        if (number + 1) % accum == 0:
            step = epoch * plan.batches.steps + number // accum
            for group in optimizer.param_groups:
                group["lr"] = rate(plan, step)
            scaler.step(optimizer)
            scaler.update()
            steps.loss = total


def _network(plan: TrainPlan) -> torch.nn.Module:
    import torchvision

    made: torch.nn.Module = torchvision.models.get_model(
        plan.options.arch, weights=None, num_classes=len(plan.classes)
    )
    return made


def _augmentation() -> Any:
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(_SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(_MEAN, _STD),
        ]
    )


def rate(plan: TrainPlan, step: int) -> float:
    """The learning rate of a step, counted over all epochs."""
    options = plan.options
    peak = options.lr if options.lr is not None else LR_PER_256 * plan.batches.global_batch / 256
    if options.warmup is not None and step < options.warmup:
        return peak * (step + 1) / options.warmup
    return float(peak * 0.1 ** (DROPS * step // plan.steps))


def _weight_decay(options: TrainOptions) -> float:
    return WEIGHT_DECAY if options.wd is None else options.wd


def noted_by(plan: TrainPlan) -> dict[str, Any]:
    """What the last checkpoint of a plan holds besides weights; see `noted_in`."""
    return {
        "objective": "classify",
        "arch": plan.options.arch,
        "classes": list(plan.classes),
        "epoch": plan.epochs,
        "lr": rate(plan, plan.steps - 1),
        "momentum": MOMENTUM,
        "weight_decay": _weight_decay(plan.options),
        "scaled": _is_scaled(plan),
    }


def noted_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same of the checkpoint itself."""
    (group,) = content["optimizer"]["param_groups"]
    return {
        **{name: content[name] for name in ("objective", "arch", "classes", "epoch")},
        **{name: group[name] for name in ("lr", "momentum", "weight_decay")},
        "scaled": bool(content["scaler"]),
    }


def _is_scaled(plan: TrainPlan) -> bool:
    return plan.options.precision == "amp" and plan.device == "cuda"


def _autocast_name(plan: TrainPlan) -> str:
    return "amp" if plan.options.precision == "amp" else "fp32"


def _device(ranks: Ranks, kind: str) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(ranks.local)
    return torch.device("cuda", ranks.local)


@contextmanager
def _process_group(ranks: Ranks, device: str) -> Iterator[None]:
    if ranks.world == 1:
        yield
        return
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo", rank=ranks.rank, world_size=ranks.world
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
