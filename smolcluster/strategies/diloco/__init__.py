"""DiLoCo (arXiv:2311.08105) with time slots: local AdamW steps, and seldom one exchange of what came of them.

slots.py     how long a round lasts, what everybody concludes from its table: pure
outer.py     the anchor, Nesterov's momentum, the exchange
inner.py     this rank's own steps of a slot
survivors.py who goes on with what when a rank was lost
rounds.py    the strategy: slot, table, exchange, commit
overlap.py   the same with the exchange under way during the next slot
replicas.py  what a replica of it holds: its state by name, and from one group of ranks to the next
"""

from __future__ import annotations

from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Strategy
from smolcluster.strategies.diloco.overlap import Overlapped
from smolcluster.strategies.diloco.rounds import DiLoCo


def build(context: RunContext, model: nn.Module) -> Strategy:
    """The strategy for this rank."""
    return (Overlapped if context.run.outer_overlap else DiLoCo)(context, model)
