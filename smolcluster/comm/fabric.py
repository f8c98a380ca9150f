"""The whole of comm as a worker sees it: `open_fabric(config)`, then torch.distributed's ordinary API, then `close`.

listener -> control star and store (rank 0's port is all one must know) -> cards of all ranks -> process group
"""

from __future__ import annotations

import contextlib
from datetime import timedelta
from types import TracebackType

import torch.distributed as dist

from smolcluster.comm import control, gloo
from smolcluster.comm.alarm import Alarm, failure_of
from smolcluster.comm.announce import announce, find
from smolcluster.comm.backend.register import NAME, register
from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.control import Hub, heartbeat_s
from smolcluster.comm.endpoint import Endpoint, listen
from smolcluster.comm.handshake import Identity
from smolcluster.comm.listener import Listener
from smolcluster.comm.mesh import Card, Mesh, WireCounters
from smolcluster.comm.pulse import Pulse
from smolcluster.comm.spoke import Spoke
from smolcluster.comm.stats import LinkStats, stats_of, tcp_counters
from smolcluster.comm.store import SmolStore
from smolcluster.errors import PeerError

# How long a rank that is done waits for rank 0 to take its leave.
FAREWELL_S = 5.0
# How much later than gloo the control star may notice that a rank is gone.
GLOO_VERDICT_S = 2.0


