"""Validation: every sample of the split once, shared out over the ranks, weighted by tokens."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from smolcluster.data import TokenFolder
from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Strategy


def evaluate(context: RunContext, strategy: Strategy, data: TokenFolder, stop: Callable[[], bool]) -> float | None:
    """The mean loss over all tokens of the validation split, the same number on every rank.

    The same for every world size up to rounding: no sample is left out or counted twice. None if somebody asked to stop
    meanwhile, which all ranks learn here.
    """
    count, world = data.sample_count("val"), context.world_size
    mine = np.arange(count * context.rank // world, count * (context.rank + 1) // world)
    size = max(1, math.ceil(context.me.samples / context.run.training.grad_accumulation))
    loss_sum, tokens, stopping = 0.0, 0, False
    for start in range(0, len(mine), size):
        stopping = stop()
        if stopping:
            break
        part = strategy.eval_loss(*data.batch("val", mine[start : start + size]))
        loss_sum += part.loss
        tokens += part.tokens
    rows = strategy.exchange([loss_sum, float(tokens), float(stopping)])
    if any(row[2] for row in rows):
        return None
    return math.fsum(row[0] for row in rows) / math.fsum(row[1] for row in rows)
