"""How a run is doing on this node: its state, its progress, its failures; and the renewal of its lease."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from smolcluster.errors import PeerError
from smolcluster.jobs.control import ask
from smolcluster.jobs.pieces import Had, read_pieces
from smolcluster.jobs.registry import Registry
from smolcluster.jobs.state import read_state, told_by_ranks
from smolcluster.jobs.stop import settle
from smolcluster.jobs.tail import last_lines, last_step
from smolcluster.jobs.types import ACTIVE_STATES, TAIL_LINES, JobError, JobMissing, PollResult, RankFailure, RunEntry
from smolcluster.jobs.wire import Request
from smolcluster.runtime.results import read_result, read_serving
from smolcluster.runtime.runfolder import JobState, RunFolder, ServingNote
from smolcluster.runtime.tabletnote import TabletNote, read_tablets

# The API's rank writes about every second; on a busy Raspberry Pi with an SD card now and then much later.
SILENT_S = 30.0
_FINE = frozenset({"running", "0", "130"})


def poll_job(run_dir: Path, node: str, renew: bool = True, have: Mapping[str, Had] | None = None) -> PollResult:
    """State, last step of each rank, and failures with the ends of their logs. Cheap: reads only the ends of files.

    `have`: how much of the node's files is where the question came from; what is new comes along. `renew` gives the run
    another term of its lease. A supervisor that is dead is noticed and the state says so.
    JobMissing if there is no such run.
    """
    folder = RunFolder(run_dir.absolute())
    if renew:
        # Before anything is read: a slow disk must not cost the lease. A silent link is no verdict, a supervisor that
        # just ended has closed it; `settle` finds out.
        with contextlib.suppress(PeerError):
            ask(folder.control(node), Request(command="renew"))
    state = told_by_ranks(folder, settle(folder, node))
    steps = {rank: last_step(folder.metrics(node, rank)) for rank in state.ranks}
    progress = {rank: step for rank, step in steps.items() if step is not None}
    return PollResult(
        job=state,
        progress=progress,
        failed=failures(folder, state),
        serving=serving_now(folder, state),
        tablets=_tablets(folder, state),
        pieces=read_pieces(folder.node(node), have) if have is not None else (),
        time=time.time(),
    )


def active_here(run_dir: Path, nodes: Iterable[str]) -> tuple[str, ...]:
    """The nodes whose part of this run a supervisor on this machine is at now. Changes nothing."""
    folder = RunFolder(run_dir.absolute())
    return tuple(node for node in nodes if _is_active(folder, node))


def _is_active(folder: RunFolder, node: str) -> bool:
    if Registry.of_run(folder.path, node).active_in(folder.path) is None:
        return False
    try:
        # One that has ended in order lives for a moment longer.
        return read_state(folder, node).state in ACTIVE_STATES
    except JobMissing:
        return True


def list_runs(workdir: Path) -> tuple[RunEntry, ...]:
    """Every run whose folder is in workdir, by run and node; the active ones are marked."""
    entries = []
    for path in sorted(workdir.absolute().glob("*/nodes/*/job.json")):
        run_dir, node = path.parents[2], path.parent.name
        # `latest` is a link to a run that is listed under its own name.
        if run_dir.is_symlink():
            continue
        with contextlib.suppress(JobError):
            state = settle(RunFolder(run_dir), node)
            active = state.state in ACTIVE_STATES
            lease_s = _lease_left(run_dir, node) if active else None
            entries.append(RunEntry(run_dir=str(run_dir), active=active, lease_s=lease_s, job=state))
    return tuple(entries)


def _lease_left(run_dir: Path, node: str) -> float | None:
    """What is left of a run's lease, without renewing it; None without one, or where its supervisor does not answer."""
    with contextlib.suppress(PeerError):
        return ask(RunFolder(run_dir).control(node), Request(command="poll")).lease_s
    return None


def serving_now(folder: RunFolder, state: JobState) -> ServingNote | None:
    """What the API's rank says, if this node has it; or that it says nothing any more, whatever it said last."""
    for rank, doing in state.ranks.items():
        note = read_serving(folder, state.node, rank)
        if note is None:
            continue
        if state.state not in ACTIVE_STATES:
            return note.model_copy(update={"state": "closed", "active": 0, "waiting": 0, "tokens_per_s": 0.0})
        silent_s = time.time() - note.time
        if doing == "running" and silent_s < SILENT_S:
            return note
        # Not for how long: a reason that changes is told anew.
        silent = f"the API has said nothing for more than {SILENT_S:.0f} s"
        why = silent if doing == "running" else "the API is started again"
        return note.model_copy(update={"state": "lost", "reason": why, "tokens_per_s": 0.0})
    return None


def _tablets(folder: RunFolder, state: JobState) -> tuple[TabletNote, ...]:
    """What ranks that run say of their tablets."""
    return read_tablets(folder, {rank: state.node for rank, doing in state.ranks.items() if doing == "running"})


def failures(folder: RunFolder, state: JobState) -> tuple[RankFailure, ...]:
    """Root causes first. A rank that is about to be started again has not failed for good."""
    found = []
    for rank, code in state.ranks.items():
        if code == "restarting":
            continue
        result = read_result(folder, state.node, rank)
        if result.status != "failed" if result is not None else code in _FINE:
            continue
        found.append(
            RankFailure(
                rank=rank,
                reason=result.reason if result is not None else f"ended with exit code {code}",
                root_cause=result.root_cause if result is not None else False,
                tail=last_lines(folder.log(state.node, rank), TAIL_LINES),
            )
        )
    return tuple(sorted(found, key=lambda failure: (not failure.root_cause, failure.rank)))
