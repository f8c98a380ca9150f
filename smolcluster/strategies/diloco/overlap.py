"""Rounds whose exchange travels while the next slot is computed (arXiv:2501.18512), so that no wire is waited for.

At the end of slot k+1, in this order:

1. The sum of round k has come: commit, and the anchor moves by it. Parameters become the new anchor plus all that this
   rank did **in this slot**, in full. That is not in the anchor yet.
2. The table of round k+1; its contributions leave: that same progress, weighted. Slot k+2 begins on top of it.

So every step of every rank gets into the anchor once, a slot late, and in no replica twice. In the paper's terms the
mixing factor is 1 for what a rank did in the last slot and 0 for what it did before. The paper mixes halves, for an
exchange much shorter than a round; with a delay of a whole slot half of a slot would be forgotten, and in a probe
(3 ranks, H=5) that was clearly worse.

An evaluation, a checkpoint and the end wait for what is under way: there the anchor is all that has been trained.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn

from smolcluster.errors import DeadlineError
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.device import Collectives
from smolcluster.runtime.slices import Slice
from smolcluster.strategies.base import Feed, LossSum, Met, StepResult
from smolcluster.strategies.diloco.inner import Work
from smolcluster.strategies.diloco.rounds import DiLoCo
from smolcluster.strategies.diloco.slots import Conclusion
from smolcluster.strategies.diloco.survivors import Carried, Sum

# How long the end of an exchange is waited for whose group has failed: its operations fail at once.
FAILED_S = 60.0


class Flight:
    """An exchange on a thread of its own: the only one that uses the group meanwhile."""

    def __init__(self, send: Callable[[], None]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(send,), name="diloco-exchange", daemon=True)
        self._thread.start()

    def land(self, seconds: float | None = None) -> None:
        """Wait for its end; whatever it raised is raised here. The group's own deadlines bound it."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise DeadlineError(f"an exchange has not ended within {seconds} s")
        if self._error is not None:
            raise self._error

    def _run(self, send: Callable[[], None]) -> None:
        try:
            send()
        except BaseException as error:  # noqa: BLE001  raised where its result is waited for
            self._error = error


class Overlapped(DiLoCo):
    """A replica with at most one exchange under way."""

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        # Where this rank began its slot: the anchor and its own part of what is under way.
        self._began_at = self.flat.params.clone()
        self._total = torch.zeros_like(self.flat.params)
        self._flight: Flight | None = None
        self._table: Conclusion | None = None
        self._part = Work()

    def wires_of_rounds(self) -> Collectives:
        """See RoundReplica. What the exchange's thread waits for, nobody else does: it is counted apart."""
        return Collectives(self.rank, self.collectives.world_size, self._device)

    # -- a round --------------------------------------------------------------------------------------------------

    def train_round(self, feed: Feed) -> StepResult:
        """A slot; what travelled meanwhile is committed, and what came of the slot leaves."""
        self.begin()
        self.catch_up(feed.steps)
        slot_s = self.slot_s
        self.work_on(feed, self.work, slot_s)
        norms = self._land()
        done = self.work
        table = self.agree_on(done)
        self.outer.contribute(self._began_at, table.weights[self.rank], self._total)
        self._part, self._table, self.work = done, table, Work()
        self._flight = Flight(lambda: self.outer.exchange(self._total))
        self._began_at.copy_(self.flat.params)
        return self.account(feed, table, done, slot_s, norms)

    def _land(self) -> dict[str, float] | None:
        """Commit what is under way, if anything is. The norms of its sum, if they were asked for."""
        if self._flight is None or self._table is None:
            return None
        if self.ready is None:
            waiting = time.perf_counter()
            self._flight.land()
            self.collectives.blocked_s += time.perf_counter() - waiting
            self.ready = self._table
        self.require_all_have(self._total)
        table, part = self._table, self._part
        self._flight, self._table, self._part = None, None, Work()
        self.commit(self._total, table, part)
        # At once: whatever fails from here on, what lies between anchor and parameters is what nobody has committed.
        self.flat.params.sub_(self._began_at).add_(self.outer.anchor)
        self._began_at.copy_(self.outer.anchor)
        return self.compare()

    def _settle(self) -> None:
        """Wait for what is under way, where no slot is: then parameters, anchor and all replicas are one."""
        if self._flight is not None:
            self._land()

    # -- how far the run is ---------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """See RoundReplica; with those that are under way."""
        under_way = self._table.samples if self._table is not None else 0
        return (self.samples_done + under_way) // self._batch

    @property
    def slot_s(self) -> float:
        """See RoundReplica."""
        return self._table.slot_s if self._table is not None else super().slot_s

    @property
    def taken(self) -> int:
        """See RoundReplica; with those of what is under way."""
        return super().taken + self._part.steps

    # -- beside the round: all of it is between two slots, on every rank ------------------------------------------

    def exchange(self, values: Sequence[float]) -> list[list[float]]:
        """See Strategy."""
        self._settle()
        return super().exchange(values)

    def eval_loss(self, x: torch.Tensor, y: torch.Tensor) -> LossSum:
        """See Strategy."""
        self._settle()
        return super().eval_loss(x, y)

    def export(self) -> dict[str, torch.Tensor] | None:
        """See Strategy."""
        self._settle()
        return super().export()

    def named_slices(self) -> Iterator[Slice]:
        """See RoundReplica."""
        self._settle()
        yield from super().named_slices()

    def load_slices(self, slices: Iterable[Slice]) -> None:
        """See RoundReplica."""
        super().load_slices(slices)
        self._began_at.copy_(self.outer.anchor)

    def state_bytes(self) -> dict[str, int]:
        """See RoundReplica."""
        held = super().state_bytes()
        return held | {"outer": held["outer"] + self._began_at.nbytes + self._total.nbytes}

    # -- from one group of ranks to the next ----------------------------------------------------------------------

    def carry(self) -> Carried:
        """See Survives. What is under way and did not come is one with what was done since: both go on as one part."""
        if self._flight is not None and self.ready is None:
            with contextlib.suppress(Exception):
                self._flight.land(FAILED_S)
                self.ready = self._table
        return super().carry()

    def waiting_sum(self, table: Conclusion, owed: torch.Tensor | None) -> Sum:
        """See RoundReplica."""
        return Sum(self._total, owed, table, self._part, self.flat.params - self._began_at, self.work)

    def uncommitted(self) -> Work:
        """See RoundReplica."""
        return self._part.with_more(self.work)

    def meet(self, carried: object | None) -> Met | None:
        """See Survives. All that lies between parameters and anchor is this rank's next part."""
        met = super().meet(carried)
        self._began_at.copy_(self.outer.anchor)
        return met
