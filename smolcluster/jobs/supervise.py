"""The life of one job on one node: start its ranks, watch them, end them together, start them again where that helps
(restarts.py), say how it went. What a served model's ranks do differently is in serving.py.

One thread owns the job: the main one. Everybody else (waiters of ranks, the control link, signal handlers) puts an
event into its queue. Ranks are started from it too, see processes.py.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smolcluster.jobs.awake import kept_awake
from smolcluster.jobs.control import ControlServer
from smolcluster.jobs.endings import describe, exit_code_of, result_for
from smolcluster.jobs.figures import figures_of
from smolcluster.jobs.lease import Lease
from smolcluster.jobs.nodefile import ranks_of
from smolcluster.jobs.processes import RankProcess, rank_environment
from smolcluster.jobs.registry import Active, Registry
from smolcluster.jobs.restarts import Restarts, RestartsOfEach
from smolcluster.jobs.state import earlier_state, told_by_ranks, write_state
from smolcluster.jobs.stopping import StopOrder, Stopping
from smolcluster.jobs.tail import last_step
from smolcluster.jobs.types import STOP_GRACE_S
from smolcluster.jobs.verdict import INTERRUPTED, NOT_STARTED, PEER_FAILED, judge
from smolcluster.jobs.wire import Reply, Request
from smolcluster.plan.types import NodeConfig, Plan, RankPlan, ServePlan
from smolcluster.runtime.results import read_result, write_result
from smolcluster.runtime.runfolder import JobState, RankResult, RunFolder

_log = logging.getLogger("smolcluster.supervisor")
# Python on Windows does not wake a waiting main thread for a signal, so it looks up this often.
_LOOK_UP_S = 1.0
_State = Literal["starting", "running", "restarting", "completed", "failed", "stopped"]


@dataclass(frozen=True)
class RankEnded:
    """Event: a rank's process ended with this return code of subprocess (negative: a signal)."""

    rank: int
    returncode: int