class Fabric:
    """An open group: torch.distributed is initialised while it lives. A context manager; an exception aborts it."""

    def __init__(self, config: GroupConfig) -> None:
        """Join. Any PeerError (a port in use is one too) tells why not; nothing is left behind then."""
        self.config = config
        self.alarm = Alarm()
        self._closed = False
        self._pulse: Pulse | None = None
        self._star: Hub | Spoke | None = None
        self._gloo_before: str | None = None
        self._gloo_counted: WireCounters | None = None
        self._meter: dict[str, tuple[int, float]] = {}
        me = Identity(
            config.run_id,
            config.generation,
            config.digest,
            config.rank,
            config.world_size,
            config.secret,
            config.tls.fingerprint if config.tls is not None else b"",
        )
        must_encrypt = frozenset(rank for rank, wanted in config.encrypt.items() if wanted)
        self._listener: Listener | None = None
        if config.listen and config.world_size > 1:
            sockets = listen(config.listen, config.port)
            self._listener = Listener(sockets, me, config.buffer_bytes, config.timeout_s, config.tls, must_encrypt)
        self._mesh = Mesh(
            me,
            self._listener,
            config.peers,
            config.peer_ports,
            config.encrypt,
            config.tls,
            config.buffer_bytes,
            config.timeout_s,
        )
        try:
            self._join()
        except PeerError as error:
            if self._star is not None:  # the ranks that did join learn who did not
                self._star.verdict(error)
            self._teardown(0.0)
            raise
        except BaseException:
            self._teardown(0.0)
            raise

    def _join(self) -> None:
        config = self.config
        self.alarm.on_ring(lambda error: self._mesh.fail(error, spare=control.CHANNEL))
        deadline = Deadline(config.join_s or config.timeout_s)
        self._star = star = self._open_star(deadline)
        if config.world_size > 1 and self._pulse is None:
            self._pulse = Pulse(star.pulse, heartbeat_s(config.timeout_s))
        self.store = SmolStore(star, self._mesh, config.timeout_s)
        self._mesh.card_of = self._card_of
        host = config.listen[0] if config.listen else ""
        port = self._listener.endpoint.port if self._listener is not None else 0
        self.store.set(f"smol/card/{config.rank}", Card(host, port, config.buffer_bytes).encode())
        # From here on every wait is for ranks that have started: `timeout_s` is enough for them.
        self.store.wait(
            [f"smol/card/{rank}" for rank in range(config.world_size)], timedelta(seconds=deadline.left() + 1)
        )
        if config.transport == "gloo" and config.listen:
            self._gloo_before = gloo.bind_gloo(config.listen[0])
        register()
        # c10d names groups by a count that a failed init leaves behind: ranks would give the same group other names.
        dist.distributed_c10d._world.group_count = 0
        # gloo hears no alarm: its operations have to give up by themselves.
        patience_s = (config.operation_s if config.transport == "smol" else 0.0) or config.timeout_s
        dist.init_process_group(
            NAME if config.transport == "smol" else "gloo",
            store=self.store,
            rank=config.rank,
            world_size=config.world_size,
            timeout=timedelta(seconds=patience_s),
        )

    def _open_star(self, deadline: Deadline) -> Hub | Spoke:
        config = self.config
        if config.rank == 0:
            hub = self._star = Hub(self.alarm, config.timeout_s)
            if self._listener is None:
                if config.world_size > 1:
                    raise PeerError("rank 0 listens nowhere. Fix: give it an address all others reach.")
                return hub
            if config.endpoint_file is not None:
                announce(config.endpoint_file, self._listener.endpoint, config.run_id, config.generation)
            # Those who came first must hear that this rank lives while the others are still starting.
            self._pulse = Pulse(hub.pulse, heartbeat_s(config.timeout_s))
            for peer in range(1, config.world_size):
                try:
                    hub.attach(self._mesh.link(peer, control.CHANNEL, deadline=deadline))
                except PeerError:
                    for other in range(peer + 1, config.world_size):  # they have to be told who it was
                        with contextlib.suppress(PeerError):
                            hub.attach(self._mesh.link(other, control.CHANNEL, deadline=Deadline(0)))
                    raise
            return hub
        where = self._where_is_rank_0(deadline)
        link = self._mesh.link(0, control.CHANNEL, where, deadline)
        return Spoke(link, self.alarm, config.timeout_s, deadline.seconds + config.timeout_s)

    def _where_is_rank_0(self, deadline: Deadline) -> Endpoint:
        config = self.config
        port = config.peer_ports.get(0, 0)
        if port:
            return Endpoint(config.peers[0], port)
        if config.endpoint_file is None:
            raise PeerError("rank 0's port is 0 and there is no endpoint file. Fix: give rank 0 a fixed `port`.")
        found = find(config.endpoint_file, config.run_id, config.generation, deadline)
        return Endpoint(config.peers.get(0, found.host), found.port)

    def _card_of(self, rank: int) -> Card:
        return Card.decode(self.store.get(f"smol/card/{rank}"))

    def counters(self) -> WireCounters:
        """Bytes of this process so far: payload, headers, handshakes. With transport gloo its sockets are asked; only
        Linux tells, elsewhere that is the control star's traffic alone.
        """
        if self.config.transport == "gloo" and not self._closed:
            counted = tcp_counters(self.config.peers.values())
            if counted is not None:
                self._gloo_counted = WireCounters(*counted)
        return self._gloo_counted or self._mesh.counters()

    def links(self) -> tuple[LinkStats, ...]:
        """One entry per peer this rank has links to. Rates are since the last call."""
        return stats_of(self._mesh.links(), self._meter)

    def failure(self, error: BaseException) -> PeerError | None:
        """The peer's failure behind an error that an operation raised, if that is what it was.

        Looks into what torch made of it. gloo's errors name nobody: there the control star, which notices a rank that
        goes too, is asked for a moment.
        """
        found = failure_of(error)
        if found is None and isinstance(error, RuntimeError) and self.config.transport == "gloo":
            found = self.alarm.wait(GLOO_VERDICT_S)
        return found

    def close(self) -> None:
        """Leave politely: finish what is queued, FIN and acknowledgement on every link, threads joined. Idempotent."""
        patience_s = self.config.timeout_s if self.config.rank == 0 else min(FAREWELL_S, self.config.timeout_s)
        self._teardown(patience_s)

    def abort(self, reason: str = "") -> None:
        """Leave at once; the other ranks' operations fail with PeerLostError that names this rank and `reason`."""
        if not self._closed and self._star is not None and self.alarm.error is None:
            why = f": {reason}" if reason else ""
            self._star.verdict(PeerError(f"rank {self.config.rank} gave up{why}"))
        self._teardown(0.0)

    def _teardown(self, patience_s: float) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if dist.is_initialized():
                with contextlib.suppress(PeerError):
                    dist.destroy_process_group()
        finally:
            if self.config.transport == "gloo":
                gloo.unbind_gloo(self._gloo_before)
            if self._pulse is not None and self._star is not None:
                self._pulse.close()
            if self._star is not None:
                self._star.close(patience_s)
            if self._listener is not None:
                self._listener.close()
            for link in self._mesh.links():
                if not link.closed:
                    link.abort()
                    link.discard()
                self._mesh.forget(link)

    def __enter__(self) -> Fabric:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort(f"{kind.__name__}: {error}")


def open_fabric(config: GroupConfig) -> Fabric:
    """Join the group: all ranks call it. torch.distributed's default group exists until the fabric is closed."""
    return Fabric(config)
