"""Faults on purpose: what is done to a link or a process and when, and that nothing is done without being asked."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smolcluster.comm.faults import Faults, freeze
from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link
from smolcluster.errors import PeerLostError
from smolcluster.spec.faults import FaultSpec
from tests.comm.pool import Pool
from tests.comm.wires import link_pair

LAST = 4


def fault(kind: Any, step: int = 2, **fields: Any) -> FaultSpec:
    return FaultSpec(kind=kind, step=step, **fields)


@pytest.fixture
def pair() -> Iterator[tuple[Link, Link]]:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        yield mine, theirs
        for link in (mine, theirs):
            link.abort()
            link.discard()


def broken(link: Link, *specs: FaultSpec, generation: int = 0) -> Faults:
    """Rank 0's faults, over its link to rank 1."""
    faults = Faults(specs, rank=0, seed=7)
    faults.attach(link)
    faults.enter(generation)
    return faults


def received(link: Link) -> bytes:
    return bytes(link.receive(30.0).payload)


def test_all_bytes_come_in_order_through_jitter(pair: tuple[Link, Link]) -> None:
    mine, theirs = pair
    faults = broken(mine, fault("delay", 1, rank=1, ms=1.0, jitter_ms=5.0))
    faults.begin_step(1)
    chance = random.Random(1)
    frames = [chance.randbytes(chance.randrange(100_000)) for _ in range(20)]
    sender = threading.Thread(target=lambda: [mine.send(Kind.MESSAGE, frame) for frame in frames])
    sender.start()
    assert [received(theirs) for _ in frames] == frames
    sender.join(30)
    assert mine.bytes_out == theirs.bytes_in  # the same bytes are counted as without
    theirs.send(Kind.MESSAGE, b"back")
    assert received(mine) == b"back"


def test_the_same_seed_gives_the_same_delays() -> None:
    draws = []
    for seed in (7, 7, 8):
        with ExitStack() as stack:
            mine, theirs = link_pair(stack)
            faults = Faults([fault("delay", 1, rank=1, ms=1.0, jitter_ms=1.0)], rank=0, seed=seed)
            faults.attach(mine)
            draws.append([faults._relays[0]._chance.random() for _ in range(5)])
            for link in (mine, theirs):
                link.abort()
                link.discard()
    assert draws[0] == draws[1] != draws[2]


def seconds_for(mine: Link, theirs: Link, size: int) -> float:
    began = time.monotonic()
    sender = threading.Thread(target=mine.send, args=(Kind.MESSAGE, bytes(size)))
    sender.start()
    assert len(received(theirs)) == size
    sender.join(30)
    return time.monotonic() - began


def test_a_delay_begins_and_ends_with_its_steps(pair: tuple[Link, Link]) -> None:
    faults = broken(pair[0], fault("delay", 2, rank=1, peer=0, until=3, ms=300.0))
    faults.begin_step(1)
    before = seconds_for(*pair, 10)
    faults.begin_step(2)
    assert seconds_for(*pair, 10) >= 0.3
    faults.begin_step(3)
    after = seconds_for(*pair, 10)
    assert min(before, after) < 0.3


def test_a_delay_is_of_every_byte_and_not_of_every_chunk(pair: tuple[Link, Link]) -> None:
    """200 chunks of 50 ms one after the other would be 10 s."""
    faults = broken(pair[0], fault("delay", 1, rank=0, ms=50.0))
    faults.begin_step(1)
    assert 0.05 <= seconds_for(*pair, 200 * 32 * 1024) < 10


def test_a_throttle_lets_so_much_through(pair: tuple[Link, Link]) -> None:
    faults = broken(pair[0], fault("throttle", 1, rank=0, mbps=8.0))
    faults.begin_step(1)
    assert seconds_for(*pair, 400_000) >= 0.3  # of a megabyte a second; the last chunk is not waited for


def send_for_ever(link: Link) -> None:
    while True:
        link.send(Kind.MESSAGE, bytes(100_000))


