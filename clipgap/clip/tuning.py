"""An image tower, trained together with linear heads on its normalised features.

As in the released code of "In Search of Forgotten Domain Generalization": cross-entropy, SGD with
momentum, a rate that falls tenfold every so many epochs. What differs: both heads share a tower,
they begin where they are best on the features of the tower as it is, and images are prepared as
for evaluation, and mirrored by chance.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipgap.clip.embed.batches import BatchReader, computed
from clipgap.clip.embed.options import EmbedOptions
from clipgap.clip.embed.sources import Unit
from clipgap.clip.images.reading import RawImage
from clipgap.clip.models import load, on_device
from clipgap.errors import InputError
from clipgap.files.atomic import write_atomic
from clipgap.kernels.admit import admit, row_norms

if TYPE_CHECKING:
    from torch import Tensor

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
DROP_EVERY = 12
"""Epochs after which the rate falls tenfold."""


def tune(
    model: str,
    pretrained: str | None,
    images: Sequence[RawImage],
    accept: NDArray[np.bool_],
    start: tuple[NDArray[np.float64], NDArray[np.float64]],
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    device: str,
    threads: int,
    on_step: Callable[[int], None],
    into: Path,
) -> None:
    """Train a model to have its heads accept these of the images; its weights are written to
    `into`, as `--pretrained` takes them.

    `accept` has a column for each head, `start` their weights and biases to begin with.
    """
    import torch

    with (
        on_device(device, threads),
        torch.random.fork_rng(devices=[]),
        ThreadPoolExecutor(threads) as pool,
    ):
        torch.default_generator.manual_seed(seed)
        loaded = load(model, pretrained, device)
        if loaded.dim != start[0].shape[1]:
            raise InputError(
                f"{model} makes rows of {loaded.dim:,} dimensions, and the store has "
                f"{start[0].shape[1]:,}"
            )
        module = loaded.module.requires_grad_(True).train()
        heads = torch.nn.Linear(loaded.dim, accept.shape[1]).to(device)
        with torch.no_grad():
            for parameter, value in zip(heads.parameters(), start, strict=True):
                parameter.copy_(torch.from_numpy(value))
        optimizer = torch.optim.SGD(
            [*module.parameters(), *heads.parameters()],
            lr=lr,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
        )

        def pixels(place: int, mirrored: bool) -> Tensor:
            made = loaded.preprocess(images[place].decode())
            return made.flip(-1) if mirrored else made

        wanted = torch.from_numpy(accept.astype(np.float32))
        random = np.random.default_rng(seed)
        for epoch in range(epochs):
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.1 ** (epoch // DROP_EVERY)
            order = random.permutation(len(images))
            mirrored = random.random(len(images)) < 0.5
            batches = np.array_split(order, -(-len(order) // batch_size))
            for batch, decoded in _ahead(pool, batches, mirrored, pixels):
                optimizer.zero_grad()
                features = torch.nn.functional.normalize(loaded.encode(decoded.to(device)), dim=1)
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    heads(features), wanted[batch].to(device)
                )
                if not torch.isfinite(loss):
                    raise InputError(
                        f"in epoch {epoch + 1:,} the loss is no longer finite; try a lower --lr "
                        f"than {lr:g}"
                    )
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                on_step(len(batch))
        state = {name: tensor.cpu() for name, tensor in module.state_dict().items()}
    content = io.BytesIO()  # in a file of a random name the archive inside would be called so
    torch.save({"state_dict": state}, content)
    with write_atomic(into) as temporary:
        temporary.write_bytes(content.getvalue())


def _ahead(
    pool: ThreadPoolExecutor,
    batches: Sequence[NDArray[np.int64]],
    mirrored: NDArray[np.bool_],
    pixels: Callable[[int, bool], Tensor],
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Each batch with its images, of which the next ones are decoded meanwhile."""
    import torch

    waiting: list[list[Future[Tensor]]] = []
    for number, batch in enumerate([*batches, None]):
        if batch is not None:
            waiting.append([pool.submit(pixels, place, bool(mirrored[place])) for place in batch])
        if number:
            yield batches[number - 1], torch.stack([each.result() for each in waiting.pop(0)])


def rows_of(
    model: str,
    pretrained: str,
    units: Sequence[Unit],
    wanted: Callable[[Unit, str], int | None],
    *,
    device: str,
    threads: int,
    on_step: Callable[[int], None],
) -> NDArray[np.float16]:
    """The rows that `clipgap embed` makes of images, at the places that are `wanted` of them."""
    rows: dict[int, NDArray[Any]] = {}
    with on_device(device, threads):
        loaded = load(model, pretrained, device)
        reader = BatchReader(
            units,
            loaded.preprocess,
            size=EmbedOptions().batch_size,
            threads=threads,
            captions=False,
            pinned=device.startswith("cuda"),
        )
        with reader:
            for result in computed(loaded, reader):
                reader.give_back(result.batch)
                on_step(len(result.batch.images))
                features = result.features.numpy().astype(np.float64)
                for image, reason, row in zip(
                    result.batch.images, result.reasons, features, strict=True
                ):
                    place = wanted(result.batch.unit, image.key)
                    if place is None:
                        continue
                    if reason is not None:
                        raise InputError(f"{image.where}: has a label, but {reason}")
                    rows[place] = row
    all_rows = np.stack([rows[place] for place in range(len(rows))])
    admitted = admit(all_rows / row_norms(all_rows)[:, None])
    if not admitted.ok.all():
        raise InputError("features of the trained tower are zero or not finite; try a lower --lr")
    return admitted.rows
