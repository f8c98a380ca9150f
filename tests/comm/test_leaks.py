"""Rounds and rounds of groups, operations and whole fabrics leave threads, descriptors and memory where they were."""

from __future__ import annotations

import gc
import os
import sys
import threading
import tracemalloc
from collections import Counter
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist

from smolcluster.comm.clock import Deadline
from tests.comm.pool import Pool

ROUNDS = 200
# What torch and Python keep for themselves in so many rounds; a link that is kept costs more in one.
BYTES_PER_ROUND = 1024
# A thread that has just read a frame may still hold it.
AT_WORK = 3


class Held(NamedTuple):
    """What a process holds."""

    threads: int
    descriptors: int
    objects: Counter[str]
    traced: int


def held() -> Held:
    gc.collect()
    objects = Counter(
        type(thing).__name__
        for thing in gc.get_objects()
        if str(type(thing).__module__).startswith("smolcluster.") or type(thing) is torch.Tensor
    )
    descriptors = len(os.listdir("/proc/self/fd")) if sys.platform.startswith("linux") else 0
    return Held(threading.active_count(), descriptors, objects, tracemalloc.get_traced_memory()[0])


def group_round(fabric: Any) -> None:
    rank, n = fabric.config.rank, fabric.config.world_size
    group = dist.new_group(list(range(n)))
    works = [dist.all_reduce(torch.ones(1000), group=group, async_op=True)]
    following, previous = (rank + 1) % n, (rank - 1) % n
    works += [dist.isend(torch.ones(10), following, group), dist.irecv(torch.ones(10), previous, group)]
    for work in works:
        work.wait()
    dist.gather(torch.ones(10), [torch.empty(10) for _ in range(n)] if rank == 0 else None, group=group)
    dist.destroy_process_group(group)


def operation_round(fabric: Any) -> None:
    n = fabric.config.world_size
    whole = torch.ones(100 * n)
    dist.all_reduce(whole, async_op=True).get_future().then(lambda done: done.value()[0]).wait()
    dist.reduce_scatter_single(torch.empty(100), whole)
    dist.all_to_all_single(torch.empty_like(whole), whole)
    dist.all_reduce(whole.half())
    dist.all_gather_object([None] * n, "an object")
    with pytest.raises(dist.DistStoreError):
        fabric.store.wait(["never"], timedelta(seconds=0))
    dist.barrier()


def held_in_peace() -> Held:
    """What a process holds while no rank begins or ends anything."""
    dist.barrier()
    pause, deadline = threading.Event(), Deadline(10)
    while any(thread.name == "smol-handshake" for thread in threading.enumerate()) and not deadline.expired:
        pause.wait(0.01)
    result = held()
    dist.barrier()
    return result


def rounds(fabric: Any, kind: str) -> tuple[Held, Held, int]:
    """What a process holds after some rounds and after many more, and by how many keys the store has grown."""
    one = {"groups": group_round, "operations": operation_round}[kind]
    for _ in range(10):  # lanes, links and caches that stay
        one(fabric)
    dist.barrier()
    keys = fabric.store.num_keys()
    tracemalloc.start()
    try:
        one(fabric)
        before = held_in_peace()
        for _ in range(ROUNDS):
            one(fabric)
        after = held_in_peace()
    finally:
        tracemalloc.stop()
    return before, after, fabric.store.num_keys() - keys


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["groups", "operations"])
def test_rounds_leave_nothing(pool: Pool, kind: str) -> None:
    for before, after, keys in pool.run(3, rounds, kind):
        assert after.threads == before.threads
        assert after.descriptors == before.descriptors
        grown = after.objects - before.objects
        assert max(grown.values(), default=0) <= AT_WORK, grown
        assert after.traced - before.traced < BYTES_PER_ROUND * ROUNDS, after.traced - before.traced
        assert keys == 0


def joined(fabric: Any) -> None:
    dist.all_reduce(torch.ones(10), async_op=True).wait()
    dist.new_group([0, 1])
    dist.barrier()


_HELD: list[Held] = []


def note(config: Any) -> Any:
    _HELD.append(held())
    return config


def noted(fabric: Any) -> tuple[Held, Held]:
    result = _HELD[2], _HELD[-1]
    _HELD.clear()
    return result


def test_whole_fabrics_leave_nothing(pool: Pool) -> None:
    for _ in range(12):
        pool.run(2, joined, prepare=note)
    for before, after in pool.run(2, noted, prepare=note):
        assert after.threads == before.threads
        assert after.descriptors == before.descriptors
        grown = after.objects - before.objects
        assert max(grown.values(), default=0) <= AT_WORK, grown
