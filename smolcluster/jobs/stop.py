"""Stopping a run on this node: through its control link, and by force where that does not answer."""

from __future__ import annotations

import logging
from pathlib import Path

from smolcluster.errors import PeerError
from smolcluster.jobs.control import ask
from smolcluster.jobs.endings import lost_result
from smolcluster.jobs.identity import end, wait_gone
from smolcluster.jobs.registry import Active, Registry
from smolcluster.jobs.state import read_state, write_state
from smolcluster.jobs.tail import last_step
from smolcluster.jobs.types import ACTIVE_STATES, CONTROL_DEADLINE_S, STOP_GRACE_S, JobError, JobMissing
from smolcluster.jobs.verdict import INTERRUPTED
from smolcluster.jobs.wire import Request
from smolcluster.runtime.results import read_result, write_result
from smolcluster.runtime.runfolder import JobState, RunFolder

_log = logging.getLogger("smolcluster.jobs")


def stop_job(run_dir: Path, node: str, reason: str = "asked to stop", grace_s: float = STOP_GRACE_S) -> JobState:
    """Stop the run's ranks on this node and return its last state when everything has ended.

    Ranks get grace_s seconds to end by themselves. A run that has ended already is left as it is. JobMissing if there
    is no such run; JobError if a process of it cannot be ended.
    """
    folder = RunFolder(run_dir.absolute())
    registry = Registry.of_run(run_dir, node)
    active = registry.active_in(run_dir)
    if active is not None and not active.supervised and not registry.withdraw(active):
        # Its supervisor took over just now.
        active = registry.active_in(run_dir)
    if active is not None and active.supervised:
        _stop_supervisor(folder, node, active, Request(command="stop", reason=reason, grace_s=grace_s))
        registry.clear(run_dir)
    try:
        return settle(folder, node, reason if active is not None else "")
    except JobMissing:
        if active is None:
            raise
        # Stopped before it had written anything.
        pid = active.owner.pid
        return JobState(
            run_id=active.run_id, node=node, state="stopped", pid=pid, generation=0, ranks={}, reason=reason
        )


def _stop_supervisor(folder: RunFolder, node: str, active: Active, request: Request) -> None:
    owner = active.owner
    grace_s = STOP_GRACE_S if request.grace_s is None else request.grace_s
    try:
        ask(folder.control(node), request, deadline_s=grace_s + 2 * STOP_GRACE_S + CONTROL_DEADLINE_S)
        gone = wait_gone(owner, CONTROL_DEADLINE_S)
    except PeerError as error:
        _log.warning("%s: %s; ending its supervisor (pid %d)", node, error, owner.pid)
        gone = False
    # SIGTERM is the same request for a supervisor whose link is broken; one that hangs is killed and takes its ranks.
    if not gone and not end(owner, grace_s=2 * STOP_GRACE_S):
        raise JobError(f"{node}: the supervisor of {active.run_id} (pid {owner.pid}) cannot be ended")


def settle(folder: RunFolder, node: str, stopped: str = "") -> JobState:
    """The job's state, made final if its supervisor is dead.

    `stopped` tells why we ended it; "" means that it died of itself, a failure. Ranks that still run are ended.
    """
    registry = Registry.of_run(folder.path, node)
    state = read_state(folder, node)
    if state.state not in ACTIVE_STATES or registry.active_in(folder.path) is not None:
        return state
    registry.clear(folder.path)
    # It may have ended in order between the first look and the second.
    state = read_state(folder, node)
    if state.state not in ACTIVE_STATES or registry.active_in(folder.path) is not None:  # or started again since
        return state
    lost = f"the supervisor on {node} (pid {state.pid}) ended without a word: killed, or the machine restarted"
    ended = str(INTERRUPTED)
    ranks = {rank: ended if code in ("running", "restarting") else code for rank, code in state.ranks.items()}
    update = {
        "state": "stopped" if stopped else "failed",
        "reason": stopped or lost,
        "ranks": ranks,
        "lost": not stopped,
    }
    state = state.model_copy(update=update)
    for rank in state.ranks:
        if read_result(folder, node, rank) is None:
            write_result(folder, lost_result(rank, state, last_step(folder.metrics(node, rank))))
    write_state(folder, state)
    return state
