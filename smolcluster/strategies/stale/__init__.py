"""Bounded staleness, for classicdp and the stages of fsdp whose ranks hold all parameters: `staleness_bound` above 0.

replica.py    a rank: its steps, its fences
owner.py      a rank's shard, and who may have it when. Pure
messages.py   what ranks send each other
post.py       how that travels
travel.py     gradients and shards in the wire format
"""

from __future__ import annotations

from smolcluster.runtime.context import RunContext
from smolcluster.strategies.stale.replica import StaleSynchronous

__all__ = ["StaleSynchronous", "is_stale"]


def is_stale(context: RunContext) -> bool:
    """Whether ranks of this run may be steps apart: one alone never is."""
    return context.run.staleness_bound > 0 and context.world_size > 1
