"""Model parallel: layers on different ranks, micro-batches passing them one after the other.

schedule.py   in which order a stage computes its micro-batches
hops.py       tensors between neighbouring stages
catalogue.py  which parameters lie where
stage.py      the strategy
"""

from __future__ import annotations

from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Strategy
from smolcluster.strategies.mp.stage import ModelParallel


def build(context: RunContext, model: nn.Module) -> Strategy:
    """The strategy for this rank; `model` is its part of the model (models.build_stage)."""
    return ModelParallel(context, model)
