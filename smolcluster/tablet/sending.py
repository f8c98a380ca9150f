"""A deadline for sends on a connection that has none: one thread for all, which an ordinary send never wakes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from smolcluster.comm.clock import Deadline


class SendWatch:
    """Calls `cut`, from a thread of its own, when a send has not ended by its deadline.

    The thread sleeps until the earliest deadline that it knew of, a peer's silence away: by then most sends have long
    ended, and it ends too, or sleeps on. A thread for each send would be most of what a small message costs.
    """

    def __init__(self, cut: Callable[[], None]) -> None:
        self._cut = cut
        self._changed = threading.Condition()
        self._due: dict[object, float] = {}  # of the sends under way, by the monotonic clock
        self._wakes: float | None = None  # when the thread looks again; None: there is no thread
        self._closed = False

    @contextlib.contextmanager
    def within(self, deadline: Deadline) -> Iterator[None]:
        """What is done inside is to end by then."""
        send, due = object(), time.monotonic() + deadline.left()
        with self._changed:
            self._due[send] = due
            if self._wakes is None and not self._closed:
                self._wakes = due
                threading.Thread(target=self._watch, name="smol-sends", daemon=True).start()
            elif self._wakes is not None and due < self._wakes:
                self._wakes = due
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                del self._due[send]

    def close(self) -> None:
        """The connection is over: nothing is waited for. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _watch(self) -> None:
        late = False
        with self._changed:
            while not self._closed and not late:
                now = time.monotonic()
                if self._wakes is not None and now < self._wakes:
                    self._changed.wait(self._wakes - now)
                elif self._due:
                    self._wakes = min(self._due.values())
                    late = self._wakes <= now
                else:
                    break
            self._wakes = None
        if late:
            self._cut()
