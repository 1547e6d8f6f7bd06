"""How a global batch is spread over devices and passes."""

from __future__ import annotations

from dataclasses import dataclass

from clipgap.errors import UsageError


@dataclass(frozen=True)
class BatchPlan:
    """Sizes of one epoch, the same for each rank."""

    world: int
    batch: int  # samples of a rank and a pass
    accum: int  # passes a step
    workers: int  # loader processes a rank
    batches: int  # of a rank in an epoch

    @property
    def global_batch(self) -> int:
        return self.world * self.batch * self.accum

    @property
    def steps(self) -> int:
        return self.batches // self.accum

    @property
    def samples(self) -> int:
        """Seen in an epoch; a few of them twice, to make the last batches full."""
        return self.world * self.batch * self.batches

    @property
    def streams(self) -> int:
        """Loader processes of a rank, counting the rank itself if it has none."""
        return max(1, self.workers)

    @property
    def stream_length(self) -> int:
        """Samples that each stream gives in an epoch."""
        return self.batches // self.streams * self.batch


def plan_batches(samples: int, world: int, batch: int, accum: int, workers: int) -> BatchPlan:
    """As few batches as see every sample, equal for all loader processes, in whole steps."""
    streams = max(1, workers)
    each = -(-samples // (world * batch * streams))
    while each * streams % accum:
        each += 1
    return BatchPlan(world, batch, accum, workers, each * streams)


def split_global_batch(
    total: int, world: int, batch: int | None, accum: int | None, largest: int | None
) -> tuple[int, int]:
    """Samples of a device and pass, and passes a step, whose product over all devices is `total`.

    Without `batch` and `accum`, as few passes as leave no more than `largest` samples in one.
    """
    if batch is None and accum is None:
        least = 1 if largest is None else -(-total // (world * largest))
        fitting = (n for n in range(least, 2 * least + 64) if total % (world * n) == 0)
        accum = next(fitting, least)
    unit = world * (batch or 1) * (accum or 1)
    if total % unit or (batch and accum and total != unit):
        raise UsageError(_does_not_divide(total, world, batch, accum))
    return batch or total // unit, accum or total // unit


def _does_not_divide(total: int, world: int, batch: int | None, accum: int | None) -> str:
    unit = world * (batch or 1) * (accum or 1)
    parts = [f"{world:,} device{'s' if world > 1 else ''}"]
    parts += [f"{batch:,} samples a device"] if batch else []
    parts += [f"{accum:,} pass{'es' if accum > 1 else ''}"] if accum else []
    if batch and accum:
        near = [unit]
    else:
        near = [size for size in (total // unit * unit, (total // unit + 1) * unit) if size]
    return (
        f"a global batch of {total:,} cannot be split over {' × '.join(parts)}. The nearest that "
        f"can: {' and '.join(f'--global-batch {size}' for size in near)}"
    )
