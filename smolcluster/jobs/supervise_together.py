"""The job of a training run on one node: its ranks end together and are started again together."""

from __future__ import annotations

import contextlib
import logging
import queue
from collections.abc import Mapping
from pathlib import Path

from smolcluster.jobs.registry import Active, Registry
from smolcluster.jobs.restarts import Restarts
from smolcluster.jobs.stopping import StopOrder, Stopping
from smolcluster.jobs.supervise import Supervisor
from smolcluster.jobs.types import STOP_GRACE_S
from smolcluster.jobs.verdict import INTERRUPTED
from smolcluster.plan.types import NodeConfig, Plan
from smolcluster.runtime.results import read_finished, write_result

_log = logging.getLogger("smolcluster.supervisor")


class TogetherSupervisor(Supervisor):
    """A rank that dies ends the others of its node, and all are started again from the newest checkpoint."""

    def __init__(
        self,
        node_file: Path,
        config: NodeConfig,
        plan: Plan,
        registry: Registry,
        claim: Active,
        environment: Mapping[str, str],
        worker: tuple[str, ...],
    ) -> None:
        super().__init__(node_file, config, plan, registry, claim, environment, worker)
        self._policy = Restarts(plan.run.recovery, plan.run.strategy, self._before)

    @property
    def _restarts(self) -> Restarts:
        return self._policy

    def _run_ranks(self) -> None:
        if self._were_done():
            _log.info("the ranks had done all their work when the last supervisor died")
            self._codes = dict.fromkeys((plan.rank for plan in self._plans), 0)
            return
        self._start_all()
        self._watch()
        while self._goes_on():
            self._start_all()
            self._watch()

    def _ended_unasked(self, rank: int, code: int) -> None:
        if code not in (0, INTERRUPTED):
            self._begin_stop(StopOrder("failed", f"rank {rank} of this node failed", STOP_GRACE_S))

    def _goes_on(self) -> bool:
        """Whether the ranks, which have all ended, are started again. Whoever asked for a stop meanwhile is heard."""
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._events.get_nowait()
                if isinstance(event, StopOrder):
                    self._begin_stop(event)
        self._settle()
        if not self._policy.due(self._codes, self._results(), self._stopping.order, self._asked or self._lease.out):
            return False
        _log.info("%s: %s", self._policy.said, self._policy.reason)
        self._publish("restarting")
        for process in self._started.values():
            process.join(STOP_GRACE_S)
        self._stopping = Stopping()
        self._started, self._codes = {}, {}
        return True

    def _settle(self) -> None:
        """One rank's good end says that everybody's work is done: so is that of one that failed before it knew."""
        node = self._config.node
        for rank, code in self._codes.items() if 0 in self._codes.values() else ():
            finished = read_finished(self._folder, node, rank)
            if code not in (0, INTERRUPTED) and finished is not None:
                write_result(self._folder, finished)
                self._codes[rank] = 0
