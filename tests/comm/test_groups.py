"""Several groups: at once, overlapping, of one rank, destroyed, aborted, each with its own timeout."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smolcluster.comm import failure_of
from smolcluster.errors import DeadlineError, PeerError
from tests.comm.pool import Pool


def check_overlapping(fabric: Any) -> None:
    """Each group has its thread on each of its ranks; all of them work at the same time."""
    rank, n = fabric.config.rank, fabric.config.world_size
    members = [[0, 1], [1, 2], [2, 0], [0, 1, 2], [2, 1, 0], list(range(n)), [1]]
    groups = [(ranks, dist.new_group(ranks)) for ranks in members]
    failures: list[BaseException] = []

    def work(ranks: list[int], group: Any) -> None:
        try:
            for size in (1, 1000, 70_000, 5, 300_000):
                x = torch.full((size,), float(rank))
                dist.all_reduce(x, group=group)
                assert (x == sum(ranks)).all()
                told = torch.full((size,), float(rank))
                dist.broadcast(told, ranks[-1], group=group)
                assert (told == ranks[-1]).all()
                dist.barrier(group=group)
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in groups if rank in pair[0]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if failures:
        raise failures[0]
    # Destroying some leaves the others working.
    for ranks, group in groups[::2]:
        if rank in ranks:
            dist.destroy_process_group(group)
    for ranks, group in groups[1::2]:
        if rank in ranks:
            work(ranks, group)
    dist.barrier()


@pytest.mark.parametrize("n", [3, 4])
def test_groups_that_overlap_work_at_once(pool: Pool, n: int) -> None:
    pool.run(n, check_overlapping)


def absent(fabric: Any, name: str, missing: list[int]) -> tuple[str, str, float]:
    """Everybody but some ranks calls an operation of a group whose timeout is short."""
    rank, n = fabric.config.rank, fabric.config.world_size
    group = dist.new_group(list(range(n)), timeout=timedelta(seconds=60))
    dist.barrier(group=group)
    group.set_timeout(timedelta(seconds=2))
    x, parts = torch.ones(n * 50_000), [torch.ones(50_000) for _ in range(n)]
    calls = {
        "all_reduce": lambda: dist.all_reduce(x, group=group),
        "async all_reduce": lambda: dist.all_reduce(x, group=group, async_op=True).wait(),
        "reduce": lambda: dist.reduce(x, 0, group=group),
        "broadcast": lambda: dist.broadcast(x, 0, group=group),
        "all_gather": lambda: dist.all_gather(parts, parts[0], group=group),
        "reduce_scatter": lambda: dist.reduce_scatter(parts[0], parts, group=group),
        "all_to_all": lambda: dist.all_to_all(parts, [part.clone() for part in parts], group=group),
        "gather": lambda: dist.gather(parts[0], parts if rank == 0 else None, 0, group=group),
        "barrier": lambda: dist.barrier(group=group),
        "first of its kind": lambda: dist.scatter(parts[0], parts if rank == 0 else None, 0, group=group),
    }
    started = time.monotonic()
    try:
        if rank in missing:
            dist.barrier()  # of the world: it does not come to the group's operation
        else:
            calls[name]()
            dist.barrier()  # it may have been done with its part
    except PeerError as error:
        return type(error).__name__, str(error), time.monotonic() - started
    return "", "nothing failed", 0.0


@pytest.mark.parametrize(
    ("n", "name", "missing"),
    [
        (4, "all_reduce", [2]),
        (4, "async all_reduce", [0]),
        (4, "all_reduce", [1, 2]),
        (3, "reduce", [2]),
        (4, "broadcast", [1]),
        (3, "all_gather", [1]),
        (3, "reduce_scatter", [0]),
        (3, "all_to_all", [1]),
        (3, "gather", [2]),
        (4, "barrier", [3]),
        (3, "first of its kind", [0]),
    ],
)
def test_the_ranks_that_did_not_come_are_named(pool: Pool, n: int, name: str, missing: list[int]) -> None:
    outcomes = [outcome.value for outcome in pool.outcomes(n, absent, name, missing)]
    ranks = f"ranks {missing[0]}, {missing[1]}" if len(missing) > 1 else f"rank {missing[0]}"
    operation = {"first of its kind": "scatter"}.get(name, name.removeprefix("async "))
    for kind, text, seconds in outcomes:
        assert kind == "DeadlineError", text
        assert text.startswith(f"{ranks} did not come to {operation}, operation 2 of group "), text
        assert "waited 2 s" in text
        assert seconds < 15  # the world's timeout is 20


def late_for_new_group(fabric: Any) -> str:
    group = dist.new_group([0, 1, 2], timeout=timedelta(seconds=3))
    late = fabric.config.rank == 0
    with pytest.raises(PeerError) as caught:
        dist.barrier() if late else dist.all_reduce(torch.ones(9), group=group)
    return str(caught.value)


def test_a_new_groups_own_timeout(pool: Pool) -> None:
    for outcome in pool.outcomes(3, late_for_new_group):
        assert outcome.value.startswith("rank 0 did not come to all_reduce, operation 1 of group "), outcome
        assert "waited 3 s" in outcome.value


def test_a_barriers_own_timeout(pool: Pool) -> None:
    outcomes = pool.outcomes(3, late_for_barrier)
    for outcome in outcomes:
        text, seconds = outcome.value
        assert text.startswith("rank 1 did not come to barrier, operation 1 of group "), text
        assert "waited 1.5 s" in text
        assert seconds < 10


def late_for_barrier(fabric: Any) -> tuple[str, float]:
    other = dist.new_group([0, 1, 2])
    started = time.monotonic()
    late = fabric.config.rank == 1
    with pytest.raises(PeerError) as caught:
        dist.recv(torch.empty(1), 0, group=other) if late else dist.barrier(timeout=timedelta(seconds=1.5))
    return str(caught.value), time.monotonic() - started


def check_monitored(fabric: Any) -> list[str]:
    rank, world = fabric.config.rank, dist.group.WORLD
    world.monitored_barrier(timedelta(seconds=20))
    world.monitored_barrier(timedelta(seconds=20), wait_all_ranks=True)
    texts = []
    for every in (False, True):
        if rank in (1, 3):
            dist.barrier()  # they were busy with something else
            with pytest.raises(DeadlineError) as caught:
                world.monitored_barrier(timedelta(seconds=0.5), wait_all_ranks=every)  # too late: it has failed
        else:
            with pytest.raises(DeadlineError) as caught:
                world.monitored_barrier(timedelta(seconds=0.5), wait_all_ranks=every)
            dist.barrier()
        texts.append(str(caught.value))
    world.monitored_barrier(timedelta(seconds=20))  # nothing is broken
    # c10d looks at the backend's name, or class, in these two: hence group.monitored_barrier, group.set_timeout.
    with pytest.raises(ValueError, match="only implemented for GLOO"):
        dist.monitored_barrier()
    with pytest.raises(RuntimeError, match="No backend type"):
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
    return texts


def test_monitored_barrier_names_who_is_missing(pool: Pool) -> None:
    for first, every in pool.run(4, check_monitored):
        assert first.startswith("rank 1 did not come to monitored_barrier 3 of group ")
        assert every.startswith("ranks 1, 3 did not come to monitored_barrier 4 of group ")


def check_wait(fabric: Any) -> None:
    x = torch.ones(10)
    if fabric.config.rank == 0:
        work = dist.all_reduce(x, async_op=True)
        message = dist.irecv(torch.empty(3), 1)
        for waiting in (work, message):
            with pytest.raises(DeadlineError, match=r"not done within 0\.2 s; it goes on"):
                waiting.wait(timedelta(seconds=0.2))
            assert not waiting.is_completed()
            assert waiting.exception() is None
        dist.barrier(dist.new_group([0, 1], backend="gloo"))
        assert work.wait(timedelta(seconds=20))
        assert message.wait(timedelta(seconds=20))
    else:
        dist.barrier(dist.new_group([0, 1], backend="gloo"))
        dist.all_reduce(x)
        dist.send(torch.ones(3), 0)
    assert x[0] == 2
    x.mul_(0)
    work = dist.all_reduce(x, async_op=True)
    work.block_current_stream()
    assert work.is_success()


def test_work_wait_with_a_timeout(pool: Pool) -> None:
    pool.run(2, check_wait)


def aborts(fabric: Any) -> str:
    """An abort ends what waits, on every rank of the group."""
    rank = fabric.config.rank
    group = dist.new_group([0, 1, 2])
    dist.barrier(group=group)
    work = dist.all_reduce(torch.ones(10), group=group, async_op=True) if rank else None
    if rank == 0:
        dist.distributed_c10d._abort_process_group(group)
        with pytest.raises(PeerError) as caught:
            dist.barrier()
    else:
        with pytest.raises(PeerError) as caught:
            work.wait()
        assert not work.is_success()
        assert failure_of(work.exception()) is not None
        with pytest.raises(Exception, match=r"lost|closed|destroyed|broke"):
            work.get_future().wait()
    return str(caught.value)


def test_abort(pool: Pool) -> None:
    for outcome in pool.outcomes(3, aborts):
        assert outcome.value, outcome.text


def check_again(fabric: Any) -> None:
    """Destroy everything and start again in the same process, with other groups."""
    from smolcluster.comm import open_fabric

    group = dist.new_group([0, 2])
    dist.barrier()
    dist.destroy_process_group()
    fabric.close()
    assert not dist.is_initialized()
    config = fabric.config
    for generation in (1, 2):
        with open_fabric(replace(config, generation=generation)):
            x = torch.ones(5)
            dist.all_reduce(x, group=dist.new_group([0, 1, 2]))
            assert x[0] == 3
            if config.rank == 1:
                dist.send(x, 0)
            elif config.rank == 0:
                assert dist.recv(x) == 1
    del group


def test_destroy_and_start_again(pool: Pool) -> None:
    pool.run(3, check_again)


def check_split(fabric: Any) -> tuple[str, str]:
    """c10d's split_group wants an accelerator, whatever the backend."""
    texts = []
    for parent in (None, dist.new_group(backend="gloo")):
        with pytest.raises(RuntimeError) as caught:
            dist.split_group(parent, [[0], [1]])
        texts.append(str(caught.value))
    return texts[0], texts[1]


def test_split_group_is_refused_by_c10d_on_a_cpu(pool: Pool) -> None:
    ours, gloos = pool.run(2, check_split)[0]
    assert ours == gloos == "No device associated with the default pg, not safe to split any process groups"
