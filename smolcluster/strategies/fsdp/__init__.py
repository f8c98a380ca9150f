"""ZeRO (Rajbhandari et al., arXiv:1910.02054): data parallelism that does not keep everything on every rank.

stage 0    stage0.py    nothing sharded: gradients averaged, state 4P per rank
stage 1    stage1.py    the optimizer sharded: state 2P + 2P/N per rank, no more bytes on the wire
stage 2    stage2.py    the gradients too: state P + 3P/N per rank, no more bytes on the wire
stage 3    stage3.py    the parameters too: state 4P/N per rank, half as many bytes again

Bytes are those of float32. What another wire format makes of gradients and parameters is in ../sums.py, ../gathers.py.
Stages 0 to 2 with a `staleness_bound` are one and the same: ../stale.
"""

from __future__ import annotations

from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Strategy
from smolcluster.strategies.fsdp.stage0 import Stage0
from smolcluster.strategies.fsdp.stage1 import Stage1
from smolcluster.strategies.fsdp.stage2 import Stage2
from smolcluster.strategies.fsdp.stage3 import Stage3
from smolcluster.strategies.stale import StaleSynchronous, is_stale

STAGES: tuple[type[Stage0 | Stage1 | Stage2 | Stage3], ...] = (Stage0, Stage1, Stage2, Stage3)


def build(context: RunContext, model: nn.Module) -> Strategy:
    """The stage that the plan names."""
    stage = context.run.fsdp_stage
    if is_stale(context):
        if stage == len(STAGES) - 1:
            raise ValueError("stage 3 takes no staleness_bound: forward and backward would gather different versions")
        return StaleSynchronous(context, model)
    return STAGES[stage](context, model)
