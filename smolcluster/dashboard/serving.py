"""How a served model is now, from what its API wrote last: about once a second."""

from __future__ import annotations

from smolcluster.dashboard.answers import ServingNow, StageNow
from smolcluster.jobs.watching import Look
from smolcluster.plan.types import ServePlan
from smolcluster.runtime.runfolder import ServingNote


def serving_of(plan: ServePlan, look: Look) -> ServingNow:
    """From serving.json, read here or heard; before there is one, it is starting."""
    note = next((answer.serving for answer in look.nodes.values() if answer and answer.serving is not None), None)
    if note is None:
        return ServingNow(state="starting", stages=[_stage(plan, rank, None) for rank in range(len(plan.stages))])
    return ServingNow(
        state=note.state,
        reason=note.reason,
        active=note.active,
        waiting=note.waiting,
        requests=note.requests,
        failed=note.failed,
        tokens=note.tokens,
        tokens_per_s=note.tokens_per_s,
        urls=note.urls,
        stages=[_stage(plan, rank, note) for rank in range(len(plan.stages))],
    )


def _stage(plan: ServePlan, rank: int, note: ServingNote | None) -> StageNow:
    planned = plan.stages[rank]
    stage = StageNow(rank=rank, node=plan.ranks[rank].node, layers=(planned.start, planned.stop))
    if note is None:
        return stage
    return stage.model_copy(
        update={
            "layers": _layers(note.layers.get(rank)) if note.layers else stage.layers,
            "health": "serving" if note.state == "ready" and rank in note.layers else "recovering",
            "ms_per_token": note.ms_per_token.get(rank),
            "sessions": note.sessions.get(rank),
        }
    )


def _layers(text: str | None) -> tuple[int, int] | None:
    """ "0:10" as what it is."""
    start, colon, stop = (text or "").partition(":")
    return (int(start), int(stop)) if colon and start.isdecimal() and stop.isdecimal() else None
