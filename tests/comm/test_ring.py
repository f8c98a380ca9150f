"""The ring's schedules with ranks as threads: group sizes up to 6, awkward lengths, frames much smaller than shards."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from smolcluster.comm.backend import schedule
from smolcluster.comm.backend.arithmetic import fold_of
from smolcluster.comm.backend.flat import Flat
from smolcluster.comm.backend.flow import BLOCK_BYTES, Stamp, flow
from smolcluster.comm.frame import HEADER_BYTES
from tests.comm.wires import link_pair, together

STAMP = Stamp(1, "test", 1, 7)


class RingOfThreads:
    """n ranks, a link from each to the next."""

    def __init__(self, stack: ExitStack, n: int) -> None:
        self.n = n
        self.onward: list[Any] = [None] * n
        self.backward: list[Any] = [None] * n
        for rank in range(n):
            self.onward[rank], self.backward[(rank + 1) % n] = link_pair(stack, rank, (rank + 1) % n)

    def run(self, plans: list[schedule.Plan]) -> None:
        outcomes = together(*[lambda r=r: self._one(r, plans[r]) for r in range(self.n)])
        assert outcomes == [None] * self.n

    def _one(self, rank: int, plan: schedule.Plan) -> None:
        flow(self.onward[rank].out, self.backward[rank].inward, *plan, STAMP, 10.0)

    def payload(self, rank: int, frames: int) -> int:
        return self.onward[rank].bytes_out - frames * HEADER_BYTES


def reduction() -> schedule.Reduction:
    scratch = torch.empty(BLOCK_BYTES, dtype=torch.uint8)
    return schedule.Reduction(
        fold_of("SUM", torch.float32), None, scratch.view(torch.float32), schedule.bytes_of(scratch)
    )


@pytest.mark.parametrize("n", [2, 3, 5, 6])
@pytest.mark.parametrize(("length", "frame"), [(1, 64), (13, 2), (1000, 7), (200_000, 100_000)])
def test_all_reduce(n: int, length: int, frame: int) -> None:
    data = [torch.arange(length, dtype=torch.float32) * (rank + 1) for rank in range(n)]
    expected = torch.stack(data).sum(0)
    with ExitStack() as stack:
        ring = RingOfThreads(stack, n)
        plans = [schedule.all_reduce(schedule.Ring(r, n), data[r], frame, reduction()) for r in range(n)]
        ring.run(plans)
        moved = [ring.payload(rank, len(plans[rank][0])) for rank in range(n)]
    for result in data:
        torch.testing.assert_close(result, expected)
    # Exactly 2(N-1)/N of the buffer, summed over ranks whatever the division leaves over.
    assert sum(moved) == 2 * (n - 1) * length * 4


@pytest.mark.parametrize("n", [2, 3, 5, 6])
@pytest.mark.parametrize(("length", "frame"), [(1, 64), (50, 2), (999, 7)])
def test_reduce_scatter_of_uneven_shards(n: int, length: int, frame: int) -> None:
    sizes = [length + rank % 2 for rank in range(n)]
    data = [[torch.randn(size) for size in sizes] for _ in range(n)]
    before = [[shard.clone() for shard in shards] for shards in data]
    outputs = [torch.empty(size) for size in sizes]
    with ExitStack() as stack:
        ring = RingOfThreads(stack, n)
        plans = []
        for rank in range(n):
            spare = torch.empty(schedule.spare_numbers(n, max(sizes), frame))
            plans.append(
                schedule.reduce_scatter(schedule.Ring(rank, n), data[rank], outputs[rank], frame, reduction(), spare)
            )
        ring.run(plans)
    for rank in range(n):
        torch.testing.assert_close(outputs[rank], torch.stack([before[r][rank] for r in range(n)]).sum(0))
        assert all(torch.equal(*pair) for pair in zip(data[rank], before[rank], strict=True))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_all_gather_and_broadcast(n: int) -> None:
    own = [torch.randn(10 + rank) for rank in range(n)]
    parts = [[torch.empty(10 + r) for r in range(n)] for _ in range(n)]
    told = [torch.full((33,), float(rank)) for rank in range(n)]
    for rank in range(n):
        parts[rank][rank].copy_(own[rank])
    with ExitStack() as stack:
        ring = RingOfThreads(stack, n)
        ring.run([schedule.all_gather(schedule.Ring(r, n), parts[r], 16) for r in range(n)])
        ring.run([schedule.broadcast(schedule.Ring(r, n), told[r], 1, 16) for r in range(n)])
    for rank in range(n):
        assert all(torch.equal(parts[rank][r], own[r]) for r in range(n))
        assert (told[rank] == 1).all()


def test_shards_are_even() -> None:
    assert schedule.shard_bounds(10, 4) == [0, 3, 6, 8, 10]
    assert schedule.shard_bounds(2, 4) == [0, 1, 2, 2, 2]


def test_one_number_with_a_stride_has_bytes() -> None:
    """It counts as contiguous, whatever its stride."""
    strided = torch.arange(6, dtype=torch.int32)[1::2][:1]
    assert bytes(schedule.bytes_of(Flat(strided).numbers)) == (1).to_bytes(4, sys.byteorder)
