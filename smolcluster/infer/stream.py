"""A request's events, for whoever asked: iterate, or be told; leaving the iteration early cancels it."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from smolcluster.errors import DeadlineError
from smolcluster.infer.request import Done, Event, Failed

log = logging.getLogger("smolcluster.infer")
# On top of the request's own deadline, which the engine keeps: its thread may be in the middle of something long.
_GRACE_S = 60.0


class Cancels(Protocol):
    """What a stream needs of the engine."""

    def cancel(self, key: int) -> None:
        """End the request."""
        ...


class Stream:
    """Events of one request: Delta, ..., then one Done or Failed. One reader. `within_s` is the request's deadline.

    `key` is its number at whoever serves it, `prompt_tokens` how long its prompt is.
    """

    def __init__(self, key: int, engine: Cancels, tell: Callable[[Event], None] | None = None) -> None:
        self.key = key
        self.within_s = 0.0
        self.prompt_tokens = 0
        self._engine = engine
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._tell: Callable[[Event], None] = tell or self._events.put

    def put(self, event: Event) -> None:
        """Tell the owner. One who cannot be told has gone: that ends the request, and nobody else's."""
        try:
            self._tell(event)
        except Exception as error:  # noqa: BLE001  whatever it is, it is not the engine's
            log.warning("the owner of request %d cannot be told: %s", self.key, error)
            if not isinstance(event, (Done, Failed)):
                self.cancel()

    def cancel(self) -> None:
        """End the request, from any thread. The stream still ends with an event."""
        self._engine.cancel(self.key)

    def __iter__(self) -> Iterator[Event]:
        """For a thread. DeadlineError if the engine itself is stuck."""
        until = time.monotonic() + self.within_s + _GRACE_S
        ended = False
        try:
            while not ended:
                try:
                    event = self._events.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    raise DeadlineError(f"the engine did not answer within {self.within_s + _GRACE_S:g} s") from None
                ended = isinstance(event, (Done, Failed))
                yield event
        finally:
            if not ended:
                self.cancel()
