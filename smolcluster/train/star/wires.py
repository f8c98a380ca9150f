"""The links of a star as the rest of train sees links: bytes, rates, and faults that begin at a step."""

from __future__ import annotations

from collections.abc import Callable

from smolcluster.comm.faults import Faults
from smolcluster.comm.mesh import Mesh, WireCounters
from smolcluster.comm.stats import LinkMeter, LinkStats


class MailWires:
    """The mesh of a Mailbox or a Caller. There is no store: nothing of a star is agreed on by all."""

    store = None

    def __init__(self, mesh: Mesh, faults: Faults | None) -> None:
        self._mesh = mesh
        self._faults = faults
        self._meter = LinkMeter(mesh)

    def begin_step(self, step: int) -> None:
        """This rank is about to take a step: of a worker its own, of the server the run's."""
        if self._faults is not None:
            self._faults.begin_step(step)

    def check(self) -> None:
        """Whose run failed is told in answers."""

    def slowed(self, compute_s: float, stop: Callable[[], bool]) -> float:
        """This rank has computed so long in its step: wait as faults ask, or until `stop`. Seconds waited."""
        return self._faults.slowed(compute_s, stop) if self._faults is not None else 0.0

    def counters(self) -> WireCounters:
        """Bytes of this process so far."""
        return self._mesh.counters()

    def links(self) -> tuple[LinkStats, ...]:
        """One entry per peer. Rates are since the last call."""
        return self._meter.look()
