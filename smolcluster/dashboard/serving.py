"""How a served model is now, from what its API wrote last: about once a second. How it was, from its summary."""

from __future__ import annotations

from typing import Literal

from smolcluster.dashboard.answers import ServingNow, StageNow
from smolcluster.jobs.watching import Look
from smolcluster.plan.types import ServePlan
from smolcluster.runtime.runfolder import ServingNote, Summary


def serving_of(plan: ServePlan, look: Look, summary: Summary | None) -> ServingNow:
    """From serving.json, read here or heard; before there is one, it is starting. When it is over the summary counts:
    the API's own counts are of its last start.
    """
    note = next((answer.serving for answer in look.nodes.values() if answer and answer.serving is not None), None)
    now = _now(plan, note)
    if not look.over:
        return now
    update: dict[str, object] = {"state": "closed"}
    if summary is not None:
        counts = {"requests": summary.requests or 0, "failed": summary.failed or 0}
        update |= {**counts, "tokens": summary.tokens, "tokens_per_s": summary.tokens_per_s}
    return now.model_copy(update=update)


def _now(plan: ServePlan, note: ServingNote | None) -> ServingNow:
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
            "health": _health(note, rank),
            "ms_per_token": note.ms_per_token.get(rank),
            "sessions": note.sessions.get(rank),
        }
    )


def _health(note: ServingNote, rank: int) -> Literal["serving", "recovering", "unknown"]:
    if note.state == "closed":
        return "unknown"
    return "serving" if note.state == "ready" and rank in note.layers else "recovering"


def _layers(text: str | None) -> tuple[int, int] | None:
    """ "0:10" as what it is."""
    start, colon, stop = (text or "").partition(":")
    return (int(start), int(stop)) if colon and start.isdecimal() and stop.isdecimal() else None