def test_a_drop_is_seen_by_both_ends_and_not_before_its_step(pair: tuple[Link, Link]) -> None:
    mine, theirs = pair
    faults = broken(mine, fault("drop", 2, rank=1))
    faults.begin_step(1)
    assert seconds_for(mine, theirs, 10) >= 0
    faults.begin_step(2)
    with pytest.raises(PeerLostError):
        theirs.receive(30.0)
    with pytest.raises(PeerLostError):
        mine.receive(30.0)
    with pytest.raises(PeerLostError):
        send_for_ever(mine)


def test_a_partition_holds_everything_and_loses_nothing(pair: tuple[Link, Link]) -> None:
    mine, theirs = pair
    faults = broken(mine, fault("partition", 1, ranks=[1, 2], seconds=0.4))
    faults.begin_step(1)
    began = time.monotonic()
    frames = [bytes([number]) * 1000 for number in range(20)]
    for frame in frames:
        mine.send(Kind.MESSAGE, frame)
    assert [received(theirs) for _ in frames] == frames
    assert time.monotonic() - began >= 0.4


def test_another_generation_is_left_alone(pair: tuple[Link, Link]) -> None:
    faults = broken(pair[0], fault("drop", 1, rank=0), fault("drop", 1, rank=0, generation=2), generation=1)
    faults.begin_step(1)
    assert seconds_for(*pair, 10) >= 0


def test_a_link_says_goodbye_through_a_relay(pair: tuple[Link, Link]) -> None:
    mine, theirs = pair
    broken(mine, fault("delay", 1, rank=0, ms=50.0)).begin_step(1)
    mine.send(Kind.MESSAGE, b"last words")
    closing = threading.Thread(target=mine.close, args=(20.0,))
    closing.start()
    assert received(theirs) == b"last words"
    assert theirs.close(20.0)
    closing.join(30)
    assert mine.closed
    for thread in [each for each in threading.enumerate() if each.name.startswith("fault-")]:
        thread.join(30)
        assert not thread.is_alive()


def test_a_link_that_no_fault_is_of_is_the_socket_itself(pair: tuple[Link, Link]) -> None:
    mine, _ = pair
    before, threads = mine.out, threading.active_count()
    Faults([fault("crash", rank=1), fault("drop", rank=2), fault("partition", ranks=[0, 1], seconds=1.0)], 0, 0).attach(
        mine
    )
    assert mine.out is before
    assert threading.active_count() == threads


def test_a_freeze_stops_every_thread() -> None:
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.005):
            ticks.append(time.monotonic())

    ticking = threading.Thread(target=tick)
    ticking.start()
    try:
        while not ticks:
            done.wait(0.005)
        began = time.monotonic()
        freeze(0.5)
        ended = time.monotonic()
    finally:
        done.set()
        ticking.join(30)
    assert ended - began >= 0.5
    assert not [at for at in ticks if began + 0.1 < at < began + 0.5]


def waited(faults: Faults, compute_s: float) -> float:
    began = time.monotonic()
    said = faults.slowed(compute_s, lambda: False)
    assert said <= time.monotonic() - began
    return said


def test_a_slow_rank_takes_so_many_times_as_long_in_its_steps() -> None:
    faults = Faults([fault("slow", 2, rank=0, factor=3.0, until=4), fault("slow", 3, rank=0, factor=2.0)], 0, 7)
    other = Faults([fault("slow", 1, rank=0, factor=3.0)], 1, 7)
    for each in (faults, other):
        each.enter(0)
        each.begin_step(1)
    assert waited(faults, 60.0) == waited(other, 60.0) == 0
    faults.begin_step(2)
    assert waited(faults, 0.05) >= 0.1
    faults.begin_step(3)
    assert waited(faults, 0.05) >= 0.25, "together they are six times"
    faults.begin_step(4)
    assert 0.05 <= waited(faults, 0.05) < 60


def test_a_slow_rank_of_another_generation_is_left_alone() -> None:
    faults = Faults([fault("slow", 1, rank=0, factor=100.0)], 0, 7)
    faults.enter(1)
    faults.begin_step(1)
    assert waited(faults, 60.0) == 0


def test_who_waits_to_be_slow_hears_of_a_stop_and_of_the_end() -> None:
    faults = Faults([fault("slow", 1, rank=0, factor=1000.0)], 0, 7)
    faults.enter(0)
    faults.begin_step(1)
    asked = threading.Event()
    timers = [threading.Timer(0.1, asked.set), threading.Timer(0.5, faults.end)]
    for timer in timers:
        timer.start()
    assert faults.slowed(60.0, asked.is_set) < 600
    assert faults.slowed(60.0, lambda: False) < 600
    for timer in timers:
        timer.join()


