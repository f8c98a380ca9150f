"""GET /dashboard/state: how a run is now. Pure: from a look at its nodes and the columns of its ranks to the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from smolcluster.dashboard.answers import NodeNow, NodeState, StateAnswer
from smolcluster.dashboard.figures import finite, least_wait, links_now, number_of, rank_now, together
from smolcluster.dashboard.fixed import server_of
from smolcluster.dashboard.seen import Followed, Seen
from smolcluster.dashboard.series import ranks_mb
from smolcluster.dashboard.slowest import remarks_of, slowest_of
from smolcluster.jobs.types import ACTIVE_STATES, PollResult
from smolcluster.runtime.metricsfile import StepRecord

# A playbook asks a node about every three seconds; of one that was silent for so long it is said.
SILENT_S = 15.0
# How fast a run goes is what its last so many steps took.
PACE_STEPS = 50


def state_answer(seen: Seen) -> StateAnswer:
    """The whole answer."""
    progress = _last_steps(seen)
    nodes = _nodes(seen, progress)
    state, reason = _state(seen, nodes)
    last = min((record for record in progress.values()), key=lambda record: record.step, default=None)
    jobs = [answer.job for answer in seen.look.nodes.values() if answer is not None]
    answer = StateAnswer(
        cursor="",
        time=seen.now,
        state=state,
        reason=reason,
        over=seen.look.over,
        data=seen.data,
        generation=max((job.generation for job in jobs), default=0),
        restarts=max((job.restarts for job in jobs), default=0),
        elapsed_s=_elapsed(seen),
        nodes=nodes,
        links=links_now(seen.ranks),
        serving=seen.serving,
        notes=seen.notes,
    )
    if last is not None:
        counted = _counted(seen)
        speeds = [record.tokens_per_s for rank, record in progress.items() if rank in counted]
        update = {
            "step": last.step,
            "total_steps": last.total_steps,
            "progress": min(1.0, last.step / last.total_steps) if last.total_steps > 0 else None,
            "eta_s": None if seen.look.over else _left(seen, last),
            "loss": finite(last.loss),
            "val_loss": _last_validation(seen),
            "tokens_per_s": 0.0 if seen.look.over else sum(speeds),
        }
        answer = answer.model_copy(update=update)
    elif seen.serving is not None:
        answer = answer.model_copy(update={"tokens_per_s": seen.serving.tokens_per_s})
    answer = answer.model_copy(update={"slowest": slowest_of(nodes)})
    return answer.model_copy(update={"cursor": _cursor(answer)})


def _last_steps(seen: Seen) -> dict[int, StepRecord]:
    """The newest step of each rank, whoever told of it first: its metrics here, or its node."""
    found: dict[int, StepRecord] = {}
    for one in seen.ranks:
        recent = one.columns.recent
        if recent:
            found[one.rank] = recent[-1]
    for answer in seen.look.nodes.values():
        for rank, record in answer.progress.items() if answer is not None else ():
            if rank not in found or record.time > found[rank].time:
                found[rank] = record
    return found


def _counted(seen: Seen) -> set[int]:
    server = server_of(seen.plan)
    return {rank.rank for rank in seen.plan.ranks} if server is None else {server}


def _nodes(seen: Seen, progress: Mapping[int, StepRecord]) -> list[NodeNow]:
    recent = {one.rank: one.columns.recent for one in seen.ranks}
    for rank, record in progress.items():
        if not recent.get(rank):
            recent[rank] = [record]
    least = least_wait([records for rank, records in recent.items() if rank in _counted(seen) and records])
    machines = {name: columns.machine[-1].values for name, columns in seen.machines.items() if columns.machine}
    said = remarks_of(seen, progress, recent)
    nodes = []
    for name, answer in seen.look.nodes.items():
        ranks = [rank.rank for rank in seen.plan.ranks if rank.node == name]
        mine = [rank_now(rank, answer, progress.get(rank), recent.get(rank, []), least) for rank in ranks]
        followed = seen.followed.get(name, Followed())
        state, reason = _node_state(answer, followed, seen.look.over, name in seen.look.alone)
        steps = [rank.steps for rank in mine if rank.steps is not None]
        word, why = said.get(name, ("", ""))
        job = answer.job if answer is not None else None
        machine = machines.get(name, {})
        nodes.append(
            NodeNow(
                node=name,
                state=state,
                reason=reason,
                restarts=job.restarts if job is not None else 0,
                restart_reason=job.restart_reason if job is not None else "",
                generation=job.generation if job is not None else 0,
                heard_s=followed.heard_s,
                clock_offset_s=followed.clock_offset_s,
                step=min((rank.step for rank in mine if rank.step is not None), default=None),
                steps=together(steps) if steps else None,
                remark=word,
                why=why,
                memory_mb=ranks_mb(machine),
                memory_free_mb=number_of(machine, "memory_free_mb"),
                cpu_percent=share * 100 if (share := number_of(machine, "cpu")) is not None else None,
                temperature_c=number_of(machine, "temperature_c"),
                throttled=machine.get("throttled") if isinstance(machine.get("throttled"), str) else None,
                ranks=mine,
            )
        )
    return nodes


def _node_state(answer: PollResult | None, followed: Followed, over: bool, alone: bool) -> tuple[NodeState, str]:
    if followed.state == "lost":
        return "lost", followed.reason
    if alone:
        return (answer.job.state, answer.job.reason) if answer is not None else ("unknown", "")
    if answer is None:
        return "unknown", followed.reason or ("" if not over else "it has left nothing here")
    job = answer.job
    # The words of a rank that failed of itself say more than that a rank failed.
    cause = next((f"rank {each.rank}: {each.reason}" for each in answer.failed if each.root_cause), "")
    if job.lost:
        return "lost", job.reason
    if job.state in ACTIVE_STATES and not over and followed.heard_s is not None and followed.heard_s > SILENT_S:
        return "lost", f"nothing was heard of it for {followed.heard_s:.0f} s"
    if job.state in ACTIVE_STATES and over:
        return "unknown", "nobody is at it any more, and how it ended is not known here"
    return job.state, cause or job.reason


def _state(seen: Seen, nodes: Sequence[NodeNow]) -> tuple[str, str]:
    """Of the whole run. Its summary has the last word, once it is over."""
    if seen.look.over and seen.summary is not None:
        return seen.summary.status, seen.summary.reason
    states = [node.state for node in nodes]
    bad = [node for node in nodes if node.state in ("failed", "lost")]
    # Who failed of itself comes before those that only lost a peer.
    causes = {
        name
        for name, answer in seen.look.nodes.items()
        if answer is not None and (answer.job.lost or any(each.root_cause for each in answer.failed))
    }
    worst = min(bad, key=lambda node: node.node not in causes, default=None)
    why = f"{worst.node}: {worst.reason}" if worst is not None and worst.reason else ""
    if seen.serving is not None and not seen.look.over:
        serving = {"starting": "starting", "ready": "running", "lost": "restarting", "closed": "stopped"}
        return serving[seen.serving.state], seen.serving.reason or why
    if not seen.look.over:
        if "restarting" in states:
            return "restarting", next((node.restart_reason for node in nodes if node.restart_reason), why)
        begun = bool({"running", "failed", "completed", "lost"} & set(states)) or len(seen.look.alone) == len(nodes)
        return ("running" if begun else "starting"), why
    for state in ("failed", "stopped", "lost"):
        if state in states:
            return state, why
    return ("completed" if set(states) == {"completed"} else "lost"), why


def _left(seen: Seen, last: StepRecord) -> float | None:
    """Seconds until the last step at the pace of the last steps of the rank that is furthest behind."""
    mine = [one.columns for one in seen.ranks if one.columns.count and one.columns.recent[-1:] == [last]]
    pace = last.step_s / last.own_steps
    if mine and mine[0].count > 1:
        steps, times = mine[0].column("step")[-PACE_STEPS:], mine[0].column("time")[-PACE_STEPS:]
        if steps[-1] > steps[0] and times[-1] > times[0]:
            pace = float((times[-1] - times[0]) / (steps[-1] - steps[0]))
    return max(0, last.total_steps - last.step) * pace


def _elapsed(seen: Seen) -> float | None:
    if seen.summary is not None and seen.look.over and seen.summary.seconds:
        return seen.summary.seconds
    if seen.started is None:
        return None
    ends = [float(one.columns.column("time")[-1]) for one in seen.ranks if one.columns.count]
    return max(0.0, (max(ends, default=seen.started) if seen.look.over else seen.now) - seen.started)


def _last_validation(seen: Seen) -> float | None:
    for one in sorted(seen.ranks, key=lambda one: -one.columns.count):
        losses = one.columns.column("val_loss")
        known = losses[losses == losses]
        if len(known):
            return float(known[-1])
    return None


def _cursor(answer: StateAnswer) -> str:
    """The same as long as nothing but the time has changed."""
    passing: dict[str, Any] = {"time": True, "elapsed_s": True, "eta_s": True, "nodes": {"__all__": {"heard_s"}}}
    return hashlib.sha256(answer.model_dump_json(exclude=passing).encode()).hexdigest()[:24]
