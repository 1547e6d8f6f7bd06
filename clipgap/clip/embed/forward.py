"""Batches through the model, on a GPU without ever letting it wait.

There, copies to the GPU run beside the computation, and the host waits only for the batch before
the one it has just sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipgap.clip.embed.batches import Batch
from clipgap.clip.models import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Computed:
    """A batch and its features, a row for each of its images."""

    batch: Batch
    reasons: list[str | None]
    features: Tensor  # float32, on the CPU


def computed(model: LoadedModel, batches: Iterable[Batch]) -> Iterator[Computed]:
    """The features of each batch, in order."""
    return _on_gpu(model, batches) if model.device.startswith("cuda") else _on_cpu(model, batches)


def _on_cpu(model: LoadedModel, batches: Iterable[Batch]) -> Iterator[Computed]:
    for batch in batches:
        reasons = batch.wait()
        features = model.image_features(batch.pixels)
        yield Computed(batch, reasons, features[: len(batch.images)].float())


@dataclass(frozen=True)
class _Sent:
    batch: Batch
    reasons: list[str | None]
    features: Tensor  # in pinned memory, there once `done`
    done: Any


def _on_gpu(model: LoadedModel, batches: Iterable[Batch]) -> Iterator[Computed]:
    import torch

    device = torch.device(model.device)
    cuda: Any = torch.cuda
    copying = cuda.Stream(device)
    sent: deque[_Sent] = deque()

    def send(batch: Batch) -> _Sent:
        reasons = batch.wait()
        computing = cuda.current_stream(device)
        with cuda.stream(copying):
            pixels = batch.pixels.to(device, non_blocking=True)
        computing.wait_stream(copying)
        pixels.record_stream(computing)
        rows = model.image_features(pixels)[: len(batch.images)].float()
        features = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        features.copy_(rows, non_blocking=True)
        done = cuda.Event()
        done.record(computing)
        return _Sent(batch, reasons, features, done)

    def take() -> Computed:
        first = sent.popleft()
        first.done.synchronize()
        return Computed(first.batch, first.reasons, first.features)

    with cuda.device(device):
        for batch in batches:
            sent.append(send(batch))
            if len(sent) > 1:
                yield take()
        while sent:
            yield take()