class Supervisor(ABC):
    """Runs one node's ranks. `run()` gives the exit code; `request_stop()` may be called from anywhere, once or often.

    Whether, when and with whom a rank that ended is started again is its subclasses' business.

    `worker` are the arguments that follow the node's python: ("-m", "smolcluster.worker").
    """

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
        self._node_file = node_file
        self._config = config
        self._plan = plan
        self._plans = ranks_of(config, plan)
        self._registry = registry
        self._claim = claim
        self._environment = environment
        self._worker = worker
        self._folder = RunFolder(Path(config.run_dir))
        self._events: queue.SimpleQueue[RankEnded | StopOrder] = queue.SimpleQueue()
        self._lease = Lease(config.lease_s)
        self._stopping = Stopping()
        self._started: dict[int, RankProcess] = {}
        self._running: dict[int, RankProcess] = {}
        self._codes: dict[int, int] = {}
        self._ended = threading.Event()
        self._asked = False
        self._before = earlier_state(self._folder, config.run_id, config.node)
        self._began = self._before.began if self._before is not None and self._before.began else time.time()
        self._state = JobState(
            run_id=config.run_id, node=config.node, state="starting", pid=claim.owner.pid,
            generation=config.generation, ranks={},
        )  # fmt: skip

    def request_stop(self, reason: str, grace_s: float = STOP_GRACE_S) -> None:
        """Ask the job to stop. Returns at once; safe in signal handlers and other threads."""
        self._events.put(StopOrder("stopped", reason, grace_s))

    def run(self) -> int:
        """Start the ranks and stay until all have ended. The code to leave with: 0, 130 stopped, else a failure's."""
        with ControlServer(self._folder.control(self._config.node), self._answer) as control:
            try:
                self._publish("starting")
                with (
                    kept_awake(f"run {self._config.run_id}"),
                    figures_of(self._config, self._plan, self._pids, lambda: self._state),
                ):
                    self._run_ranks()
            finally:
                self._end_all()
            code = self._finish()
            # In this order: a run that starts next in the same folder writes a control.json of its own, and those who
            # asked for the stop hear that it is done when the node is free.
            control.withdraw()
            self._registry.release(self._claim)
            self._ended.set()
        return code

    def _pids(self) -> dict[int, int]:
        """The processes of the ranks that run, for another thread."""
        return {rank: process.pid for rank, process in tuple(self._running.items())}

    @property
    @abstractmethod
    def _restarts(self) -> Restarts | RestartsOfEach:
        """What job.json says of restarts."""

    @abstractmethod
    def _run_ranks(self) -> None:
        """Start the ranks, and stay until all have ended and none is to be started again."""

    @abstractmethod
    def _ended_unasked(self, rank: int, code: int) -> None:
        """A rank ended, well or badly, and nobody is stopping them; its return code is noted."""

    def _were_done(self) -> bool:
        """Whether this supervisor took over a training in which nothing is left to do here."""
        results = self._results()
        return bool(self._restarts.count) and len(results) == len(self._plans) and all(r.finished for r in results)

    def _start_all(self) -> None:
        for plan in self._plans:
            self._forget(plan.rank)
        for plan in self._plans:
            if not self._start(plan, f"{self._restarts.said}: {self._restarts.reason}" if self._restarts.count else ""):
                return
        self._record()

    def _forget(self, rank: int) -> None:
        """What it said in an earlier start is no answer of the next one."""
        self._folder.result(self._config.node, rank).unlink(missing_ok=True)
        self._folder.serving(self._config.node, rank).unlink(missing_ok=True)

    def _start(self, plan: RankPlan, why_again: str) -> bool:
        """Start a rank; its log begins with why, if it was started before. False if it cannot be: then all stop."""
        log = self._folder.log(self._config.node, plan.rank)
        if why_again:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as file:
                file.write(f"---- {why_again}\n")
        command = (self._config.python, *self._worker, str(self._node_file), "--rank", str(plan.rank))
        environment = rank_environment(self._environment, plan.threads)
        try:
            process = RankProcess(plan.rank, command, log, environment, self._rank_ended)
        except OSError as error:
            self._cannot_start(plan.rank, error)
            return False
        self._started[plan.rank] = self._running[plan.rank] = process
        _log.info("rank %d started, pid %d, %d thread(s)", plan.rank, process.pid, plan.threads)
        return True

    def _record(self) -> None:
        """Write down who runs now."""
        identities = {rank: process.identity for rank, process in self._started.items()}
        known = {rank: who for rank, who in identities.items() if who is not None}
        self._claim = self._registry.record_ranks(self._claim, known)
        self._publish("running")

    def _cannot_start(self, rank: int, error: OSError) -> None:
        reason = (
            f"cannot start {self._config.python}: {error.strerror}. "
            f"Set `python:` of {self._config.node} in the inventory, or run `ansible-playbook setup.yml`"
        )
        self._codes[rank] = NOT_STARTED
        self._write_failure(rank, NOT_STARTED, reason)
        self._begin_stop(StopOrder("failed", f"rank {rank}: {reason}", STOP_GRACE_S))

    def _waiting(self) -> Collection[int]:
        """Ranks that have ended and are about to be started again, each for itself."""
        return ()

    def _watch(self) -> None:
        """Until no rank runs."""
        while self._running:
            self._watch_on()

    def _watch_on(self) -> None:
        """Wait for the next event, or until there is something to see to."""
        self._look_at_the_lease()
        try:
            event = self._events.get(timeout=self._next_wait_s())
        except queue.Empty:
            self._stopping.enforce(tuple(self._running.values()))
            return
        if isinstance(event, StopOrder):
            self._begin_stop(event)
        else:
            self._note_end(event)

    def _look_at_the_lease(self) -> None:
        if self._lease.out and self._stopping.order is None:
            self._begin_stop(StopOrder("stopped", self._lease.ran_out(), STOP_GRACE_S))

    def _next_wait_s(self) -> float:
        lease = self._lease.remaining_s() if self._stopping.order is None else _LOOK_UP_S
        return max(0.001, min(_LOOK_UP_S, lease, self._stopping.next_step_s()))

    def _begin_stop(self, order: StopOrder) -> None:
        self._asked = self._asked or order.outcome == "stopped"
        if self._stopping.begin(order, tuple(self._running.values())):
            _log.info("stopping: %s", order.reason)

    def _note_end(self, event: RankEnded) -> None:
        rank = event.rank
        self._running.pop(rank, None)
        self._look_at_the_lease()
        _log.info("rank %d ended: %s", rank, describe(event.returncode) if event.returncode else "done")
        code = self._codes[rank] = self._told_code(rank, event.returncode)
        if self._stopping.order is None:
            self._ended_unasked(rank, code)
        self._publish("running")

    def _told_code(self, rank: int, code: int) -> int:
        """The return code that counts. A rank that ended badly gets a result.json that says so if it left none; one
        that had said all it was to say was done, whatever happened to it on its way out. One that was told to stop, and
        lost a peer who was told so too and was quicker, or was killed for being slow, has stopped.
        """
        if code == 0:
            return code
        node, order = self._config.node, self._stopping.order
        result = read_result(self._folder, node, rank)
        if result is None:
            last = last_step(self._folder.metrics(node, rank))
            write_result(self._folder, result_for(rank, node, code, self._ended_by_us(rank, code), last))
        elif result.status != "failed":
            _log.info("rank %d had done its work before", rank)
            return result.exit_code
        elif order is not None and order.outcome == "stopped" and code == PEER_FAILED and not result.root_cause:
            reason = f"{order.reason}; then: {result.reason}"
            stopped = {"status": "stopped", "exit_code": INTERRUPTED, "reason": reason}
            write_result(self._folder, result.model_copy(update=stopped))
            return INTERRUPTED
        return code

    def _ended_by_us(self, rank: int, code: int) -> str:
        """Why the supervisor ended this rank; "" if it died of itself."""
        if rank in self._stopping.forced:
            return self._stopping.forced[rank]
        order = self._stopping.order
        if order is not None and (order.outcome == "stopped" or code >= 0):
            return f"{order.reason}; then it {describe(code)}"
        return ""

    def _end_all(self) -> None:
        """Whatever happened: no rank outlives this. Nothing is left to do here in an ordinary end."""
        for process in self._running.values():
            process.kill()
        for process in self._started.values():
            process.join(STOP_GRACE_S)

    def _results(self) -> list[RankResult]:
        found = [read_result(self._folder, self._config.node, plan.rank) for plan in self._plans]
        return [result for result in found if result is not None]

    def _finish(self) -> int:
        verdict = judge(self._codes, self._results(), self._stopping.order)
        self._publish(verdict.state, verdict.reason)
        _log.info("%s%s", verdict.state, f": {verdict.reason}" if verdict.reason else "")
        return verdict.exit_code

    def _publish(self, state: _State, reason: str = "") -> None:
        self._state = self._new_state(state, reason)
        write_state(self._folder, self._state)

    def _new_state(self, state: _State, reason: str = "") -> JobState:
        ranks = {rank: str(exit_code_of(code)) for rank, code in self._codes.items()}
        ranks |= dict.fromkeys(self._running, "running") | dict.fromkeys(self._waiting(), "restarting")
        known = JobState(
            run_id=self._config.run_id,
            node=self._config.node,
            state=state,
            pid=self._claim.owner.pid,
            generation=self._config.generation,
            ranks=dict(sorted(ranks.items())),
            reason=reason,
            restarts=self._restarts.count,
            restart_reason=self._restarts.reason,
            restart_ours=self._restarts.ours,
            began=self._began,
            seconds=max(0.0, time.time() - self._began),
        )
        return told_by_ranks(self._folder, known)

    def _write_failure(self, rank: int, code: int, reason: str) -> None:
        result = RankResult(
            rank=rank, node=self._config.node, status="failed", exit_code=code, reason=reason, root_cause=True
        )
        write_result(self._folder, result)

    def _rank_ended(self, rank: int, returncode: int) -> None:
        self._events.put(RankEnded(rank, returncode))

    def _answer(self, request: Request) -> Reply:
        """One command of the control link, on the link's thread."""
        if request.command == "renew" or (request.command == "poll" and request.renew):
            self._lease.renew()
        if request.command == "stop":
            grace_s = STOP_GRACE_S if request.grace_s is None else request.grace_s
            self.request_stop(request.reason or "asked to stop", grace_s)
            self._ended.wait(grace_s + 2 * STOP_GRACE_S)
        lease_s = None if self._lease.term_s is None else self._lease.remaining_s()
        return Reply(job=self._state, lease_s=lease_s)
