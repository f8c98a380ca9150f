"""The head's way into the chain: it never waits for a stage that takes nothing.

The head's thread keeps deadlines, so it must not hang in a send. What the kernel takes at once, which is all of it
nearly always, goes from the head's own thread: a hand-over to another would cost every token. Only what the kernel does
not take waits for a second thread. How much that can be is bounded by the steps under way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link
from smolcluster.errors import PeerError
from smolcluster.infer.messages import Traffic, encode


class Outlet:
    """Sends on a link, in order, for one thread. `failed` hears of an error of the second one."""

    def __init__(self, link: Link, failed: Callable[[PeerError], None]) -> None:
        self.link = link
        self._failed = failed
        self._changed = threading.Condition()
        self._rests: deque[Callable[[], None]] = deque()  # the first is being sent
        self._closed = False
        self._thread: threading.Thread | None = None

    def send(self, message: Traffic) -> None:
        """Put a message on the link. PeerLostError if the peer is gone."""
        op, tag, payload = encode(message)
        with self._changed:
            if self._rests:
                rest: Callable[[], None] | None = partial(self.link.send, Kind.MESSAGE, payload, op=op, tag=tag)
            else:
                rest = self.link.offer(Kind.MESSAGE, payload, op=op, tag=tag)
            if rest is None:
                return
            self._rests.append(rest)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._drain, name="smol-onward", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the connection at once, and join."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.link.abort()
        if self._thread is not None:
            self._thread.join()

    def _drain(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._rests or self._closed)
                    if self._closed:
                        return
                    rest = self._rests[0]
                rest()
                with self._changed:
                    self._rests.popleft()
        except PeerError as error:
            if not self._closed:
                self._failed(error)
