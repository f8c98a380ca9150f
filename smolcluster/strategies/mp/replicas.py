"""The replicas of a stage: ranks of different pipelines that hold the same layers, and average their gradients.

Each stage has a group of its own for that, so its sums travel while other stages still compute.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from smolcluster.plan.grid import Grid
from smolcluster.runtime.device import Collectives


def open_replicas(grid: Grid, rank: int, device: torch.device) -> Collectives:
    """The collectives of this rank with its replicas, in the order of their pipelines. All ranks must call it."""
    if grid.replicas == 1:
        return Collectives(0, 1, device)
    # c10d counts the groups of a process: all ranks go through all of them, in the same order.
    groups = [dist.new_group(list(grid.stage(stage))) for stage in range(grid.stages)]
    return Collectives(grid.pipeline_of(rank), grid.replicas, device, group=groups[grid.stage_of(rank)])