# In a group


def steps(fabric: Any) -> tuple[list[float], set[int]]:
    """Sums at every step, and the families of the sockets under this rank's links."""
    sums = []
    for step in range(1, LAST + 1):
        fabric.begin_step(step)
        values = torch.full((50_000,), float(step + fabric.config.rank))
        dist.all_reduce(values)
        assert (values == values[0]).all()
        sums.append(float(values[0]))
    return sums, {int(link.out.sock.family) for link in fabric._mesh.links()}


RIGHT = [float(3 * step + 3) for step in range(1, LAST + 1)]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    made.close()


def with_faults(config: Any) -> Any:
    """Called in the rank's own process: relays and their locks do not travel."""
    return replace(config, faults=Faults(SPECS[config.run_id], config.rank, 3))


SPECS: dict[str, list[FaultSpec]] = {
    "slow": [
        fault("delay", 1, rank=1, ms=3.0, jitter_ms=3.0),
        fault("throttle", 2, rank=1, peer=2, until=4, mbps=400.0),
        fault("partition", 3, ranks=[0], seconds=0.3),
        fault("freeze", 2, rank=2, seconds=0.3),
    ],
    "crash": [fault("crash", 3, rank=1)],
    "drop": [fault("drop", 3, rank=1, peer=2)],
    "freeze": [fault("freeze", 3, rank=1, seconds=6.0)],
}


def test_without_being_asked_nothing_is_between_a_link_and_its_socket(pool: Pool) -> None:
    for sums, families in pool.run(3, steps):
        assert sums == RIGHT
        assert families <= {int(socket.AF_INET)}


def test_a_bad_network_changes_no_sum(pool: Pool) -> None:
    outcomes = pool.run(3, steps, prepare=with_faults, run_id="slow")
    for sums, families in outcomes:
        assert sums == RIGHT
        assert families - {int(socket.AF_INET)}, "no link went through a relay"


@pytest.mark.parametrize("kind", ["crash", "drop", "freeze"])
def test_a_rank_that_is_lost_at_a_step_is_named(kind: str) -> None:
    made = Pool()
    try:
        outcomes = made.outcomes(3, steps, prepare=with_faults, run_id=kind, timeout_s=2.0, join_s=90.0)
    finally:
        made.close()
    errors = [outcome.error for outcome in outcomes]
    assert errors[1] == ("died" if kind == "crash" else errors[1]) != ""
    for rank in (0, 2):
        assert errors[rank] in ("PeerLostError", "DeadlineError"), outcomes[rank]
    if kind != "drop":
        assert "rank 1" in outcomes[0].value
        assert "rank 1" in outcomes[2].value


# What a config may say


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"kind": "freeze", "step": 1, "rank": 0}, "a freeze needs seconds"),
        ({"kind": "crash", "step": 1, "rank": 0, "seconds": 1.0}, "a crash has no seconds"),
        ({"kind": "delay", "step": 5, "rank": 0, "ms": 1.0, "until": 5}, "until 5 is not after step 5"),
        ({"kind": "drop", "step": 5, "rank": 2, "peer": 2}, "rank 2 has no link to itself"),
        ({"kind": "crash", "step": 0, "rank": 0}, "greater than or equal to 1"),
    ],
)
def test_a_fault_that_makes_no_sense(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        FaultSpec(**fields)


def test_which_links_a_fault_is_of() -> None:
    def links(spec: FaultSpec) -> set[tuple[int, int]]:
        return {(a, b) for a in range(3) for b in range(3) if a < b and spec.touches(a, b)}

    for spec in SPECS["slow"]:
        assert all(spec.touches(a, b) == spec.touches(b, a) for a in range(3) for b in range(3))
    assert links(fault("drop", rank=1)) == {(0, 1), (1, 2)}
    assert links(fault("drop", rank=2, peer=1)) == {(1, 2)}
    assert links(fault("partition", ranks=[0, 1], seconds=1.0)) == {(0, 2), (1, 2)}
    assert links(fault("crash", rank=1)) == set()
