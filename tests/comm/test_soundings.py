"""What is known of links: the way there and back, by pings of the ranks; bytes by peer; what lies in buffers."""

from __future__ import annotations

import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smolcluster.comm import kernel
from smolcluster.comm.faults import Faults
from smolcluster.comm.frame import HEADER_BYTES, Kind
from smolcluster.comm.link import Link
from smolcluster.comm.mesh import Mesh, WireCounters
from smolcluster.comm.stats import LinkMeter, LinkStats
from smolcluster.errors import PeerError
from smolcluster.spec.faults import FaultSpec
from tests.comm.pool import Pool
from tests.comm.wires import ME, link_pair

BYTES_RECEIVED_AT = 128
WAIT_S = 60.0


@contextmanager
def heard(*links: Link) -> Iterator[None]:
    """Somebody receives on each link while inside."""

    def listen(link: Link) -> None:
        with suppress(PeerError):
            link.receive(WAIT_S)

    threads = [threading.Thread(target=listen, args=(link,)) for link in links]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for link in links:
            link.abort()
        for thread in threads:
            thread.join(WAIT_S)
        for link in links:
            link.discard()


def trip_ms(link: Link) -> float:
    """Pulse until one came back."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        link.pulse(0.0)
        found = link.take_trip_ms()
        if found is not None:
            return found
        threading.Event().wait(0.05)
    raise AssertionError("no heartbeat came back")


def test_a_heartbeat_that_sounds_comes_back() -> None:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        mine.sounds = True  # the other one answers all the same
        with heard(mine, theirs):
            assert 0 < trip_ms(mine) < WAIT_S * 1000
            assert theirs.take_trip_ms() is None
        assert mine.bytes_out >= HEADER_BYTES


def test_a_delayed_way_is_as_long_as_its_delay() -> None:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        mine.sounds = theirs.sounds = True
        faults = Faults([FaultSpec(kind="delay", step=1, rank=1, ms=20.0)], rank=0, seed=7)
        faults.attach(mine)
        faults.enter(0)
        faults.begin_step(1)
        with heard(mine, theirs):
            assert trip_ms(mine) >= 20.0
            assert trip_ms(theirs) >= 20.0


def test_a_link_that_does_not_sound_asks_for_no_answer() -> None:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        mine.pulse(0.0)
        theirs.send(Kind.MESSAGE, b"x")
        with heard(theirs):
            assert bytes(mine.receive(WAIT_S).payload) == b"x"
            assert mine.take_trip_ms() is None
            assert theirs.bytes_out == HEADER_BYTES + 1  # nothing but the message


def came(link: Link) -> int:
    """What the kernel says has come over the link's socket."""
    info = link.inward.sock.getsockopt(6, 11, 192)
    return int(struct.unpack_from("Q", info, BYTES_RECEIVED_AT)[0])


def meter_of(*links: Link) -> tuple[Mesh, LinkMeter]:
    mesh = Mesh(ME, None, {}, {}, {}, None, 1 << 20, 5.0)
    mesh._links.extend(links)
    return mesh, LinkMeter(mesh)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux' sockets count bytes")
def test_bytes_are_those_of_the_sockets_and_of_the_time_since_the_last_look() -> None:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        mesh, meter = meter_of(mine)
        for size in (5, 70_000):
            before_out, before_in = came(theirs), came(mine)
            mine.send(Kind.MESSAGE, b"x" * size)
            theirs.receive(WAIT_S)
            theirs.send(Kind.MESSAGE, b"answer")
            mine.receive(WAIT_S)
            (seen,) = meter.look()
            assert (seen.peer, seen.address) == (1, "127.0.0.1")
            assert seen.bytes_out == came(theirs) - before_out == HEADER_BYTES + size
            assert seen.bytes_in == came(mine) - before_in == HEADER_BYTES + 6
            assert seen.mbps == pytest.approx(8e-6 * (seen.bytes_out + seen.bytes_in) / seen.seconds)
            assert seen.rtt_by == "kernel"
            assert seen.rtt_ms is not None
            assert seen.rtt_ms > 0
        mine.send(Kind.MESSAGE, b"the last word")
        mesh.drop(mine)
        (seen,) = meter.look()  # of a link that is closed by now
        assert (seen.bytes_out, seen.bytes_in, seen.rtt_ms, seen.buffered) == (HEADER_BYTES + 13, 0, None, None)
        assert meter.look() == ()


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="Windows tells nothing of its buffers")
def test_what_nobody_has_read_lies_in_the_buffers() -> None:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        mine.send(Kind.MESSAGE, b"x" * 1000)
        deadline = time.monotonic() + WAIT_S
        while kernel.unread(theirs.inward.sock) != HEADER_BYTES + 1000 and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        _, meter = meter_of(theirs)
        (seen,) = meter.look()
        assert (seen.unread, seen.buffered) == (HEADER_BYTES + 1000, 0)


def measured(fabric: Any) -> tuple[list[tuple[LinkStats, ...]], WireCounters, WireCounters]:
    """Reduce, and look at the links until each was sounded; all looks, and the counters before and after the last."""
    looks: list[tuple[LinkStats, ...]] = []
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        dist.all_reduce(torch.ones(1000))
        before = fabric.counters()
        looks.append(fabric.links())
        sounded = {link.peer for look in looks for link in look if link.rtt_by == "ping"}
        dist.barrier()
        done = torch.tensor([float(len(sounded) == fabric.config.world_size - 1)])
        dist.all_reduce(done, op=dist.ReduceOp.MIN)
        if done.item():
            break
        threading.Event().wait(0.2)
    return looks, before, fabric.counters()


def test_every_rank_sounds_the_way_to_every_other(pool: Pool) -> None:
    for rank, (looks, before, after) in enumerate(pool.run(3, measured, sounds=True)):
        trips = {link.peer: link.rtt_ms for look in looks for link in look if link.rtt_by == "ping"}
        assert sorted(trips) == [peer for peer in range(3) if peer != rank]
        assert all(trip is not None and trip > 0 for trip in trips.values())
        # What the looks tell is all that the run moved, and soundings are none of it.
        assert before.bytes_out <= sum(link.bytes_out for look in looks for link in look) <= after.bytes_out
        assert before.bytes_in <= sum(link.bytes_in for look in looks for link in look) <= after.bytes_in


def channels(fabric: Any) -> set[str]:
    dist.all_reduce(torch.ones(1000))
    threading.Event().wait(2.5)  # soundings would have begun
    return {link.channel for link in fabric._mesh.links()}


def test_where_nobody_asks_for_it_nothing_is_sounded(pool: Pool) -> None:
    for found in pool.run(2, channels):
        assert "sounding" not in found
        assert "control" in found
