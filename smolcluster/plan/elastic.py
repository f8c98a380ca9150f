"""The plan of a run that goes on without some of its ranks. Pure: the same plan and members give the same bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from smolcluster.errors import ConfigError
from smolcluster.plan.arithmetic import memory_of
from smolcluster.plan.grid import Grid
from smolcluster.plan.pipeline import fewer_stages
from smolcluster.plan.shares import shares
from smolcluster.plan.stages import Machine, Ranges
from smolcluster.plan.types import Plan, RankPlan


def plan_for(plan: Plan, members: Sequence[int]) -> Plan:
    """What is left of a plan when only `members` (its ranks, ascending) take part.

    Ranks are numbered anew in their old order, in the run and on their nodes: every node needs a local rank 0. The
    global batch stays what it was, samples and all: the shares of those who left go to the others in proportion to what
    they have, so that training is the same up to rounding. Where pipelines trained side by side there are as many as
    whole ones can be formed of all who are left, of two stages at least, with even shares. ConfigError where the layers
    of a split model no longer fit into the memory of those who are left.
    """
    if len(members) == plan.world_size:
        return plan
    number = {old: new for new, old in enumerate(members)}
    left = [plan.ranks[old] for old in members]
    stages, replicas = _pipelines(plan, left) if plan.stages else ((), 1)
    if stages:  # in a chain the first feeds the others
        each = iter(shares(plan.global_batch, [1] * replicas))
        parts = tuple(0 if rank % len(stages) else next(each) for rank in range(len(left)))
    else:
        parts = shares(plan.global_batch, [max(rank.samples, 1) for rank in left])
    seats: Counter[str] = Counter()
    ranks = []
    for rank, samples in zip(left, parts, strict=True):
        ranks.append(_renumbered(rank, number, seats[rank.node], samples))
        seats[rank.node] += 1
    nodes = {rank.node for rank in left}
    run = plan.run.model_copy(
        update={
            "participants": tuple(each for each in plan.run.participants if each.node in nodes),
            "replicas": replicas,
        }
    )
    gone = ", ".join(f"rank {rank.rank} ({rank.node})" for rank in plan.ranks if rank.rank not in number)
    return plan.model_copy(
        update={
            "run": run,
            "world_size": len(ranks),
            "ranks": tuple(ranks),
            "stages": stages,
            "replicas": replicas,
            "memory": tuple(memory_of(run, rank.rank, len(ranks), rank.role, plan.wire, stages) for rank in ranks),
            "predicted": None,  # that was of all of them
            "notes": (*plan.notes, f"goes on without {gone}"),
        }
    )


def _pipelines(plan: Plan, left: Sequence[RankPlan]) -> tuple[Ranges, int]:
    """The layers of each stage, and how many pipelines those ranks form."""
    error: ConfigError | None = None
    for replicas in _numbers(plan, len(left)):
        grid = Grid(len(left) // replicas, replicas)
        alike = [[left[rank] for rank in grid.stage(stage)] for stage in range(grid.stages)]
        sizes = [sum(_layers_of(plan, rank) for rank in ranks) for ranks in alike]
        machines = [_as_one(ranks) for ranks in alike]
        try:
            return fewer_stages(plan.run.model_copy(update={"replicas": replicas}), sizes, machines), replicas
        except ConfigError as problem:
            error = error or problem
    assert error is not None, "ranks that were stages are at least as many pipelines of one"
    raise error


def _numbers(plan: Plan, count: int) -> list[int]:
    """How many pipelines so many ranks could form, the best number first: as many as there were, or next to that."""
    whole = [number for number in range(1, count + 1) if count % number == 0]
    able = [n for n in whole if count // n <= plan.stages[-1][1] and n <= plan.global_batch]
    split = [number for number in able if number <= plan.replicas and (count // number > 1 or count == 1)]
    others = [number for number in able if number not in split] if plan.replicas > 1 else []
    return [*reversed(split), *others]


def _layers_of(plan: Plan, rank: RankPlan) -> int:
    start, stop = plan.stages[plan.grid.stage_of(rank.rank)]
    return stop - start


def _as_one(ranks: Sequence[RankPlan]) -> Machine:
    """Replicas hold the same layers: the one with the least memory says how many."""
    known = [rank.memory_mb for rank in ranks if rank.memory_mb is not None]
    return Machine(" and ".join(rank.node for rank in ranks), min(known, default=None))


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
