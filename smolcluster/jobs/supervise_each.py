"""The job of a served model, or of a training with a server, on one node: each rank is started again for itself, and
the others live on.

A stage that died is missing to the others for as long as it takes to read its layers; requests wait, or fail, and the
head takes it in again. Ranks end together only when that is asked for, or when one cannot be had again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from smolcluster.errors import SmolError
from smolcluster.jobs.endings import exit_code_of
from smolcluster.jobs.registry import Active, Registry
from smolcluster.jobs.restarts import RestartsOfEach
from smolcluster.jobs.stopping import StopOrder
from smolcluster.jobs.supervise import Supervisor
from smolcluster.jobs.types import STOP_GRACE_S
from smolcluster.jobs.verdict import INTERRUPTED
from smolcluster.plan.types import NodeConfig, Plan, ServePlan
from smolcluster.runtime.results import read_result, write_result

_log = logging.getLogger("smolcluster.supervisor")


class EachSupervisor(Supervisor):
    """A rank that ends although nobody asked it to is started again, after a delay that grows with each time."""

    def __init__(
        self,
        node_file: Path,
        config: NodeConfig,
        plan: Plan | ServePlan,
        registry: Registry,
        claim: Active,
        environment: Mapping[str, str],
        worker: tuple[str, ...],
    ) -> None:
        super().__init__(node_file, config, plan, registry, claim, environment, worker)
        recovery = plan.serve.recovery if isinstance(plan, ServePlan) else plan.run.recovery
        self._policy = RestartsOfEach(recovery, self._before)
        # A training ends by itself, and a rank that has done its work with it; a served model's only when asked to.
        self._ends = isinstance(plan, Plan)
        # When a rank that ended is started again, by the monotonic clock.
        self._due: dict[int, float] = {}

    @property
    def _restarts(self) -> RestartsOfEach:
        return self._policy

    def _waiting(self) -> Collection[int]:
        return self._due

    def _run_ranks(self) -> None:
        if self._ends and self._were_done():
            _log.info("the ranks had done all their work when the last supervisor died")
            self._codes = dict.fromkeys((plan.rank for plan in self._plans), 0)
            return
        self._start_all()
        while self._running or self._due:
            self._watch_on()
            for rank in [rank for rank, when in self._due.items() if when <= time.monotonic()]:
                if rank in self._due:  # else the one before could not be started, which stops them all
                    self._start_again(rank)

    def _next_wait_s(self) -> float:
        waits = [when - time.monotonic() for when in self._due.values()]
        return max(0.001, min(super()._next_wait_s(), *waits)) if waits else super()._next_wait_s()

    def _begin_stop(self, order: StopOrder) -> None:
        for rank in self._due if order.outcome == "failed" else ():
            # It would have been started again: its death is not what ends the job.
            result = read_result(self._folder, self._config.node, rank)
            if result is not None:
                write_result(self._folder, result.model_copy(update={"root_cause": False}))
        self._due.clear()
        super()._begin_stop(order)

    def _ended_unasked(self, rank: int, code: int) -> None:
        if self._ends and code in (0, INTERRUPTED):
            return
        result = read_result(self._folder, self._config.node, rank)
        delay_s = self._policy.due(rank, code, result, time.monotonic())
        if delay_s is None:
            # Whatever it said of itself: this is what ends the job.
            self._codes[rank] = code if code not in (0, INTERRUPTED) else SmolError.exit_code
            self._write_failure(rank, exit_code_of(self._codes[rank]), self._policy.refusal)
            self._begin_stop(StopOrder("failed", f"rank {rank}: {self._policy.refusal}", STOP_GRACE_S))
            return
        _log.info("rank %d is started again in %.1f s, %s", rank, delay_s, self._policy.why_of(rank))
        self._due[rank] = time.monotonic() + delay_s

    def _start_again(self, rank: int) -> None:
        plan = next(plan for plan in self._plans if plan.rank == rank)
        self._started[rank].join(STOP_GRACE_S)
        self._forget(rank)
        del self._due[rank]
        if self._start(plan, self._policy.why_of(rank)):
            del self._codes[rank]
            self._record()
