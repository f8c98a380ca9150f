"""What happens when a rank dies, freezes, gives up or is somebody else: the same error everywhere, in time."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smolcluster.comm import failure_of
from smolcluster.comm.alarm import Alarm
from smolcluster.comm.clock import Deadline
from smolcluster.errors import PeerError, PeerLostError
from tests.comm.pool import Pool

# Longer than the pool waits for a rank: an error in time is never that of this deadline.
NEVER_S = 600.0


@pytest.fixture
def fresh() -> Iterator[Pool]:
    """Its own workers: they are killed and stopped here."""
    made = Pool()
    yield made
    made.close()


def until_it_breaks(fabric: Any, name: str, victim: int, how: str) -> tuple[str, str, float]:
    """Operations without end; the victim goes after a few. What the others got, and how long it took."""
    rank, n = fabric.config.rank, fabric.config.world_size
    whole, part = torch.ones(600_000 // n * n), torch.ones(600_000 // n)
    calls = {
        "all_reduce": lambda: dist.all_reduce(whole),
        "reduce_scatter": lambda: dist.reduce_scatter_single(part, whole),
        "broadcast": lambda: dist.broadcast(whole, 0),
        "async": lambda: dist.all_reduce(whole, async_op=True).wait(),
        "recv": lambda: dist.recv(part, victim) if rank != victim else dist.barrier(),
    }
    for _ in range(3):
        dist.all_reduce(whole)
    if rank == victim:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
    started = time.monotonic()
    try:
        while True:
            calls[name]()
    except PeerError as error:
        return type(error).__name__, str(error), time.monotonic() - started


@pytest.mark.parametrize(
    ("n", "name", "victim"),
    [
        (2, "all_reduce", 1),
        (3, "reduce_scatter", 0),
        (4, "all_reduce", 2),
        (4, "broadcast", 3),
        (3, "async", 1),
        (2, "recv", 0),
    ],
)
def test_a_killed_rank_is_named_on_every_other(pool: Pool, n: int, name: str, victim: int) -> None:
    outcomes = pool.outcomes(n, until_it_breaks, name, victim, "kill", timeout_s=NEVER_S)
    assert outcomes.pop(victim).error == "died"
    for outcome in outcomes:
        kind, text, _ = outcome.value
        assert kind == "PeerLostError"
        assert text.startswith(f"rank {victim} was lost: ") or text.startswith(f"the connection to rank {victim} broke")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
@pytest.mark.parametrize(("n", "victim"), [(2, 0), (3, 1)])
def test_a_frozen_rank_is_named_at_the_deadline(fresh: Pool, n: int, victim: int) -> None:
    with fresh.begun(n, until_it_breaks, "all_reduce", victim, "freeze", timeout_s=3.0, operation_s=NEVER_S):
        outcomes = [fresh.outcome(rank) for rank in range(n) if rank != victim]
        os.kill(fresh.pid(victim), signal.SIGCONT)
        assert fresh.outcome(victim).error == ""  # it wakes, finds the others gone, and ends as well
    for outcome in outcomes:
        kind, text, seconds = outcome.value
        assert kind == "DeadlineError", text
        assert text.startswith(f"rank {victim} ")
        assert seconds > 2.5


def think_long(fabric: Any) -> float:
    """Rank 1 computes for longer than `timeout_s` while its heartbeats go on."""
    if fabric.config.rank == 1:
        threading.Event().wait(4.0)
    numbers = torch.ones(10)
    dist.all_reduce(numbers)
    return float(numbers[0])


def test_a_slow_rank_that_lives_is_waited_for(fresh: Pool) -> None:
    outcomes = fresh.outcomes(3, think_long, timeout_s=1.0, join_s=90.0, operation_s=60.0)
    assert [(outcome.value, outcome.error) for outcome in outcomes] == [(3.0, "")] * 3


def late_for(fabric: Any, name: str) -> None:
    """Rank 2 comes to an operation that opens links of its own, later than `timeout_s`."""
    rank, n = fabric.config.rank, fabric.config.world_size
    if rank == 2:
        threading.Event().wait(4.0)
    x = torch.full((4,), float(rank))
    calls = {
        "gather": lambda: dist.gather(x, [torch.empty(4) for _ in range(n)] if rank == 0 else None),
        "half": lambda: dist.all_reduce(x.half()),
        "recv": lambda: dist.send(x, 0) if rank == 2 else dist.recv(x, 2) if rank == 0 else None,
        "group": lambda: dist.all_reduce(x, group=dist.new_group(list(range(n)))),
    }
    calls[name]()
    dist.barrier()


@pytest.mark.parametrize("name", ["gather", "half", "recv", "group"])
def test_a_slow_rank_may_take_an_operations_time_to_open_a_link(pool: Pool, name: str) -> None:
    pool.start(3)
    pool.run(3, late_for, name, timeout_s=1.0, operation_s=60.0)


def come_late(config: Any, who: int) -> Any:
    if config.rank == who:
        threading.Event().wait(4.0)
    return config


@pytest.mark.parametrize("who", [1, 2])
def test_whoever_joined_waits_for_a_rank_that_starts_late(pool: Pool, who: int) -> None:
    """Rank 0 has nothing to say until all are there: that is not the silence of the dead."""
    late = functools.partial(come_late, who=who)
    outcomes = pool.outcomes(3, is_here, prepare=late, timeout_s=1.0, join_s=60.0, operation_s=60.0)
    assert [(outcome.value, outcome.error) for outcome in outcomes] == [(True, "")] * 3


def is_here(fabric: Any) -> bool:
    dist.barrier()
    return True


def fall_ill(fabric: Any) -> list[str]:
    """A job that raises something unforeseen, between two good ones, all asynchronous."""
    group = dist.group.WORLD
    works = [dist.all_reduce(torch.ones(3), async_op=True)]
    works.append(group._lane.submit(lambda: [][0], []))
    works.append(dist.all_reduce(torch.ones(3), async_op=True))
    future = works[2].get_future()
    deadline = Deadline(20)
    while not future.done() and not deadline.expired:  # nobody waits for it: the lane's own thread has to do it
        threading.Event().wait(0.01)
    with pytest.raises(IndexError):
        works[1].wait()
    return [str(future.done()), str(works[0].wait())]


def test_an_error_nobody_foresaw_does_not_end_a_lane(pool: Pool) -> None:
    assert pool.run(2, fall_ill) == [["True", "True"]] * 2


def leave_early(fabric: Any) -> str:
    if fabric.config.rank == 1:
        raise ArithmeticError("the loss is not finite")
    try:
        while True:
            dist.all_reduce(torch.ones(10))
    except PeerError as error:
        return str(error)


def test_a_rank_that_gives_up_says_why_to_all(pool: Pool) -> None:
    outcomes = pool.outcomes(3, leave_early)
    assert outcomes.pop(1).error == "ArithmeticError"
    for outcome in outcomes:
        assert outcome.value.startswith("rank 1 gave up: ArithmeticError: the loss is not finite")


def differ(fabric: Any) -> str:
    dist.barrier()  # a rank that is slow to open the group would learn of it there
    with pytest.raises(PeerError) as caught:
        dist.all_reduce(torch.ones(8 + fabric.config.rank))
    return str(caught.value)


def test_ranks_with_different_tensors_are_told_so_everywhere(pool: Pool) -> None:
    texts = pool.run(3, differ)
    assert all(text.startswith("the ranks do not do the same: rank ") for text in texts)


def ddp_loses_a_peer(fabric: Any) -> tuple[str, str]:
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(400, 400))
    for step in range(1000):
        if fabric.config.rank == 1 and step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            model(torch.ones(4, 400)).sum().backward()
        except (RuntimeError, PeerError) as error:
            found = failure_of(error)
            return type(found).__name__, str(found)
    return "", "nothing failed"


def test_the_failure_is_found_in_what_ddp_raises(pool: Pool) -> None:
    outcomes = pool.outcomes(2, ddp_loses_a_peer)
    assert outcomes[1].error == "died"
    kind, text = outcomes[0].value
    assert kind == "PeerLostError", (outcomes[0], text)
    assert "rank 1" in text


def reduce_for_ever() -> None:
    while True:
        dist.all_reduce(torch.ones(10))


def gloo_loses_a_peer(fabric: Any) -> str:
    for step in range(100_000):
        if fabric.config.rank == 1 and step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            dist.all_reduce(torch.ones(1000))
        except RuntimeError as error:
            return str(fabric.failure(error))
    return "nothing failed"


def test_a_killed_rank_is_named_with_gloo_too(pool: Pool) -> None:
    outcomes = pool.outcomes(2, gloo_loses_a_peer, transport="gloo")
    assert outcomes[0].value.startswith("rank 1 was lost: ")


# The sockets of a warm worker before it joins: gloo's groups of earlier tests may have left theirs.
_BEFORE: list[int] = []


def count_before(config: Any) -> Any:
    _BEFORE[:] = [sockets()]
    return config


def leftovers(fabric: Any, how: str) -> tuple[list[str], int]:
    """Threads of ours, and sockets that were not open before, after a fabric has ended."""
    rank = fabric.config.rank
    opened = sockets() - _BEFORE[0]
    dist.all_reduce(torch.ones(100_000), async_op=True).wait()
    dist.new_group([0, 1])
    dist.barrier()
    if how == "abort" and rank == 1:
        fabric.abort("enough")
    elif how == "abort":
        with pytest.raises(PeerError):
            reduce_for_ever()
        fabric.close()
    else:
        fabric.close()
    assert opened > 2, "sockets are counted"
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("smol")]
    return left, sockets() - _BEFORE[0]


def sockets() -> int:
    import psutil

    return sum(1 for _ in psutil.Process().net_connections("tcp"))


@pytest.mark.parametrize("how", ["close", "abort"])
def test_nothing_is_left_behind(pool: Pool, how: str) -> None:
    for threads, open_sockets in pool.run(3, leftovers, how, prepare=count_before):
        assert threads == []
        assert open_sockets == 0


def test_an_alarm_keeps_no_frames() -> None:
    """A failed operation's frames hold its tensors; the alarm lives as long as the run."""
    alarm = Alarm()
    try:
        raise PeerLostError("rank 1 was lost")
    except PeerLostError as error:
        rung = alarm.ring(error)
    assert rung is alarm.error
    assert alarm.error is not None
    assert alarm.error.__traceback__ is None
    assert str(alarm.error) == "rank 1 was lost"
