"""How long the ways to the other ranks and back take, while a group computes.

Its collectives read their wires only while they run, so a heartbeat there would wait for the step. Each pair of ranks
that has a link gets one more, which carries nothing but heartbeats that are sent back (link.py), and on both ends a
thread that sleeps until one comes. They are none of the run's bytes, and losing such a link means nothing: the run's
own links tell who is gone.
"""

from __future__ import annotations

import contextlib
import threading
import time

from smolcluster.comm.clock import Deadline
from smolcluster.comm.link import Link
from smolcluster.comm.mesh import Mesh
from smolcluster.comm.pulse import Pulse, heartbeat_s
from smolcluster.errors import PeerError

CHANNEL = "sounding"
_DIAL_S = 1.0
# A rank that hung up, or could not be reached, is most likely leaving: it is dialled again after so long.
_AGAIN_S = 5.0


class Soundings:
    """Of one mesh. They begin with the first link to a peer; `close` hangs up and joins all threads."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._lock = threading.Lock()
        self._links: dict[int, Link] = {}
        self._threads: list[threading.Thread] = []
        self._not_before: dict[int, float] = {}  # by peer, by the monotonic clock
        self._every_s = heartbeat_s(mesh.timeout_s)
        self._pulse = Pulse(self._beat, self._every_s)

    def close(self) -> None:
        """No more of it. Idempotent."""
        self._pulse.close()
        with self._lock:
            links = tuple(self._links.values())
        for link in links:
            link.abort()
        for thread in self._threads:
            thread.join()

    def _beat(self) -> None:
        peers = {link.peer for link in self._mesh.links() if link.counts}
        with self._lock:
            known = set(self._links)
        for peer in sorted(peers - known):
            self._open(peer)
        with self._lock:
            links = tuple(self._links.values())
        for link in links:
            with contextlib.suppress(PeerError):  # its thread sees the end
                link.pulse(self._every_s)

    def _open(self, peer: int) -> None:
        """The higher rank dials; the lower one takes it when it has come."""
        dials = peer < self._mesh.me.rank
        due = time.monotonic() >= self._not_before.get(peer, 0.0)
        if not (due if dials else self._mesh.has_come(peer, CHANNEL)):
            return
        try:
            link = self._mesh.link(peer, CHANNEL, deadline=Deadline(_DIAL_S if dials else 0.0), counts=False)
        except PeerError:
            self._not_before[peer] = time.monotonic() + _AGAIN_S
            return
        with self._lock:
            self._links[peer] = link
        thread = threading.Thread(target=self._listen, args=(link,), name=f"smol-sounding-{peer}", daemon=True)
        self._threads = [old for old in self._threads if old.is_alive()] + [thread]
        thread.start()

    def _listen(self, link: Link) -> None:
        with contextlib.suppress(PeerError):
            link.receive(self._mesh.timeout_s)  # only heartbeats are due, and those it takes itself
        self._mesh.drop(link)
        self._not_before[link.peer] = time.monotonic() + _AGAIN_S
        with self._lock:
            self._links.pop(link.peer, None)
