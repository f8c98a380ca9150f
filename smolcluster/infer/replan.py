"""Layers for those ranks that are left, as plan/stages.py splits them. Pure but for a look at this machine's memory.

Neighbours in the chain talk, so ranks whose machines share no network cannot become neighbours: then one is left out.
A tablet has the layers that were exported for it, and no others: they stay its own, or it is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import psutil

from smolcluster.errors import ConfigError, Problem
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
class Fixed:
    """A tablet: what it has, and nothing else."""

    name: str
    layers: tuple[int, int]
    optional: bool


@dataclass(frozen=True)
class Replanner:
    """A keeper's Replan. `machines[rank]`: its name, and what is known of it; ranks of one machine share its memory.

    `strangers`: pairs of ranks, the lower one first, that cannot talk. All can talk with the head. `tablets[rank]`: its
    layers, and whether the others may serve while it is not there.
    """

    weight: ModelWeight
    precision: Precision
    machines: Mapping[int, Machine]
    strangers: frozenset[tuple[int, int]] = frozenset()
    tablets: Mapping[int, Fixed] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: ServePlan, weight: ModelWeight) -> Replanner:
        """For a plan's stages."""
        machines = {
            stage.rank: Machine(
                plan.machine(stage.rank),
                stage.memory_mb,
                stage.speed,
                tablets=len(plan.tablets) if stage.rank == 0 else 0,
            )
            for stage in plan.stages
        }
        strangers = frozenset(
            (low, high) for high in machines for low in machines if low < high and low not in plan.ranks[high].peers
        )
        tablets = {
            stage.rank: Fixed(stage.tablet.node, (stage.start, stage.stop), stage.tablet.optional)
            for stage in plan.stages
            if stage.tablet is not None
        }
        return cls(weight, plan.serve.model.precision, machines, strangers, tablets)

    def __call__(self, there: Mapping[int, Here]) -> Layout:
        """The head, rank 0, and these, or as many as can be a chain. ConfigError: it does not fit into their memory, or
        a tablet is not there that is no optional one.
        """
        absent = [one.name for rank, one in sorted(self.tablets.items()) if rank not in there and not one.optional]
        if absent:
            what = f"{', '.join(absent)} must have its layers"
            raise ConfigError([Problem("", 0, "optional", what, f"-e optional={absent[0]} serves without it")])
        with_tablets = self._around_tablets(there)
        if with_tablets is not None:
            return with_tablets
        return self._laid_out({rank: here for rank, here in there.items() if rank not in self.tablets})

    def _around_tablets(self, there: Mapping[int, Here]) -> Layout | None:
        """The others' layers before, between and after those of the tablets; None where that cannot be."""
        if not any(rank in self.tablets for rank in there):
            return None
        try:
            return self._laid_out(there)
        except ConfigError:
            return None

    def _laid_out(self, there: Mapping[int, Here]) -> Layout:
        ranks = self._chain(sorted(there))
        have = {rank: there[rank].memory_mb for rank in ranks[1:]} | {0: psutil.virtual_memory().total // _MB}
        sharing = Counter(self.machines[rank].name for rank in ranks)
        machines = []
        for rank in ranks:
            known = self.machines[rank]
            tablet = self.tablets.get(rank)
            if tablet is not None:
                machines.append(replace(known, memory_mb=None, fixed=tablet.layers))
                continue
            shared = have[rank] // sharing[known.name] or None
            limits = [limit for limit in (known.memory_mb, shared) if limit is not None]
            machines.append(replace(known, memory_mb=min(limits, default=None)))
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
