"""A rank of a star as its model sees it: alone. No collective is ever called; what travels goes by letter."""

from __future__ import annotations

from dataclasses import replace

from smolcluster.runtime.context import RunContext


def solo(context: RunContext) -> RunContext:
    """The context of a run of one rank, this one, under the number 0; its files stay where they are.

    It computes as many samples at once as the largest worker trains with: the server computes only to evaluate.
    """
    plan = context.plan
    samples = context.me.samples or max(rank.samples for rank in plan.ranks)
    me = context.me.model_copy(update={"rank": 0, "local_rank": 0, "peers": {}, "encrypt": {}, "samples": samples})
    alone = plan.model_copy(update={"world_size": 1, "ranks": (me,), "memory": (plan.memory[context.rank],)})
    return replace(context, plan=alone, me=me, home=context.seat, peers=tuple(rank.node for rank in plan.ranks))
