"""send and recv between two ranks: messages with a tag, on links of their own.

One lane per peer and direction. With one queue for both directions two ranks that each send before they receive wait
for each other forever.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from torch import Tensor

from smolcluster.comm.backend.arithmetic import CODES, dtype_name
from smolcluster.comm.backend.lane import Lane, Work
from smolcluster.comm.backend.pairs import Pairs
from smolcluster.comm.backend.schedule import bytes_of
from smolcluster.comm.clock import Patience
from smolcluster.comm.frame import HEADER_BYTES, MAX_PAYLOAD, Header, Kind, pack, unpack
from smolcluster.comm.link import Link
from smolcluster.errors import ProtocolError

Guard = Callable[[Callable[[], None]], None]


class PointToPoint:
    """The messages of one group. `guard` runs a job and turns its failure into the run's."""

    def __init__(self, pairs: Pairs, name: str, timeout_s: float, guard: Guard) -> None:
        self.timeout_s = timeout_s
        self._pairs = pairs
        self._name = name
        self._guard = guard
        self._lock = threading.Lock()
        self._lanes: dict[tuple[str, int], Lane] = {}
        # Messages that came before anybody asked for their tag: only the lane of that peer touches its entry.
        self._early: dict[int, dict[int, deque[tuple[Header, bytearray]]]] = {}

    def send(self, flat: Tensor, peer: int, tag: int) -> Work:
        """Send a flat tensor to group rank `peer`. The work is done when the kernel has it all."""
        memory = bytes_of(flat)

        def job() -> None:
            link = self._pairs.link(peer)
            patience = Patience(self.timeout_s)
            for part, view in enumerate(_pieces(memory)):
                head = pack(Kind.MESSAGE, len(view), CODES.get(flat.dtype, 0), part=part, tag=tag)
                link.out.send_all(head, view if len(view) else None, patience)

        return self._lane("to", peer).submit(lambda: self._guard(job), [flat])

    def receive(self, flat: Tensor, peer: int, tag: int, done: Callable[[], None]) -> Work:
        """Fill a flat tensor with the next message of that tag from `peer`; `done` runs when it is there."""
        memory = bytes_of(flat)

        def job() -> None:
            link = self._pairs.link(peer)
            for part, view in enumerate(_pieces(memory)):
                self._one(link, peer, tag, part, view, CODES.get(flat.dtype, 0))
            done()

        return self._lane("from", peer).submit(lambda: self._guard(job), [flat])

    def _one(self, link: Link, peer: int, tag: int, part: int, view: memoryview, dtype: int) -> None:
        early = self._early.setdefault(peer, {})
        if early.get(tag):
            header, payload = early[tag].popleft()
            _check(header, link.who, tag, part, len(view), dtype)
            if payload:
                view[:] = payload
            return
        patience = Patience(self.timeout_s)
        head = bytearray(HEADER_BYTES)
        while True:
            link.inward.recv_all(memoryview(head), patience)
            header = unpack(head, MAX_PAYLOAD, link.who)
            if header.kind is not Kind.MESSAGE:
                raise ProtocolError(f"{link.who} sent {header.kind.name} where a message with tag {tag} was due")
            if header.tag == tag:
                _check(header, link.who, tag, part, len(view), dtype)
                link.inward.recv_all(view, patience)
                return
            kept = header.length + sum(len(payload) for waiting in early.values() for _, payload in waiting)
            if kept > MAX_PAYLOAD:
                raise ProtocolError(f"{link.who} sent {kept} bytes under other tags while tag {tag} was waited for")
            payload = link.inward.recv_growing(header.length, patience)
            early.setdefault(header.tag, deque()).append((header, payload))

    def _lane(self, direction: str, peer: int) -> Lane:
        with self._lock:
            key = (direction, peer)
            if key not in self._lanes:
                self._lanes[key] = Lane(f"{self._name}-{direction}-{peer}")
            return self._lanes[key]

    def drain(self) -> None:
        """Wait until everything is sent that was given to send."""
        for (direction, _), lane in tuple(self._lanes.items()):
            if direction == "to":
                lane.drain()

    def close(self) -> None:
        """End the lanes; a receive that still waits fails. Abort the links first."""
        for lane in tuple(self._lanes.values()):
            lane.close()


def _pieces(memory: memoryview) -> list[memoryview]:
    return [memory[at : at + MAX_PAYLOAD] for at in range(0, max(1, len(memory)), MAX_PAYLOAD)]


def _check(header: Header, who: str, tag: int, part: int, size: int, dtype: int) -> None:
    if (header.part, header.length, header.dtype) != (part, size, dtype):
        raise ProtocolError(
            f"{who} sent {header.length} bytes of {dtype_name(header.dtype)} with tag {tag}, "
            f"this rank expected {size} bytes of {dtype_name(dtype)}"
        )
