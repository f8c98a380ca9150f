"""One rank's place in a run: its listener, the control star, the store, the links. A process group is put on top of it
by fabric.py, or by torchrun.py for a script that torchrun started.

listener -> control star and store (rank 0's port is all one must know) -> cards of all ranks
"""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta

from smolcluster.comm import control
from smolcluster.comm.alarm import Alarm
from smolcluster.comm.announce import announce
from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.control import Hub
from smolcluster.comm.endpoint import REDIAL_S, Endpoint
from smolcluster.comm.handshake import StaleError
from smolcluster.comm.link import Link
from smolcluster.comm.mesh import Card
from smolcluster.comm.opening import open_mesh, where_is_rank_0
from smolcluster.comm.pulse import Pulse, heartbeat_s
from smolcluster.comm.spoke import Spoke
from smolcluster.comm.store import SmolStore
from smolcluster.comm.table import Op
from smolcluster.comm.wire import HungUpError
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, RunOverError

# How long a rank that is done waits for rank 0 to take its leave.
FAREWELL_S = 5.0
# How long a port from the endpoint file is tried before the file is looked up again.
_LOOK_UP_AGAIN_S = 1.0


class Membership:
    """Made, it listens; after `join` all ranks know each other. `reached`: this rank has found rank 0, or is it."""

    def __init__(self, config: GroupConfig) -> None:
        """Listen. PeerError tells why not: an address that is not ours, a port in use."""
        self.config = config
        self.alarm = Alarm()
        self.reached = config.rank == 0
        self.store: SmolStore
        self._closed = False
        self._pulse: Pulse | None = None
        self._star: Hub | Spoke | None = None
        self.mesh = open_mesh(config)
        self._listener = self.mesh.listener
        self.alarm.on_ring(lambda error: self.mesh.fail(error, spare=control.CHANNEL))

    @property
    def generation(self) -> int:
        """The generation this rank is in, once it has reached rank 0."""
        return self.mesh.me.generation

    @property
    def endpoint(self) -> Endpoint | None:
        """Where this rank listens: its first address, and the port that is the same on all. None: nowhere."""
        return self._listener.endpoint if self._listener is not None else None

    def join(self, deadline: Deadline, reach: Deadline | None = None) -> None:
        """Wait until every rank has come. `reach` (else `deadline`) bounds the search for rank 0.

        Any PeerError tells who is missing or refused; nothing is left behind then, and those who came learn it too.
        """
        try:
            self._star = star = self._open_star(deadline, reach or deadline)
            self.store = SmolStore(star, self.mesh, self.config.timeout_s)
            self.mesh.card_of = self._card_of
            self._exchange_cards(star, deadline)
        except PeerError as error:
            self.tell(error)
            self.teardown(0.0)
            raise
        except BaseException:
            self.teardown(0.0)
            raise

    def _exchange_cards(self, star: Hub | Spoke, deadline: Deadline) -> None:
        config = self.config
        port = self._listener.endpoint.port if self._listener is not None else 0
        card = Card(config.listen, port, config.buffer_bytes)
        star.call(Op.SET, (f"smol/card/{config.rank}".encode(), card.encode()), deadline.left() + 1)
        # From here on every wait is for ranks that have started: `timeout_s` is enough for them.
        self.store.wait(
            [f"smol/card/{rank}" for rank in range(config.world_size)], timedelta(seconds=deadline.left() + 1)
        )

    def _open_star(self, deadline: Deadline, reach: Deadline) -> Hub | Spoke:
        config = self.config
        if config.rank == 0:
            hub = self._star = Hub(self.alarm, config.timeout_s)
            if self._listener is None:
                if config.world_size > 1:
                    raise PeerError("rank 0 listens nowhere. Fix: give it an address all others reach.")
                return hub
            if config.endpoint_file is not None:
                announce(config.endpoint_file, self._listener.endpoint, config.run_id, config.generation)
            # Those who have come must hear from us while we wait for the others.
            self._start_pulse(hub)
            missing = set(range(1, config.world_size))
            while missing:  # in the order in which they come: a slow one keeps nobody from being heard
                peer = self._listener.first_of(missing, control.CHANNEL, deadline)
                missing.discard(peer)
                try:
                    hub.attach(self.mesh.link(peer, control.CHANNEL, deadline=deadline))
                except PeerError:
                    for other in sorted(missing):  # those who have come have to be told who it was
                        with contextlib.suppress(PeerError):
                            hub.attach(self.mesh.link(other, control.CHANNEL, deadline=Deadline(0)))
                    raise
            return hub
        link = self._reach_rank_0(reach)
        self.reached = True
        if self._listener is not None:
            self._listener.enter(self.mesh.me)
        config.entered(self.generation)
        spoke = self._star = Spoke(link, self.alarm, config.timeout_s, deadline.seconds + config.timeout_s)
        self._start_pulse(spoke)
        return spoke

    def _reach_rank_0(self, reach: Deadline) -> Link:
        """The link to rank 0. Who joins a later generation dials until there is one: what answers now may be rank 0's
        last start, and a port in the endpoint file that of one that is gone.
        """
        config = self.config
        if config.after is None:
            return self.mesh.link(0, control.CHANNEL, where_is_rank_0(config, reach), reach)
        known = bool(config.peer_ports.get(0, 0))
        pause = threading.Event()
        while True:
            attempt = reach if known else Deadline(min(_LOOK_UP_AGAIN_S, reach.left()))
            try:
                return self.mesh.link(0, control.CHANNEL, where_is_rank_0(config, reach), attempt)
            except (StaleError, DeadlineError, HandshakeError) as error:
                passes = isinstance(error, StaleError | DeadlineError) or isinstance(error.__cause__, HungUpError)
                if not passes:
                    raise
                if reach.left() <= REDIAL_S:
                    raise DeadlineError(f"rank 0 was not reached within {reach.seconds:g} s: {error}") from error
            pause.wait(REDIAL_S)

    def _start_pulse(self, star: Hub | Spoke) -> None:
        self._pulse = Pulse(star.pulse, heartbeat_s(self.config.timeout_s))

    def _card_of(self, rank: int) -> Card:
        return Card.decode(self.store.get(f"smol/card/{rank}"))

    def tell(self, error: PeerError) -> None:
        """Let the ranks that did join know what this one failed of."""
        if not self._closed and self._star is not None:
            self._star.verdict(error)

    def give_up(self, reason: str = "", for_good: bool = False) -> None:
        """The other ranks' operations fail from now on, with an error that names this rank and `reason`.

        `for_good`: starting again would not help, and they get a RunOverError.
        """
        if self.alarm.error is None:
            why = f": {reason}" if reason else ""
            self.tell((RunOverError if for_good else PeerError)(f"rank {self.config.rank} gave up{why}"))

    @property
    def farewell_s(self) -> float:
        """How long a polite leave may take: rank 0 waits for all others, the others for rank 0's acknowledgement."""
        config = self.config
        return config.timeout_s if config.rank == 0 else min(FAREWELL_S, config.timeout_s)

    def teardown(self, patience_s: float) -> None:
        """Leave, politely within `patience_s` (`farewell_s`, or 0 for at once). Threads are joined. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._pulse is not None:
            self._pulse.close()
        if self._star is not None:
            self._star.close(patience_s)
        if self._listener is not None:
            self._listener.close()
        for link in self.mesh.links():
            if not link.closed:
                link.abort()
                link.discard()
            self.mesh.forget(link)
