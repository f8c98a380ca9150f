"""Operations are seen in torch.profiler's traces by their names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, record_function

from tests.comm.pool import Pool


def every_operation(rank: int, n: int, async_op: bool) -> None:
    x, parts = torch.ones(4 * n), [torch.ones(4) for _ in range(n)]
    works = [
        dist.all_reduce(x, async_op=async_op),
        dist.reduce(x, 0, async_op=async_op),
        dist.broadcast(x, 0, async_op=async_op),
        dist.all_gather(parts, parts[0], async_op=async_op),
        dist.reduce_scatter_single(parts[0], x, async_op=async_op),
        dist.all_to_all_single(torch.empty(4 * n), x, async_op=async_op),
        dist.gather(parts[0], parts if rank == 0 else None, 0, async_op=async_op),
        dist.scatter(parts[0], parts if rank == 0 else None, 0, async_op=async_op),
        dist.barrier(async_op=async_op),
        dist.isend(x, (rank + 1) % n),
        dist.irecv(torch.empty(4 * n), (rank - 1) % n),
        dist.isend(x, (rank + 1) % n, tag=1),
        dist.irecv(torch.empty(4 * n), tag=1),
    ]
    for work in works:
        if work is not None:
            work.wait()


NAMES = {
    *("all_reduce", "reduce", "broadcast", "all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"),
    *("barrier", "send", "recv", "recv_anysource"),
}


def trace(fabric: Any, async_op: bool, all_threads: bool) -> tuple[set[str], list[int]]:
    rank, n = fabric.config.rank, fabric.config.world_size
    every_operation(rank, n, async_op)
    config = _ExperimentalConfig(profile_all_threads=True) if all_threads else None
    with profile(activities=[ProfilerActivity.CPU], experimental_config=config) as profiler:
        every_operation(rank, n, async_op)
        dist.barrier()
    events = [event for event in profiler.events() if event.name.startswith("smol:")]
    counts = [sum(event.name == f"smol:{name}" for event in events) for name in ("all_reduce", "send", "barrier")]
    assert all(event.time_range.elapsed_us() > 0 for event in events)
    return {event.name.removeprefix("smol:") for event in events}, counts


@pytest.mark.parametrize("async_op", [False, True])
def test_each_operation_is_one_span_on_the_thread_that_calls_it(pool: Pool, async_op: bool) -> None:
    for names, counts in pool.run(2, trace, async_op, False):
        assert names == NAMES
        assert counts == [1, 2, 2]


def span(fabric: Any) -> bool:
    """Whether an asynchronous operation's span covers what this rank did before the other rank came."""
    gloo, x = dist.new_group(backend="gloo"), torch.ones(10)
    if fabric.config.rank:
        dist.barrier(gloo)
        dist.all_reduce(x)
        return True
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work = dist.all_reduce(x, async_op=True)
        with record_function("meanwhile"):
            torch.ones(10).sum()
        dist.barrier(gloo)  # only now does the other rank come
        work.wait()
    found = {event.name: event.time_range for event in profiler.events()}
    return found["smol:all_reduce"].end >= found["meanwhile"].end


def test_an_asynchronous_operations_span_ends_with_it(pool: Pool) -> None:
    assert all(pool.run(2, span))


def test_the_groups_thread_shows_its_part_when_all_threads_are_profiled(pool: Pool) -> None:
    for names, _ in pool.run(2, trace, True, True):
        assert names >= {"all_reduce", "reduce_scatter", "all_gather"}
