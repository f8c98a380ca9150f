"""The head's link to one stage outside the chain: how an epoch goes there, whether it lives, its state."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from smolcluster.comm.clock import Deadline
from smolcluster.comm.link import Link
from smolcluster.errors import PeerError, PeerLostError
from smolcluster.infer.layout import Pong, Report, heard
from smolcluster.infer.messages import Op


@dataclass(frozen=True)
class Lost:
    """An epoch is over: its chain is broken. `error` names the rank and what happened."""

    epoch: int
    error: PeerError


@dataclass(frozen=True)
class Pinged:
    """A stage's answer to a ping."""

    rank: int
    pong: Pong


class Control:
    """The head's link to one stage, and the thread that listens to it."""

    def __init__(self, rank: int, link: Link, port: int, timeout_s: float, put: Callable[[object], None]) -> None:
        self.rank = rank
        self.link = link
        self.port = port
        self.closing = False
        self._timeout_s = timeout_s
        self._put = put
        self._reports: dict[int, tuple[Op, Report]] = {}
        self._changed = threading.Condition()
        self.error: PeerError | None = None
        self._thread = threading.Thread(target=self._listen, name=f"smol-control-{rank}", daemon=True)
        self._thread.start()

    def ready(self, epoch: int, deadline: Deadline) -> None:
        """Wait until the stage is ready for the epoch. PeerError if it says that it failed, or goes, or is late."""
        with self._changed:
            self._changed.wait_for(lambda: epoch in self._reports or self.error is not None, deadline.left())
            op, report = self._reports.get(epoch, (None, None))
            if report is not None and op is Op.FAILED:
                raise PeerLostError(f"rank {self.rank} could not take its layers: {report.reason}")
            if report is None:
                raise self.error or PeerLostError(f"rank {self.rank} was not ready within {deadline.seconds:g} s")

    def end(self) -> None:
        """Hang up and join."""
        self.closing = True
        self.link.say_fin()
        self._thread.join(1.0)
        self.link.abort()
        self._thread.join()

    def _listen(self) -> None:
        try:
            while True:
                op, word = heard(self.link.receive(self._timeout_s), self.link.who)
                if isinstance(word, Report):
                    with self._changed:
                        self._reports[word.epoch] = (op, word)
                        self._changed.notify_all()
                    if op is Op.FAILED:
                        self._put(Lost(word.epoch, PeerLostError(word.reason)))
                elif isinstance(word, Pong):
                    self._put(Pinged(self.rank, word))
        except PeerError as error:
            with self._changed:
                self.error = error
                self._changed.notify_all()
            if not self.closing:
                self._put(error)
