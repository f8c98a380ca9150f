"""Links from this rank to any other of its group, opened when first needed. Both ends have to need it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from smolcluster.comm.link import Link
from smolcluster.comm.mesh import Mesh
from smolcluster.errors import PeerLostError


class Pairs:
    """`members` are the global ranks in group order; `rank` counts in the group. Thread-safe.

    `timeout_s` is an operation's: a peer that lives may take that long until it wants the link too.
    """

    def __init__(self, mesh: Mesh, channel: str, members: Sequence[int], timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._mesh = mesh
        self._channel = channel
        self._members = tuple(members)
        self._lock = threading.Lock()
        self._opening: dict[int, threading.Lock] = {}
        self._links: dict[int, Link] = {}
        self._wake: Callable[[], None] | None = None
        self._aborted = False

    def link(self, rank: int) -> Link:
        """The link to group rank `rank`. Waits for the peer to want it too; errors as Mesh.link."""
        with self._lock:
            known = self._links.get(rank)
            opening = self._opening.setdefault(rank, threading.Lock())
        if known is not None:
            return known
        with opening:  # a sender and a receiver may want the same link at once
            with self._lock:
                known = self._links.get(rank)
            if known is None:
                known = self._open(rank)
            return known

    def known(self, rank: int) -> Link | None:
        """The link to group rank `rank` if it is open."""
        with self._lock:
            return self._links.get(rank)

    def ready(self, rank: int) -> Link | None:
        """The link to group rank `rank` if that needs no waiting for the peer; None: it has to come first."""
        with self._lock:
            known = self._links.get(rank)
            opening = self._opening.setdefault(rank, threading.Lock())
        if known is not None or not opening.acquire(blocking=False):  # who is opening it will `_wake` us
            return known
        try:
            with self._lock:
                known = self._links.get(rank)
            if known is None and self._can_open(rank):
                known = self._open(rank)
            return known
        finally:
            opening.release()

    def member(self, rank: int) -> int:
        """The global rank of a group rank."""
        return self._members[rank]

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever `ready` may have a new answer, until `take_all`."""
        self._wake = wake
        self._mesh.watch(self._channel, wake)

    def _can_open(self, rank: int) -> bool:
        if self._aborted:
            return True  # to be told so
        # Higher ranks come to us; a lower one's listener welcomes us at any time.
        peer = self._members[rank]
        return peer < self._mesh.me.rank or self._mesh.has_come(peer, self._channel)

    def _open(self, rank: int) -> Link:
        if self._aborted:
            raise PeerLostError("the group was aborted")
        peer = self._members[rank]
        made = self._mesh.link(peer, self._channel, deadline=self._mesh.patience(peer, self.timeout_s))
        with self._lock:
            self._links[rank] = made
        if self._wake is not None:
            self._wake()
        return made

    def abort(self) -> None:
        """End them all: whoever waits on one wakes, and nobody gets another."""
        with self._lock:
            self._aborted = True
            links = tuple(self._links.values())
        if self._wake is not None:
            self._wake()
        for link in links:
            link.abort()

    def take_all(self) -> list[Link]:
        """All links, to be closed by the caller; none is kept."""
        if self._wake is not None:
            self._mesh.unwatch(self._channel)
            self._wake = None
        with self._lock:
            links = list(self._links.values())
            self._links.clear()
        return links
