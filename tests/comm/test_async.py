"""Work handles, futures, order, sub-groups, point-to-point."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smolcluster.errors import PeerError
from tests.comm.pool import Pool


def check_handles(fabric: Any) -> None:
    n = fabric.config.world_size
    many = [torch.full((k * 1000 + 1,), 1.0) for k in range(20)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in many]
    late = torch.ones(3)
    dist.all_reduce(late)  # synchronous, behind twenty asynchronous ones
    assert all(work.is_completed() for work in works)
    assert all(work.wait() and work.is_success() for work in works)
    assert all((tensor == n).all() for tensor in [*many, late])
    future = dist.all_reduce(late, async_op=True).get_future()
    future.wait()
    assert future.value()[0] is late
    assert (late == n * n).all()
    chained = dist.all_reduce(late, async_op=True).get_future().then(lambda done: done.value()[0] / n)
    assert (chained.wait() == n * n).all()


@pytest.mark.parametrize("n", [2, 3])
def test_asynchronous_operations_keep_their_order(pool: Pool, n: int) -> None:
    pool.run(n, check_handles)


def check_callbacks(fabric: Any) -> None:
    """What is attached to a future may begin and wait for other operations, on whichever thread it runs."""
    rank, n = fabric.config.rank, fabric.config.world_size

    def more(depth: int) -> Any:
        def then(done: Any) -> torch.Tensor:
            (x,) = done.wait()
            if depth:
                dist.all_reduce(x)
                return dist.all_reduce(x, async_op=True).get_future().then(more(depth - 1)).wait()
            return x

        return then

    for attach_early in (True, False):
        x = torch.ones(1000)
        work = dist.all_reduce(x, async_op=True)
        if not attach_early:
            work.wait()
        work.get_future().then(more(3)).wait()
        assert (x == n**7).all()

    long, first, second = torch.ones(2_000_000), torch.ones(5), torch.ones(5)
    fresh = dist.new_group(list(range(n)))  # with one thread so far
    works = [dist.all_reduce(tensor, group=fresh, async_op=True) for tensor in (long, first, second)]
    behind = works[1].get_future().then(lambda _: works[2].get_future().wait()[0])  # which is queued already
    assert (behind.wait() == n).all()

    def answered(_: Any) -> int:
        place = torch.zeros(1)
        reply = dist.irecv(place, (rank - 1) % n, tag=2)
        dist.send(torch.full((1,), float(rank)), (rank + 1) % n, tag=2)
        reply.wait()
        return int(place.item())

    future = dist.irecv(torch.zeros(1), (rank - 1) % n, tag=1).get_future().then(answered)
    dist.send(torch.ones(1), (rank + 1) % n, tag=1)
    assert future.wait() == (rank - 1) % n


@pytest.mark.parametrize("n", [2, 3])
def test_a_callback_may_wait_for_other_operations(pool: Pool, n: int) -> None:
    pool.run(n, check_callbacks)


def check_subgroups(fabric: Any) -> None:
    rank = fabric.config.rank
    pairs = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    mine = pairs[rank % 2]
    x = torch.full((5000,), float(rank))
    outer = torch.ones(300_000)
    work = dist.all_reduce(outer, async_op=True)  # the world's traffic runs beside the pair's
    dist.all_reduce(x, group=mine)
    work.wait()
    assert (x == 2 + 2 * (rank % 2)).all()
    assert (outer == 4).all()
    told = torch.full((3,), float(rank))
    dist.broadcast(told, src=2 if rank % 2 == 0 else 3, group=mine)
    assert (told == 2 + rank % 2).all()
    dist.destroy_process_group(mine)
    again = dist.new_group([3, 1, 2])  # ranks in another order than the world's
    if rank:
        y = torch.full((7,), float(rank))
        dist.all_reduce(y, group=again)
        assert (y == 6).all()
    dist.barrier()


def test_subgroups_have_their_own_traffic(pool: Pool) -> None:
    pool.run(4, check_subgroups)


def check_messages(fabric: Any) -> None:
    rank, n = fabric.config.rank, fabric.config.world_size
    following, previous = (rank + 1) % n, (rank - 1) % n
    large = torch.full((2_000_000,), float(rank))  # larger than any socket buffer: all send before anyone receives
    got = torch.empty_like(large)
    sent = dist.isend(large, following)
    dist.recv(got, previous)
    sent.wait()
    assert (got == previous).all()
    ops = [dist.P2POp(dist.isend, large, following), dist.P2POp(dist.irecv, got.zero_(), previous)]
    for work in dist.batch_isend_irecv(ops):
        work.wait()
    assert (got == previous).all()
    # Tags find their message whatever the order.
    first, second = torch.empty(4, dtype=torch.int64), torch.empty(2)
    works = [dist.isend(torch.tensor([1, 2, 3, 4]), following, tag=1), dist.isend(torch.ones(2), following, tag=2)]
    dist.recv(second, previous, tag=2)
    dist.recv(first, previous, tag=1)
    assert first.tolist() == [1, 2, 3, 4]
    assert second.tolist() == [1, 1]
    for work in works:
        work.wait()
    dist.barrier()


@pytest.mark.parametrize("n", [2, 3])
def test_point_to_point(pool: Pool, n: int) -> None:
    pool.run(n, check_messages)


def check_wrong_message(fabric: Any) -> str:
    if fabric.config.rank == 0:
        dist.send(torch.ones(3), 1)
        return ""
    with pytest.raises(PeerError) as caught:
        dist.recv(torch.empty(5), 0)
    return str(caught.value)


def test_a_message_of_another_size_is_refused(pool: Pool) -> None:
    text = pool.outcomes(2, check_wrong_message)[1].value
    assert "rank 0 sent 12 bytes of float32 with tag 0, this rank expected 20 bytes of float32" in text


def check_threads(fabric: Any) -> list[str]:
    dist.all_reduce(torch.ones(10), async_op=True).wait()
    dist.destroy_process_group()
    fabric.close()
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("smol")]


def test_closing_joins_every_thread(pool: Pool) -> None:
    assert pool.run(3, check_threads) == [[], [], []]
