"""Layers for those ranks that are left, as plan/stages.py splits them. Pure but for a look at this machine's memory.

Neighbours in the chain talk, so ranks whose machines share no network cannot become neighbours: then one is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from smolcluster.infer.layout import Here, Layout, Place
from smolcluster.models.dense import Precision
from smolcluster.plan.stages import Machine, ModelWeight, split
from smolcluster.plan.types import ServePlan

_MB = 1 << 20


def first_layout(plan: ServePlan) -> Layout:
    """All stages, with the plan's layers."""
    places = tuple(Place(rank=stage.rank, start=stage.start, stop=stage.stop) for stage in plan.stages)
    return Layout(layers=plan.layers, precision=plan.serve.model.precision, places=places)


@dataclass(frozen=True)
class Replanner:
    """A keeper's Replan. `machines[rank]`: its name, and what is known of it; ranks of one machine share its memory.

    `strangers`: pairs of ranks, the lower one first, that cannot talk. All can talk with the head.
    """

    weight: ModelWeight
    precision: Precision
    machines: Mapping[int, Machine]
    strangers: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def of(cls, plan: ServePlan, weight: ModelWeight) -> Replanner:
        """For a plan's stages."""
        machines = {
            stage.rank: Machine(plan.ranks[stage.rank].node, stage.memory_mb, stage.speed) for stage in plan.stages
        }
        strangers = frozenset(
            (low, high) for high in machines for low in machines if low < high and low not in plan.ranks[high].peers
        )
        return cls(weight, plan.serve.model.precision, machines, strangers)

    def __call__(self, there: Mapping[int, Here]) -> Layout:
        """The head, rank 0, and these, or as many as can be a chain. ConfigError: it does not fit into their memory."""
        ranks = self._chain(sorted(there))
        have = {rank: there[rank].memory_mb for rank in ranks[1:]} | {0: psutil.virtual_memory().total // _MB}
        sharing = Counter(self.machines[rank].name for rank in ranks)
        machines = []
        for rank in ranks:
            known = self.machines[rank]
            shared = have[rank] // sharing[known.name] or None
            limits = [limit for limit in (known.memory_mb, shared) if limit is not None]
            machines.append(Machine(known.name, min(limits, default=None), known.speed))
        ranges = split(self.weight, machines)
        places = tuple(
            Place(rank=rank, start=start, stop=stop) for rank, (start, stop) in zip(ranks, ranges, strict=True)
        )
        return Layout(layers=self.weight.layers, precision=self.precision, places=places)

    def _chain(self, ranks: Sequence[int]) -> tuple[int, ...]:
        """The longest chain that begins at the head; of equally long ones the first."""
        best: dict[int, tuple[int, ...]] = {0: (0,)}
        for rank in ranks:
            before = [chain for last, chain in best.items() if (last, rank) not in self.strangers]
            best[rank] = (*max(before, key=len), rank)
        return max(best.values(), key=len)
