"""Which machine explains the speed of a run, and why, in words. Pure: from one look at it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median

from smolcluster.dashboard.answers import NodeNow, SlowestAnswer
from smolcluster.dashboard.columns import RECENT
from smolcluster.dashboard.fixed import server_of
from smolcluster.dashboard.seen import Seen
from smolcluster.observe.live import History, NodeView, remarks
from smolcluster.observe.ranks import STRAGGLES
from smolcluster.plan.types import ServePlan
from smolcluster.runtime.metricsfile import StepRecord


def remarks_of(
    seen: Seen, progress: Mapping[int, StepRecord], recent: Mapping[int, Sequence[StepRecord]]
) -> dict[str, tuple[str, str]]:
    """Who explains the run's speed: now, while it runs, and over all of its steps when it is over."""
    if seen.look.over:
        return _held_up(seen)
    server = server_of(seen.plan)
    views, history = {}, History()
    for name, answer in seen.look.nodes.items():
        if name in seen.look.alone:
            continue  # its last step here is that of when it was collected
        mine = {
            rank.rank: progress[rank.rank] for rank in seen.plan.ranks if rank.node == name and rank.rank in progress
        }
        views[name] = NodeView(answer.job if answer is not None else None, mine)
        if mine:
            behind = min(mine, key=lambda rank: (mine[rank].step, rank))
            history.recent[name] = deque(recent.get(behind) or [mine[behind]], maxlen=RECENT)
    server_node = seen.plan.ranks[server].node if server is not None else None
    # Silence is counted by our clock, and records have the time of their machine's.
    ahead = {name: one.clock_offset_s or 0.0 for name, one in seen.followed.items()}
    moved = {
        name: NodeView(
            view.job,
            {
                rank: record.model_copy(update={"time": record.time - ahead.get(name, 0.0)})
                for rank, record in view.progress.items()
            },
        )
        for name, view in views.items()
    }
    return remarks(moved, history, seen.now, server_node)


def _held_up(seen: Seen) -> dict[str, tuple[str, str]]:
    """The rank that held up the others over the whole run by computing longer, as report.html says it."""
    plan, server = seen.plan, server_of(seen.plan)
    if isinstance(plan, ServePlan) or plan.stages:
        return {}
    taking = [one for one in seen.ranks if one.columns.count and one.rank != server]
    if len(taking) < 2 or bool((taking[0].columns.column("inner_steps") != 1).any()):
        return {}
    times = {one.rank: float(one.columns.column("compute_s").mean()) for one in taking}
    last = max(taking, key=lambda one: times[one.rank])
    others = median(seconds for rank, seconds in times.items() if rank != last.rank)
    if not others or times[last.rank] / others < STRAGGLES:
        return {}
    why = f"{last.node} was the slowest: it computed {times[last.rank] / others:.1f} times as long as the others"
    return {last.node: ("slowest", why)}


def slowest_of(nodes: Sequence[NodeNow]) -> SlowestAnswer | None:
    """Who holds up the others: a node that stands still before one that computes longer."""
    telling = [node for node in nodes if node.why and node.remark in ("no step", "slowest")]
    first = min(telling, key=lambda node: node.remark != "no step", default=None)
    return SlowestAnswer(node=first.node, why=first.why) if first is not None else None
