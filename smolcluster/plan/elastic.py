"""The plan of a run that goes on without some of its ranks. Pure: the same plan and members give the same bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from smolcluster.plan.arithmetic import memory_of
from smolcluster.plan.pipeline import fewer_stages
from smolcluster.plan.shares import shares
from smolcluster.plan.stages import Machine, Ranges
from smolcluster.plan.types import Plan, RankPlan


def plan_for(plan: Plan, members: Sequence[int]) -> Plan:
    """What is left of a plan when only `members` (its ranks, ascending) take part.

    Ranks are numbered anew in their old order, in the run and on their nodes: every node needs a local rank 0. The
    global batch stays what it was, samples and all: the shares of those who left go to the others in proportion to what
    they have, so that training is the same up to rounding. ConfigError where the layers of a split model no longer fit
    into the memory of those who are left.
    """
    if len(members) == plan.world_size:
        return plan
    number = {old: new for new, old in enumerate(members)}
    left = [plan.ranks[old] for old in members]
    stages: Ranges = ()
    if plan.stages:
        machines = [Machine(rank.node, rank.memory_mb) for rank in left]
        stages = fewer_stages(plan.run, plan.stages, members, machines)
    # In a chain the first feeds everybody.
    parts = shares(plan.global_batch, [max(rank.samples, 1) for rank in left])
    if stages:
        parts = (plan.global_batch, *(0 for _ in left[1:]))
    seats: Counter[str] = Counter()
    ranks = []
    for rank, samples in zip(left, parts, strict=True):
        ranks.append(_renumbered(rank, number, seats[rank.node], samples))
        seats[rank.node] += 1
    nodes = {rank.node for rank in left}
    gone = ", ".join(f"rank {rank.rank} ({rank.node})" for rank in plan.ranks if rank.rank not in number)
    return plan.model_copy(
        update={
            "run": plan.run.model_copy(
                update={"participants": tuple(each for each in plan.run.participants if each.node in nodes)}
            ),
            "world_size": len(ranks),
            "ranks": tuple(ranks),
            "stages": stages,
            "memory": tuple(memory_of(plan.run, rank.rank, len(ranks), rank.role, plan.wire, stages) for rank in ranks),
            "notes": (*plan.notes, f"goes on without {gone}"),
        }
    )


def _renumbered(rank: RankPlan, number: dict[int, int], local_rank: int, samples: int) -> RankPlan:
    return rank.model_copy(
        update={
            "rank": number[rank.rank],
            "local_rank": local_rank,
            "peers": {number[peer]: host for peer, host in rank.peers.items() if peer in number},
            "encrypt": {number[peer]: said for peer, said in rank.encrypt.items() if peer in number},
            "samples": samples,
        }
    )
