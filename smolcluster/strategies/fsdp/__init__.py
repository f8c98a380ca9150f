"""ZeRO (Rajbhandari et al., arXiv:1910.02054): data parallelism that does not keep everything on every rank.

stage 0    stage0.py    nothing sharded: gradients averaged, state 4P per rank
stage 1    stage1.py    the optimizer sharded: state 2P + 2P/N per rank, no more bytes on the wire
"""

from __future__ import annotations

from torch import nn

from smolcluster.errors import ConfigError, Problem
from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Strategy
from smolcluster.strategies.fsdp.stage0 import Stage0
from smolcluster.strategies.fsdp.stage1 import Stage1

STAGES: dict[int, type[Stage0] | type[Stage1]] = {0: Stage0, 1: Stage1}


def build(context: RunContext, model: nn.Module) -> Strategy:
    """The stage that the plan names. ConfigError for one that is not built yet."""
    stage = context.run.fsdp_stage
    if stage not in STAGES:
        what = f"stage {stage} is not there yet"
        raise ConfigError([Problem("", 0, "fsdp_stage", what, "use fsdp_stage 0 or 1")])
    return STAGES[stage](context, model)
