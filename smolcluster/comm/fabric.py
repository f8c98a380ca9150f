"""The whole of comm as a worker sees it: `open_fabric(config)`, then torch.distributed's ordinary API, then `close`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

import torch.distributed as dist

from smolcluster.comm import gloo
from smolcluster.comm.alarm import copy_of, failure_of
from smolcluster.comm.backend.register import NAME, forget_failed_init, register
from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.membership import Membership
from smolcluster.comm.mesh import WireCounters
from smolcluster.comm.soundings import Soundings
from smolcluster.comm.stats import LinkMeter, LinkStats, tcp_counters
from smolcluster.errors import PeerError

# How much later than gloo the control star may notice that a rank is gone.
GLOO_VERDICT_S = 2.0


class Fabric:
    """An open group: torch.distributed is initialised while it lives. A context manager; an exception aborts it."""

    def __init__(self, config: GroupConfig) -> None:
        """Join. Any PeerError (a port in use is one too) tells why not; nothing is left behind then."""
        self.config = config
        self._closed = False
        self._gloo_before: str | None = None
        self._gloo_counted: WireCounters | None = None
        self._soundings: Soundings | None = None
        self._member = Membership(config)
        self._mesh = self._member.mesh
        self._meter = LinkMeter(self._mesh)
        self.alarm = self._member.alarm
        self._member.join(Deadline(config.join_s or config.timeout_s))
        self.store = self._member.store
        if config.faults is not None:
            config.faults.enter(self.generation)
        try:
            self._open_group()
            if config.sounds and config.world_size > 1:
                self._soundings = Soundings(self._mesh)
        except PeerError as error:
            self._member.tell(error)
            self._teardown(0.0)
            raise
        except BaseException:
            self._teardown(0.0)
            raise

    @property
    def generation(self) -> int:
        """Which start of the run's ranks this is."""
        return self._member.generation

    def _open_group(self) -> None:
        config = self.config
        if config.transport == "gloo" and config.listen:
            self._gloo_before = gloo.bind_gloo(config.listen[0])
        register()
        forget_failed_init()
        # gloo hears no alarm: its operations have to give up by themselves.
        patience_s = (config.operation_s if config.transport == "smol" else 0.0) or config.timeout_s
        dist.init_process_group(
            NAME if config.transport == "smol" else "gloo",
            store=self.store,
            rank=config.rank,
            world_size=config.world_size,
            timeout=timedelta(seconds=patience_s),
        )

    def begin_step(self, step: int) -> None:
        """This rank is about to take a step of the run: faults that the plan asks for begin at one."""
        if self.config.faults is not None:
            self.config.faults.begin_step(step)

    def slowed(self, compute_s: float, stop: Callable[[], bool]) -> float:
        """This rank has computed so long in its step: wait as faults ask, or until `stop`. Seconds waited."""
        return self.config.faults.slowed(compute_s, stop) if self.config.faults is not None else 0.0

    def check(self) -> None:
        """PeerError if the run is known to have failed, whether or not an operation of this rank is under way."""
        if self.alarm.error is not None:
            raise copy_of(self.alarm.error)

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
        return self._meter.look()

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
        self._teardown(self._member.farewell_s)

    def abort(self, reason: str = "", for_good: bool = False) -> None:
        """Leave at once; the other ranks' operations fail with an error that names this rank and `reason`.

        `for_good`: they, too, need not start again.
        """
        if not self._closed:
            self._member.give_up(reason, for_good)
        self._teardown(0.0)

    def _teardown(self, patience_s: float) -> None:
        if self._closed:
            return
        self._closed = True
        if self.config.faults is not None:
            self.config.faults.end()
        if self._soundings is not None:
            self._soundings.close()
        try:
            if dist.is_initialized():
                with contextlib.suppress(PeerError):
                    dist.destroy_process_group()
        finally:
            if self.config.transport == "gloo":
                gloo.unbind_gloo(self._gloo_before)
            self._member.teardown(patience_s)

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
