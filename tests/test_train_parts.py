"""The pure parts: orders, batches, and what open_clip_train must keep to."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipgap.clip.train import patches
from clipgap.clip.train.order import (
    Order,
    plan_batches,
    shuffled,
    split_global_batch,
    stream_of,
)
from clipgap.errors import MissingDependency, UsageError
from tests.thorough import examples

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)
SMALL = st.integers(1, 4)


@given(SIZES, SMALL, SMALL, SMALL, st.integers(0, 3), st.integers(0, 3))
@examples(60)
def test_each_sample_once_an_epoch(
    sizes: list[int], world: int, batch: int, accum: int, workers: int, epoch: int
) -> None:
    plan = plan_batches(sum(sizes), world, batch, accum, workers)
    assert plan.batches % accum == 0 and plan.samples >= sum(sizes)
    order = Order(sizes, 3, plan.stream_length)
    found: Counter[tuple[int, int]] = Counter()
    for stream in range(world * plan.streams):
        stretches = list(order.stretches(epoch, stream))
        assert stretches == list(
            Order(tuple(sizes), 3, plan.stream_length).stretches(epoch, stream)
        )
        rows = [(s.shard, row) for s in stretches for row in range(s.start, s.stop)]
        assert len(rows) == plan.stream_length
        found.update(rows)
    assert found.keys() == {(shard, row) for shard, n in enumerate(sizes) for row in range(n)}
    assert max(found.values()) - min(found.values()) <= 1


@given(SMALL, st.integers(0, 30))
def test_a_loader_goes_on_where_it_was(workers: int, done: int) -> None:
    """Streams give their batches in turn; so they must when the first ones are left out."""

    def batches(begin: int, count: int) -> list[tuple[int, int]]:
        served = [stream_of(worker, workers, begin) for worker in range(workers)]
        return [
            (served[i % workers][0], served[i % workers][1] + i // workers) for i in range(count)
        ]

    assert batches(0, done + 20)[done:] == batches(done, 20)


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9), st.integers())
def test_shuffled_is_a_permutation(items: list[int], size: int, seed: int) -> None:
    mixed = list(shuffled(iter(items), random.Random(seed), size))
    assert sorted(mixed) == sorted(items)
    assert mixed == list(shuffled(iter(items), random.Random(seed), size))


def test_shuffled_reads_no_further_than_its_buffer() -> None:
    assert list(islice(shuffled(iter(range(10**9)), random.Random(0), 50), 20))


def test_epochs_differ() -> None:
    order = Order([5] * 20, 0, 100)
    assert list(order.stretches(0, 0)) != list(order.stretches(1, 0))


@given(st.integers(1, 200), SMALL, st.none() | SMALL, st.none() | SMALL, st.none() | SMALL)
def test_global_batches(
    total: int, world: int, batch: int | None, accum: int | None, largest: int | None
) -> None:
    try:
        size, passes = split_global_batch(total, world, batch, accum, largest)
    except UsageError as error:
        near = [int(part.split()[0]) for part in str(error).split("--global-batch ")[1:]]
        assert near
        for other in near:
            split = split_global_batch(other, world, batch, accum, None)
            assert world * split[0] * split[1] == other
    else:
        assert world * size * passes == total
        assert (batch in (None, size)) and (accum in (None, passes))


def test_the_batch_of_the_paper_on_other_machines() -> None:
    sizes = {world: split_global_batch(33_600, world, None, None, 4_200) for world in (1, 3, 8, 16)}
    assert sizes == {1: (4_200, 8), 3: (2_800, 4), 8: (4_200, 1), 16: (2_100, 1)}
    with pytest.raises(UsageError, match=r"33,600 .* 9 devices.*--global-batch 33597 and .*33606"):
        split_global_batch(33_600, 9, None, None, 4_200)


class TestContract:
    """With open_clip_train, whose inner names the patches rely on."""

    def test_is_kept_by_the_version_at_hand(self) -> None:
        assert patches.broken_promises() == []

    @pytest.mark.parametrize(
        ("old", "new", "sentence"),
        [
            (
                "def get_wds_dataset(",
                "def make_wds(",
                "open_clip_train.data has no get_wds_dataset",
            ),
            (
                "def get_latest_checkpoint(path: str,",
                "def get_latest_checkpoint(folder: str,",
                "open_clip_train.main.get_latest_checkpoint takes (folder remote), not",
            ),
            (
                "step = num_batches_per_epoch * epoch + i_accum",
                "step = state.step",
                "open_clip_train.train.train_one_epoch no longer says 'step = ",
            ),
            ("    shared_epoch: SharedEpoch = None\n", "", "open_clip_train.data.DataInfo takes"),
        ],
    )
    def test_says_which_name_is_gone(
        self, old: str, new: str, sentence: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original: Callable[[str], str] = patches._source
        broken = patches.broken_promises(lambda part: original(part).replace(old, new))
        assert any(line.startswith(sentence) for line in broken), broken
        monkeypatch.setattr(patches, "_source", lambda part: original(part).replace(old, new))
        with pytest.raises(MissingDependency, match=r"cannot be driven: .*>=2\.32,<3\.4"):
            patches.check_promises()

    def test_nothing_stays_replaced(self) -> None:
        main = pytest.importorskip("open_clip_train.main")
        before = dict(vars(main)), torch.save, torch.nn.parallel.DistributedDataParallel
        ours = patches.Replacements(*[lambda *a, **k: None] * 4)
        with pytest.raises(KeyError), patches.patched(ours) as run:
            assert run is main.main and main.train_one_epoch is ours.train_one_epoch
            raise KeyError
        assert before == (
            dict(vars(main)),
            torch.save,
            torch.nn.parallel.DistributedDataParallel,
        )


def test_steps_of_an_epoch_taken_up_later() -> None:
    later = patches.LaterEpoch(3, 4)
    assert 10 * later + 2 == 36 and later == 3 and f"{later}" == "3"


def test_accuracy() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.8, 0.1, 0.3], [0.2, 0.3, 0.4]])
    assert patches.accuracy(scores, torch.tensor([1, 2, 0]), topk=(1, 2)) == [1.0, 2.0]


def test_loggers_are_as_before() -> None:
    """open_clip_train has every logger talk, and torch's do so when the process ends."""
    logger, new = logging.getLogger("torch._dynamo"), logging.getLogger("clipgap.test-of-levels")
    before = logger.level
    ours = patches.Replacements(*[lambda *_: None] * 4)  # type: ignore[list-item]
    with patches.patched(ours):
        for each in (logger, new, logging.getLogger("clipgap.made-meanwhile")):
            each.setLevel(logging.INFO)
    assert logger.level == before and new.level == logging.NOTSET
    assert logging.getLogger("clipgap.made-meanwhile").level == logging.NOTSET
