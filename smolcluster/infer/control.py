"""The head's link to one stage outside the chain: what the stage said of itself, how an epoch goes there, its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link
from smolcluster.comm.mesh import Mesh
from smolcluster.comm.pulse import heartbeat_s
from smolcluster.errors import PeerError, PeerLostError, ProtocolError
from smolcluster.infer.layout import Here, Pong, Report, heard
from smolcluster.infer.messages import Op

# So many heartbeats may be missing before it is said that a stage cannot be reached. It is lost only at the timeout.
_MISSED = 5


class StageError(PeerLostError):
    """A stage did not come, or could not take its place. `rank` is the one to blame."""

    def __init__(self, rank: int, message: str) -> None:
        super().__init__(message)
        self.rank = rank


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


@dataclass(frozen=True)
class Gone:
    """A stage's control link has ended."""

    rank: int
    error: PeerError


class Control:
    """The link, and the thread that listens to it. `changed` is notified of all that it learns."""

    def __init__(
        self,
        link: Link,
        mesh: Mesh,
        changed: threading.Condition,
        put: Callable[[Gone | Lost | Pinged], None],
    ) -> None:
        self.rank = link.peer
        self.link = link
        self.here: Here | None = None
        self.error: PeerError | None = None
        self.report: tuple[Op, Report] | None = None
        self.closing = False
        self._mesh = mesh
        self._changed = changed
        self._put = put
        self._thread = threading.Thread(target=self._listen, name=f"smol-control-{self.rank}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it was heard of a moment ago."""
        quiet_s = time.monotonic() - self.link.last_heard
        return self.error is None and quiet_s < _MISSED * heartbeat_s(self.link.timeout_s)

    def end(self) -> None:
        """Hang up and join: the stage's process ends."""
        self.closing = True
        self.link.say_fin()
        self._thread.join(1.0)
        self.link.abort()
        self._thread.join()

    def _listen(self) -> None:
        link = self.link
        try:
            while True:
                message = link.receive(link.timeout_s)
                if message.header.kind in (Kind.FIN, Kind.FIN_ACK):
                    raise PeerLostError(f"{link.who} has left")
                op, word = heard(message, link.who)
                with self._changed:
                    if isinstance(word, Here):
                        self.here = word
                    elif isinstance(word, Report):
                        self.report = (op, word)
                    self._changed.notify_all()
                if self.here is None:
                    raise ProtocolError(f"{link.who} did not say where it is")
                if isinstance(word, Report) and op is Op.FAILED:
                    self._put(Lost(word.epoch, PeerLostError(word.reason)))
                elif isinstance(word, Pong):
                    self._put(Pinged(self.rank, word))
        except PeerError as error:
            # Let go of at once: its next process could not come in while this link is there.
            self._mesh.drop(link)
            with self._changed:
                self.error = error
                self._changed.notify_all()
            if not self.closing:
                self._put(Gone(self.rank, error))
