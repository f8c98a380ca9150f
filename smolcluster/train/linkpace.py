"""How fast the links of a run are while its ranks compute, and while they do not: over its own links, all of them at
once as in a ring.

In round k of N-1 each rank sends to the k-th after it and receives from the k-th before it, so that after the last
round every link was used both ways, and in each round every wire as a ring all-reduce would. The receiver measures: a
sender only knows when its kernel took the bytes.

A thread of its own does this beside the one that computes, and once more when that has stopped: a machine that
computes has less time for its links, and a step that waits for the wire does not compute. It talks through
torch.distributed's ordinary API, so messages are authenticated and led as the run's are, faults on purpose included.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import quantiles

import torch
import torch.distributed as dist

from smolcluster.errors import ProtocolError
from smolcluster.runtime.pacenote import LinkPace

# A round's bytes flow so long, in messages that grow until one takes a while: a slow wire gets few, a fast one large.
SPELL_S = 1.0
FIRST_BYTES, MOST_BYTES = 64 << 10, 4 << 20
QUICK_S = 0.02
PINGS = 15
# A rank that computes may be this late for a round.
ROUND_S = 600.0
_PING, _ECHO, _BULK = 1, 2, 3


class LinkMeter:
    """Measures all links of this rank. `quiet` is set when nobody has to compute any longer, `over` when everybody has
    measured everything; both when it failed.
    """

    def __init__(self, rank: int, world_size: int, computed: threading.Event, still: threading.Event) -> None:
        """`computed` is set when this rank's own measurement is done, or has failed; `still` when it has ended."""
        self._rank = rank
        self._count = world_size
        self._computed = computed
        self._buffer = torch.zeros(MOST_BYTES, dtype=torch.uint8)
        self._still = still
        self._busy: dict[int, tuple[float, float]] = {}
        self._idle: dict[int, tuple[float, float]] = {}
        self._failure: BaseException | None = None
        self.quiet = threading.Event()
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="link-meter", daemon=True)
        self._thread.start()

    def result(self) -> tuple[LinkPace, ...]:
        """What was measured, by peer. Call it when `over` is set; what the thread failed with is raised here."""
        self._thread.join(ROUND_S)
        if self._failure is not None:
            raise self._failure
        return tuple(
            LinkPace(
                peer=peer,
                mbps=mbps,
                rtt_ms=rtt_ms,
                idle_mbps=self._idle[peer][0],
                idle_rtt_ms=self._idle[peer][1],
            )
            for peer, (mbps, rtt_ms) in sorted(self._busy.items())
        )

    def _work(self) -> None:
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="link-meter-in") as receiving:
                self._busy = self._lap(receiving)
                while not self._computed.wait(ROUND_S):
                    pass  # however slow it is
                dist.barrier()  # so that the machines of all compute until the slowest has been measured
                self.quiet.set()
                while not self._still.wait(ROUND_S):
                    pass
                self._idle = self._lap(receiving)
            dist.barrier()  # nobody goes on to something else before all are through
        except BaseException as error:  # noqa: BLE001  the thread that computes raises it
            self._failure = error
        finally:
            self.quiet.set()
            self.over.set()

    def _lap(self, receiving: ThreadPoolExecutor) -> dict[int, tuple[float, float]]:
        """All links once: Mbit/s from each peer, and the round trip to it in milliseconds."""
        mbps, rtt_ms = {}, {}
        for distance in range(1, self._count):
            dist.barrier()
            after, before = (self._rank + distance) % self._count, (self._rank - distance) % self._count
            received = receiving.submit(self._receive, before)
            rtt_ms[after] = self._send(after)
            mbps[before] = received.result(ROUND_S)
        return {peer: (mbps[peer], rtt_ms[peer]) for peer in mbps}

    def _send(self, peer: int) -> float:
        """Ping the peer, then send it what goes in a spell. The lower quartile of the round trips, in milliseconds: a
        ping that waited for a core that computes tells of the core.
        """
        note = torch.zeros(1, dtype=torch.int64)
        trips = []
        for _ in range(PINGS):
            began = time.perf_counter()
            dist.send(note, peer, tag=_PING)
            dist.recv(note, peer, tag=_ECHO)
            trips.append(time.perf_counter() - began)
        size = FIRST_BYTES
        end = time.perf_counter() + SPELL_S
        while (began := time.perf_counter()) < end:
            dist.send(torch.tensor([size]), peer, tag=_BULK)
            dist.send(self._buffer[:size], peer, tag=_BULK)
            if time.perf_counter() - began < QUICK_S:
                size = min(2 * size, MOST_BYTES)
        dist.send(torch.tensor([0]), peer, tag=_BULK)
        return quantiles(trips, n=4)[0] * 1000

    def _receive(self, peer: int) -> float:
        """Answer the peer's pings and take what it sends. Mbit/s of all but the first message, which finds the way."""
        note, buffer = torch.zeros(1, dtype=torch.int64), torch.empty(MOST_BYTES, dtype=torch.uint8)
        for _ in range(PINGS):
            dist.recv(note, peer, tag=_PING)
            dist.send(note, peer, tag=_ECHO)
        began = first = last = time.perf_counter()
        moved = first_bytes = 0
        while True:
            dist.recv(note, peer, tag=_BULK)
            size = int(note.item())
            if not 0 <= size <= MOST_BYTES:
                raise ProtocolError(f"rank {peer} announced a message of {size} bytes to measure its link with")
            if size == 0:
                break
            if not first_bytes:
                began = time.perf_counter()
            dist.recv(buffer[:size], peer, tag=_BULK)
            last = time.perf_counter()
            if not first_bytes:
                first, first_bytes = last, size
            else:
                moved += size
        if not moved:  # the wire is so slow that one message took the whole spell
            moved, first = first_bytes, began
        return max(moved * 8e-6 / max(last - first, 1e-6), 1e-3)
