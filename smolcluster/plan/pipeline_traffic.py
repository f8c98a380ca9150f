"""What a step of pipelines side by side moves over which wires, and how long that takes. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from smolcluster.plan.arithmetic import FLOAT32_BYTES, stage_params
from smolcluster.plan.grid import Grid
from smolcluster.plan.stages import Ranges
from smolcluster.plan.traffic import hidden_bytes, tied_bytes
from smolcluster.spec.pipeline import layers_of
from smolcluster.spec.run import RunSpec

# Mbit/s of the way between two machines; 0 where there is none.
Mbps = Callable[[str, str], float]
_BITS = 8 / 1e6  # of a byte, in megabits


@dataclass(frozen=True)
class Traffic:
    """Bytes of a step one way over one wire: `hidden` within a pipeline, at most, `gradients` from a replica, at most.

    `seconds` on the wires as they are, if nothing hides anything; `total_s`: the same of all wires together.
    """

    hidden: int
    gradients: int
    seconds: float
    total_s: float


def traffic_of(run: RunSpec, nodes: Sequence[str], stages: Ranges, samples: Sequence[int], mbps: Mbps) -> Traffic:
    """Of ranks on those `nodes`; `samples` are each pipeline's.

    Each kind lasts as long as on its slowest wire, and they follow each other: a ring waits for a backward.
    """
    grid, layers = Grid(len(stages), len(samples)), layers_of(run.model)

    def slowness(one: int, other: int) -> float:
        """Seconds that a byte takes between two ranks; none within a machine, whose memory is no wire."""
        if nodes[one] == nodes[other]:
            return 0.0
        speed = mbps(nodes[one], nodes[other])
        return _BITS / speed if speed else math.inf

    hidden = [hidden_bytes(run, count) for count in samples]
    weights = [FLOAT32_BYTES * stage_params(run.model, stage, layers) for stage in stages]
    sums = [2 * (grid.replicas - 1) * size // grid.replicas for size in weights]
    pipelines = [grid.pipeline(number) for number in range(grid.replicas)]
    hops = [
        size * slowness(one, other)
        for size, ranks in zip(hidden, pipelines, strict=True)
        for one, other in pairwise(ranks)
    ]
    rings = [
        size * slowness(one, other) for number, size in enumerate(sums) for one, other in _ring(grid.stage(number))
    ]
    tied = tied_bytes(run) if grid.stages > 1 else 0
    ties = [tied * slowness(ranks[0], ranks[-1]) for ranks in pipelines] if tied else []
    kinds = (hops, rings, ties)
    seconds = math.fsum(max(kind, default=0.0) for kind in kinds)
    return Traffic(max(hidden), max(sums), seconds, math.fsum(math.fsum(kind) for kind in kinds))


def _ring(ranks: Sequence[int]) -> list[tuple[int, int]]:
    return [(rank, ranks[(at + 1) % len(ranks)]) for at, rank in enumerate(ranks)] if len(ranks) > 1 else []
