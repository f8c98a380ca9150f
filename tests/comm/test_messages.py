"""Messages from anybody, with tags, early and late, beside receives that name their rank."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import deque
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from smolcluster.comm.backend.flat import Flat
from smolcluster.comm.backend.inbox import Inbox
from smolcluster.comm.backend.message import Early
from smolcluster.comm.backend.pairs import Pairs
from smolcluster.comm.backend.receive import Receive
from smolcluster.errors import PeerError
from tests.comm.pool import Pool


def check_any_source(fabric: Any) -> None:
    rank, n = fabric.config.rank, fabric.config.world_size
    for receiver in range(n):  # the lowest rank is dialled by all, the highest dials all
        if rank != receiver:
            dist.send(torch.full((5,), float(rank)), receiver)
        else:
            got: dict[int, float] = {}
            for _ in range(n - 1):
                place = torch.empty(5)
                source = dist.recv(place)
                got[source] = place[0].item()
            assert got == {r: float(r) for r in range(n) if r != receiver}
        dist.barrier()


@pytest.mark.parametrize("n", [2, 3, 4])
def test_recv_from_anybody_tells_who_it_was(pool: Pool, n: int) -> None:
    pool.run(n, check_any_source)


def check_mixture(fabric: Any) -> None:
    """Rank 0 receives from named ranks and from anybody at once; large, small and empty messages, sent early."""
    rank, n = fabric.config.rank, fabric.config.world_size
    sizes = (0, 1, 1001, 700_000)
    if rank == 0:
        dist.barrier()  # everything has been sent by then, nothing received
        anybody = [(size, torch.empty(size), torch.empty(size)) for size in sizes for _ in range(1, n)]
        named = {(r, size): torch.empty(size, dtype=torch.int32) for r in range(1, n) for size in sizes}
        works = []
        for size, place, _ in anybody:
            works.append((dist.irecv(place, tag=size), place, size))
        for (r, size), place in named.items():
            dist.recv(place, r, tag=10_000_000 + size)
            assert (place == r).all()
        sources: dict[int, list[int]] = {}
        for work, place, size in works:
            work.wait()
            sources.setdefault(size, []).append(work._source_rank())
            assert (place == work._source_rank()).all()
        assert all(sorted(found) == list(range(1, n)) for found in sources.values())
    else:
        works = [dist.isend(torch.full((size,), float(rank)), 0, tag=size) for size in sizes]
        works += [dist.isend(torch.full((s,), rank, dtype=torch.int32), 0, tag=10_000_000 + s) for s in reversed(sizes)]
        dist.barrier()
        for work in works:
            work.wait()
    dist.barrier()


@pytest.mark.parametrize("n", [2, 3, 4])
def test_anybody_and_named_ranks_at_once(pool: Pool, n: int) -> None:
    pool.run(n, check_mixture)


def check_post_order(fabric: Any) -> None:
    """Of two receives that a message fits, the one that was posted first gets it, whatever kind they are."""
    rank = fabric.config.rank
    first, second = torch.zeros(1), torch.zeros(1)
    for early in (True, False):
        for anybody_first in (True, False):
            if rank == 1:
                if not early:
                    dist.barrier()
                dist.send(torch.ones(1), 0, tag=3)
                dist.send(torch.full((1,), 2.0), 0, tag=3)
                if early:
                    dist.barrier()
                dist.barrier()
                continue
            if early:
                dist.barrier()
            works = [
                dist.irecv(first, None if anybody_first else 1, tag=3),
                dist.irecv(second, 1 if anybody_first else None, tag=3),
            ]
            if not early:
                dist.barrier()
            for work in reversed(works):
                work.wait()
            assert (first.item(), second.item()) == (1, 2)
            dist.barrier()


def test_receives_are_served_in_the_order_they_were_posted(pool: Pool) -> None:
    pool.run(2, check_post_order)


def check_background(fabric: Any) -> float:
    """A receive that nobody waits for ends by itself, without a thread that turns round and round."""
    if fabric.config.rank == 1:
        fabric.store.wait(["rank 0 has seen enough"])
        dist.send(torch.ones(300_000), 0, tag=7)
        dist.barrier()
        return 0.0
    place = torch.zeros(300_000)
    done = threading.Event()
    before = time.process_time()
    work = dist.irecv(place, tag=7)
    work.get_future().add_done_callback(lambda future: done.set() if future.value()[0] is place else None)
    assert not done.wait(1.0)  # nothing can end it yet: this is the second that is measured
    busy = time.process_time() - before
    assert not work.is_completed()
    fabric.store.set("rank 0 has seen enough", "")
    assert done.wait(20)
    assert work.is_success()
    assert (place == 1).all()
    dist.barrier()
    return busy


def test_an_asynchronous_receive_goes_on_by_itself(pool: Pool) -> None:
    assert pool.run(2, check_background)[0] < 0.5  # CPU seconds in a wait of one second


def check_threads(fabric: Any) -> None:
    """Several threads of a rank receive from anybody, each its own tag."""
    rank, n = fabric.config.rank, fabric.config.world_size
    found: list[Any] = []

    def listen(tag: int) -> None:
        for _ in range(20 * (n - 1)):
            place = torch.empty(tag + 1)
            source = dist.recv(place, tag=tag)
            found.append((tag, source, place[0].item()))

    if rank == 0:
        threads = [threading.Thread(target=listen, args=(tag,)) for tag in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(found) == 3 * 20 * (n - 1)
        assert all(source == value for _, source, value in found)
    else:
        for number in range(60):
            dist.send(torch.full((number % 3 + 1,), float(rank)), 0, tag=number % 3)
    dist.barrier()


def test_threads_receive_at_once(pool: Pool) -> None:
    pool.run(3, check_threads)


def check_wrong(fabric: Any) -> str:
    if fabric.config.rank:
        dist.send(torch.ones(3), 0, tag=5)
        with pytest.raises(PeerError):
            dist.recv(torch.empty(1), 0)
        return ""
    with pytest.raises(PeerError) as caught:
        dist.recv(torch.empty(5), tag=5)
    return str(caught.value)


def test_a_message_of_another_size_is_refused_whoever_sent_it(pool: Pool) -> None:
    text = pool.outcomes(2, check_wrong)[0].value
    assert "rank 1 sent 12 bytes of float32 with tag 5, this rank expected 20 bytes of float32" in text


def nobody_sends(fabric: Any) -> tuple[str, float]:
    if fabric.config.rank == 0:
        started = time.monotonic()
        with pytest.raises(PeerError) as caught:
            dist.recv(torch.empty(5), tag=5)
        return str(caught.value), time.monotonic() - started
    with pytest.raises(PeerError) as caught:
        dist.recv(torch.empty(5), 0)
    return str(caught.value), 0.0


def test_a_receive_from_anybody_ends_at_the_groups_timeout(pool: Pool) -> None:
    outcomes = pool.outcomes(2, nobody_sends, timeout_s=2.0, join_s=90.0)
    texts = [outcome.value[0] for outcome in outcomes]
    assert all("sent nothing for 2 s: a message with tag " in text for text in texts), texts
    assert outcomes[0].value[1] < 10


def leaves(fabric: Any) -> str:
    """Rank 1 destroys the group while rank 0 still waits for a message on it."""
    group = dist.new_group([0, 1])
    dist.barrier()
    if fabric.config.rank == 1:
        dist.send(torch.ones(1), 0, group=group)
        dist.destroy_process_group(group)
        with pytest.raises(PeerError):
            dist.barrier()
        return ""
    dist.recv(torch.empty(1), group=group)
    with pytest.raises(PeerError) as caught:
        dist.recv(torch.empty(1), group=group)
    return str(caught.value)


def test_waiting_for_ranks_that_have_left_the_group_is_an_error(pool: Pool) -> None:
    assert (
        "every other rank has left the group: a message with tag 0 was still due" in pool.outcomes(2, leaves)[0].value
    )


def test_a_message_never_overtakes_an_older_one_of_its_tag() -> None:
    """A receive is posted after the first message was kept and before the second one's header is read."""
    inbox = Inbox(Pairs(None, "p2p", [0, 1], 1.0), 0, 2, "test", lambda job: job())
    inbox._early[1, 3] = deque([Early(3)])
    inbox._pending.append(Receive(inbox, Flat(torch.empty(1)), 1, 3, 1.0, []))
    assert inbox._take(1, 3) is None
    assert inbox._take(1, 4) is None
    inbox._early.clear()
    assert inbox._take(1, 3) is inbox._pending[0].incoming
    assert inbox._take(1, 3) is None, "it has its message"


