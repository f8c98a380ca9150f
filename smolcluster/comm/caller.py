"""Letters without lockstep between rank 0 and ranks that come and go: a worker's side. See mailbox.py.

    caller = Caller(config, most_bytes)
    caller.dial(Deadline(config.join_s), stop, words)     # also after a loss, as often as one likes
    caller.send(Letter(op, number, words, body))          # never waits
    letter = caller.receive(1.0)                          # None: nothing came; PeerLostError: the link is lost
    caller.close(5.0)

A link that is lost stays lost until `dial` makes another; what was sent over it and not answered may or may not have
arrived. Whoever sends it again gives it the same number: the centre knows what it had from this incarnation.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.endpoint import REDIAL_S
from smolcluster.comm.handshake import StaleError
from smolcluster.comm.letter import Letter, Value
from smolcluster.comm.mailbox import MAIL, Own
from smolcluster.comm.mailline import Line
from smolcluster.comm.opening import dial_rank_0, open_mesh
from smolcluster.comm.pulse import Pulse, heartbeat_s
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError, ProtocolError

# Longer pauses between attempts the longer there is nobody; a centre needs some seconds to start again.
MOST_PAUSE_S = 1.0
# How long an attempt to connect lasts; between two it is looked whether this rank is to stop.
_ATTEMPT_S = 1.0
_LOOK_S = 0.25
_LEAVE_S = 1.0


class Caller:
    """One worker's. `config.after` is the last generation it was in, as for Membership. `incarnation`: this process's.

    PeerError: it cannot listen, if it has to.
    """

    def __init__(self, config: GroupConfig, most_bytes: int, incarnation: int | None = None) -> None:
        self.incarnation = secrets.randbits(62) if incarnation is None else incarnation
        self.mesh = open_mesh(config)
        self._me = self.mesh.me
        self._config = config
        self._most_bytes = most_bytes
        self._least = config.generation if config.after is None else config.after + 1
        self._generation: int | None = None
        self._changed = threading.Condition()
        self._letters: deque[Letter] = deque()
        self._line: Line | None = None
        self._lost: PeerError | None = None
        self._pulse = Pulse(self.mesh.pulse, heartbeat_s(config.timeout_s))

    @property
    def generation(self) -> int:
        """The centre's when it was reached last."""
        assert self._generation is not None, "dial first"
        return self._generation

    def dial(
        self, deadline: Deadline, stop: Callable[[], bool], words: Mapping[str, Value] | None = None
    ) -> Mapping[str, Value]:
        """Join, the first time or again; the words of the centre's WELCOME. `words`: what this worker says of itself.

        Tries until the deadline: DeadlineError. PeerLostError once `stop` says so. HandshakeError: refused for good.
        """
        self._hang_up()
        pause_s = REDIAL_S
        while True:
            try:
                return self._attempt(deadline, stop, dict(words or {}))
            except PeerError as error:
                self._hang_up()
                # A start that is over answers for a moment, until the next one does.
                if isinstance(error, HandshakeError) and not isinstance(error, StaleError):
                    raise
                if deadline.left() <= pause_s:
                    raise DeadlineError(f"rank 0 was not reached within {deadline.seconds:g} s: {error}") from error
            if stop():
                raise PeerLostError("rank 0 was not reached: this rank is to stop")
            threading.Event().wait(pause_s)
            pause_s = min(MOST_PAUSE_S, 2 * pause_s)

    def send(self, letter: Letter) -> None:
        """Have it sent. Never waits; a link that is lost is told by `receive`."""
        with self._changed:
            line = self._line
        if line is not None:
            line.put(letter)

    def receive(self, timeout_s: float) -> Letter | None:
        """The next letter, None if none comes within that time. PeerLostError once the link is lost and all is read."""
        with self._changed:
            self._changed.wait_for(lambda: self._letters or self._lost is not None, timeout_s)
            if self._letters:
                return self._letters.popleft()
            if self._lost is not None:
                raise PeerLostError(str(self._lost)) from self._lost
            return None

    @property
    def timeout_s(self) -> float:
        """How long a centre that lives may say nothing."""
        return self._config.timeout_s

    def close(self, patience_s: float = _LEAVE_S) -> None:
        """Send what waits, say goodbye, let go. No thread is left. Idempotent."""
        if self._line is not None:
            self._line.leave()
            self._line.join(patience_s)
            self._line = None
        self._pulse.close()
        if self.mesh.listener is not None:
            self.mesh.listener.close()

    def _attempt(self, deadline: Deadline, stop: Callable[[], bool], words: dict[str, Value]) -> Mapping[str, Value]:
        # Whatever generation the centre is in now, the last one again or a later one.
        least = self._least if self._generation is None else self._generation
        self.mesh.me = replace(self._me, generation=least, after=least - 1)
        config = replace(self._config, after=least - 1)
        patience = Deadline(min(_ATTEMPT_S, deadline.left()))
        link = dial_rank_0(self.mesh, config, MAIL, patience, threading.Event())
        if self._config.faults is not None:
            self._config.faults.enter(self.mesh.me.generation)
        with self._changed:
            self._letters.clear()
            self._lost = None
        line = Line(link, self.mesh, self._most_bytes, self._take, self._gone)
        line.start()
        with self._changed:
            self._line = line
        line.put(Letter(Own.JOIN, 0, {**words, "incarnation": self.incarnation}))
        # A centre that hangs up now has not noticed yet that this rank's last process is gone.
        patience = Deadline(max(_ATTEMPT_S, min(self._config.timeout_s, deadline.left())))
        welcome = None
        while welcome is None and not patience.expired and not stop():
            welcome = self.receive(min(_LOOK_S, patience.left()))
        if welcome is None or welcome.op != Own.WELCOME:
            raise ProtocolError("rank 0 did not say welcome")
        self._generation = welcome.say("generation", int)
        return welcome.words

    def _hang_up(self) -> None:
        with self._changed:
            line, self._line = self._line, None
        if line is not None:
            line.cut()
            line.join(0.0)

    def _take(self, letter: Letter) -> None:
        with self._changed:
            self._letters.append(letter)
            self._changed.notify_all()

    def _gone(self, error: PeerError | None) -> None:
        with self._changed:
            self._lost = error if error is not None else PeerLostError("rank 0 has left")
            self._changed.notify_all()
