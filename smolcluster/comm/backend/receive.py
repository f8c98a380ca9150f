"""A message that somebody waits for, as a Work. inbox.py fills it."""

from __future__ import annotations

import time
from typing import Protocol

from torch import Tensor

from smolcluster.comm.backend.flat import Flat
from smolcluster.comm.backend.lane import Lane, Work
from smolcluster.comm.backend.message import Incoming


class Drives(Protocol):
    """What a receive needs of its inbox."""

    turn: Lane

    def wait_for(self, receive: Receive) -> None:
        """Return when it is done, well or not."""


class Receive(Work):
    """A message that somebody waits for: from group rank `peer`, or from anybody if that is None."""

    def __init__(
        self, inbox: Drives, part: Flat, peer: int | None, tag: int, timeout_s: float, result: list[Tensor]
    ) -> None:
        super().__init__(inbox.turn, lambda: None, result)
        self.incoming = Incoming(part, tag)
        self.peer = peer
        self.timeout_s = timeout_s
        self.posted = time.monotonic()
        self._inbox = inbox

    def fits(self, peer: int, tag: int) -> bool:
        """Whether a message of that tag from that rank may be for this, which has none yet."""
        return tag == self.incoming.tag and self.peer in (None, peer) and self.incoming.owner is None

    def finish(self, error: BaseException | None = None) -> None:
        """The message is there, or never will be. `call_back` is to be called as well, by who does not drive."""
        if error is None:
            try:
                self.incoming.part.write_back()
            except Exception as failed:  # noqa: BLE001  its tensor's own trouble: nobody else's message is touched by it
                error = failed
        with self._lane.state:
            self._error, self._done = error, True
            self._lane.state.notify_all()

    @property
    def has_callbacks(self) -> bool:
        """Whether anything may be attached to its future."""
        return self._signal is not None

    def call_back(self) -> None:
        """Run what was attached to the future, which may wait for another message."""
        if self._signal is not None:
            self._signal.set_result(None)

    def join(self) -> None:
        """Wait for the end, driving if nobody does."""
        self._inbox.wait_for(self)

    def _source_rank(self) -> int:
        """Who sent it, as a rank of the group: what `dist.recv` without a source returns."""
        return self.incoming.source
