"""Links from this rank to any other of its group, opened when first needed. Both ends have to need it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from smolcluster.comm.link import Link
from smolcluster.comm.mesh import Mesh


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
                known = self._mesh.link(self._members[rank], self._channel, await_s=self.timeout_s)
                with self._lock:
                    self._links[rank] = known
            return known

    def abort(self) -> None:
        """End them all: whoever waits on one wakes."""
        with self._lock:
            links = tuple(self._links.values())
        for link in links:
            link.abort()

    def take_all(self) -> list[Link]:
        """All links, to be closed by the caller; none is kept."""
        with self._lock:
            links = list(self._links.values())
            self._links.clear()
        return links
