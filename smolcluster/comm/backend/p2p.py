"""send and recv between two ranks: messages with a tag, on links of their own.

A lane per peer for what goes out, one inbox for what comes in. With one queue for both directions two ranks that each
send before they receive would wait for each other forever.
"""

from __future__ import annotations

import threading

from torch import Tensor

from smolcluster.comm.backend.arithmetic import CODES
from smolcluster.comm.backend.flat import Flat
from smolcluster.comm.backend.inbox import Guard, Inbox
from smolcluster.comm.backend.lane import Lane, Work
from smolcluster.comm.backend.message import pieces
from smolcluster.comm.backend.pairs import Pairs
from smolcluster.comm.backend.receive import Receive
from smolcluster.comm.backend.schedule import bytes_of
from smolcluster.comm.clock import Patience
from smolcluster.comm.frame import Kind, pack

# A socket that can be written has room for so much at least: a third of the smallest buffer that systems begin with.
_INLINE_BYTES = 4096


class PointToPoint:
    """The messages of one group. `guard` runs a job and turns its failure into the run's."""

    def __init__(self, pairs: Pairs, rank: int, size: int, name: str, timeout_s: float, guard: Guard) -> None:
        self.timeout_s = timeout_s
        self._pairs = pairs
        self._name = name
        self._guard = guard
        self._lock = threading.Lock()
        self._lanes: dict[int, Lane] = {}
        self._inbox = Inbox(pairs, rank, size, f"{name}-in", guard)

    def send(self, part: Flat, peer: int, tag: int, result: list[Tensor]) -> Work:
        """Send a flat tensor to group rank `peer`. The work is done when the kernel has it all. `result` is its own."""
        timeout_s = self.timeout_s

        def job() -> None:
            part.arrive()
            link = self._pairs.link(peer)
            patience = Patience(timeout_s)
            frames = pieces(bytes_of(part.numbers))
            for index, view in enumerate(frames):
                code = CODES.get(part.numbers.dtype, 0)
                head = pack(Kind.MESSAGE, len(view), code, seq=len(frames), part=index, tag=tag)
                link.out.send_all(head, view if len(view) else None, patience)

        lane = self._lane(peer)
        done: Work | None = None
        if part.numbers.nbytes <= _INLINE_BYTES:
            link = self._pairs.known(peer)
            if link is not None and link.out.has_room():  # then nothing is waited for, and a hand-off costs more
                done = lane.run_if_idle(lambda: self._guard(job), result)
        return done or lane.submit(lambda: self._guard(job), result)

    def receive(
        self, part: Flat, peer: int | None, tag: int, result: list[Tensor], timeout_s: float | None = None
    ) -> Work:
        """Fill a flat tensor with the next message of that tag from `peer`, from whoever sends one if that is None.

        Without `timeout_s` the group's says for how long a peer may send nothing.
        """
        receive = Receive(self._inbox, part, peer, tag, timeout_s or self.timeout_s, result)
        self._inbox.post(receive)
        return receive

    def _lane(self, peer: int) -> Lane:
        with self._lock:
            if peer not in self._lanes:
                self._lanes[peer] = Lane(f"{self._name}-to-{peer}")
            return self._lanes[peer]

    def drain(self) -> None:
        """Wait until everything is sent that was given to send."""
        for lane in tuple(self._lanes.values()):
            lane.drain()

    def close(self) -> None:
        """End the lanes; a receive that still waits fails. Abort the links first."""
        for lane in tuple(self._lanes.values()):
            lane.close()
        self._inbox.close()
