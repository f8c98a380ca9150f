"""What a run was that served a model, from what it left in its folder. Pure, as the report of a training."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from smolcluster.observe.profiled import ProfileStory, read_profiled, summarise_profiled
from smolcluster.observe.records import Reader
from smolcluster.observe.report import (
    PEER_FAILED,
    Culprit,
    RankStory,
    RunStory,
    culprit_of,
    ending_of,
    plan_in,
    read_run,
    summarise,
    tail_of,
)
from smolcluster.plan.types import ProfilePlan, ServePlan
from smolcluster.runtime.results import read_serving
from smolcluster.runtime.runfolder import RequestRecord, RunFolder, ServingNote, Summary, run_at


@dataclass(frozen=True)
class ServeStory:
    """The folder of a run that served a model, read. `was_ready`: it answered once. `seconds`: of all starts;
    `note`: what the API said last.
    """

    run_id: str
    plan: ServePlan
    ranks: tuple[RankStory, ...]
    requests: tuple[RequestRecord, ...]
    was_ready: bool
    generation: int
    restarts: int
    seconds: float
    note: ServingNote | None
    culprit: Culprit | None
    notes: tuple[str, ...] = ()


Story = RunStory | ServeStory | ProfileStory


def read_story(path: Path) -> Story:
    """Read a run folder of any kind. InputError if it is none, or of another version."""
    reader = Reader()
    plan = plan_in(path, reader)
    if isinstance(plan, ProfilePlan):
        return read_profiled(path, plan, reader)
    if not isinstance(plan, ServePlan):
        return read_run(path)
    folder = RunFolder(run_at(path))
    ranks = tuple(
        RankStory(
            rank,
            reader.result(folder.result(rank.node, rank.rank)),
            steps=(),
            links=reader.metrics(folder.metrics(rank.node, rank.rank)).links,
        )
        for rank in plan.ranks
    )
    jobs = [reader.job(folder.job_state(node)) for node in dict.fromkeys(rank.node for rank in plan.ranks)]
    found = [job for job in jobs if job is not None]
    results = [rank.result for rank in ranks if rank.result is not None]
    api = plan.ranks[plan.api.rank]
    requests = reader.requests(folder.requests(api.node, api.rank))
    was_ready = folder.was_ready.exists()
    return ServeStory(
        run_id=folder.path.name,
        plan=plan,
        ranks=ranks,
        requests=tuple(sorted(requests, key=lambda request: request.time)),
        was_ready=was_ready,
        generation=max((job.generation for job in found), default=0),
        restarts=sum(job.restarts for job in found),
        # A rank knows of its last start only.
        seconds=max([*(job.seconds for job in found), *(result.seconds for result in results)], default=0.0),
        note=read_serving(folder, api.node, api.rank),
        culprit=culprit_of(folder, needed(plan, ranks, was_ready)) or _never_ready(folder, plan, was_ready),
        notes=tuple(reader.notes),
    )


def needed(plan: ServePlan, ranks: Iterable[RankStory], was_ready: bool) -> tuple[RankStory, ...]:
    """The ranks whose end was the run's: the head and the API; until it answered for the first time all of them."""
    return tuple(rank for rank in ranks if not was_ready or rank.plan.rank in (0, plan.api.rank))


def summarise_story(story: Story) -> Summary:
    """The summary of a run of any kind."""
    if isinstance(story, ProfileStory):
        return summarise_profiled(story)
    if isinstance(story, RunStory):
        return summarise(story)
    results = [rank.result for rank in needed(story.plan, story.ranks, story.was_ready) if rank.result is not None]
    never_ready = story.culprit is not None and not any(result.status == "failed" for result in results)
    status, exit_code, reason = ending_of(story.culprit, [] if never_ready else results)
    tokens = sum(request.completion_tokens for request in story.requests)
    busy_s = busy_seconds(story.requests)
    first = sorted(request.first_s for request in story.requests if request.first_s is not None)
    return Summary(
        run_id=story.run_id,
        kind="inference",
        strategy="inference",
        status=status,
        exit_code=exit_code,
        reason=reason,
        world_size=story.plan.world_size,
        transport="smol",
        tokens=tokens,
        seconds=story.seconds,
        tokens_per_s=tokens / busy_s if busy_s else 0.0,
        params=story.plan.params,
        peak_rss_mb=tuple(rank.result.peak_rss_mb if rank.result else 0.0 for rank in story.ranks),
        restarts=story.restarts,
        generation=story.generation,
        requests=len(story.requests),
        failed=sum(request.failed for request in story.requests),
        first_token_s=statistics.median(first) if first else None,
        first_token_p95_s=first[math.ceil(0.95 * len(first)) - 1] if first else None,
    )


def busy_seconds(requests: Iterable[RequestRecord]) -> float:
    """How long at least one request was under way: the length of the union of their times."""
    total, until = 0.0, -math.inf
    for begin, end in sorted((request.time - request.seconds, request.time) for request in requests):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def _never_ready(folder: RunFolder, plan: ServePlan, was_ready: bool) -> Culprit | None:
    """Why the playbook gave it up before it answered for the first time: no rank failed, the time was over."""
    api, head = plan.ranks[plan.api.rank], plan.ranks[0]
    if was_ready:
        return None
    try:
        note = json.loads(folder.followed(api.node).read_text(encoding="utf-8"))
        failed, reason = note["state"] == "failed", str(note["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Culprit(0, head.node, reason, PEER_FAILED, tail_of(folder.log(head.node, 0))) if failed else None
