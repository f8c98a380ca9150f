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
    count = data.sample_count("val")
    mine, size = np.arange(*_share(context, count, context.rank)), _batch_size(context, context.rank)
    batches = _batches(context, count, context.rank)
    if strategy.evaluates_together:  # as many for everybody, the last ones of some ranks empty
        batches = max(_batches(context, count, rank) for rank in range(context.world_size))
    loss_sum, tokens, stopping = 0.0, 0, False
    for number in range(batches):
        stopping = stop()
        if strategy.evaluates_together:
            stopping = any(row[0] for row in strategy.exchange([float(stopping)]))
        if stopping:
            break
        part = strategy.eval_loss(*data.batch("val", mine[number * size : (number + 1) * size]))
        loss_sum += part.loss
        tokens += part.tokens
    rows = strategy.exchange([loss_sum, float(tokens), float(stopping)])
    if any(row[2] for row in rows):
        return None
    return math.fsum(row[0] for row in rows) / math.fsum(row[1] for row in rows)


def _share(context: RunContext, count: int, rank: int) -> tuple[int, int]:
    """The half-open range of the split's samples that a rank evaluates."""
    return count * rank // context.world_size, count * (rank + 1) // context.world_size


def _batch_size(context: RunContext, rank: int) -> int:
    """As many samples at once as the rank trains with."""
    return max(1, math.ceil(context.plan.ranks[rank].samples / context.run.training.grad_accumulation))


def _batches(context: RunContext, count: int, rank: int) -> int:
    first, last = _share(context, count, rank)
    return math.ceil((last - first) / _batch_size(context, rank))