def test_an_inbox_whose_thread_cannot_start_is_closed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is short: the next receive tries again."""
    inbox = Inbox(Pairs(Mock(), "p2p", [0, 1], 1.0), 0, 2, "test", lambda job: job())
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
        with pytest.raises(RuntimeError, match="can't start"):
            inbox.post(Receive(inbox, Flat(torch.empty(1)), 1, 3, 1.0, []))
    inbox.close()


def check_a_place_that_cannot_be_written(fabric: Any) -> str:
    """Rank 0 receives into a tensor whose numbers share one place, beside a receive that is in order."""
    if fabric.config.rank:
        dist.send(torch.ones(4), 0, tag=1)
        dist.send(torch.full((4,), 7.0), 0, tag=2)
        dist.barrier()
        return ""
    good = torch.zeros(4)
    waiting = dist.irecv(good, 1, tag=2)
    with pytest.raises(RuntimeError) as caught:
        dist.recv(torch.zeros(1).expand(4), 1, tag=1)
    waiting.wait()
    assert good.tolist() == [7.0] * 4
    dist.barrier()
    return str(caught.value)


def test_a_receive_that_cannot_be_written_fails_alone(pool: Pool) -> None:
    assert "single memory location" in pool.run(2, check_a_place_that_cannot_be_written)[0]


def check_finished_receives_are_let_go(fabric: Any) -> int:
    """Rank 0 has a standing receive while many others come and go; how many of their tensors live on."""
    if fabric.config.rank:
        for number in range(50):
            dist.send(torch.full((4,), float(number)), 0, tag=1)
        dist.send(torch.ones(4), 0, tag=9)
        return 0
    standing = dist.irecv(torch.zeros(4), 1, tag=9)
    gone = []
    for _ in range(50):
        place = torch.zeros(4)
        dist.irecv(place, 1, tag=1).wait()
        gone.append(weakref.ref(place))
    del place
    gc.collect()
    left = sum(reference() is not None for reference in gone)
    standing.wait()
    return left


def test_finished_receives_are_let_go_while_others_wait(pool: Pool) -> None:
    assert pool.run(2, check_finished_receives_are_let_go)[0] <= 1
