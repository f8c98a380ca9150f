"""Validation: every sample of the split once, shared out over the ranks, weighted by tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from smolcluster.data import Samples
from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import LossSum

# So many batches for every stage of a chain follow each other without a word between all ranks.
FILLED = 4


@dataclass(frozen=True)
class Score:
    """How well the validation split was done. accuracy: the share told right, None of a model that tells no classes."""

    loss: float
    accuracy: float | None


class Evaluates(Protocol):
    """What evaluation needs of a strategy; see Strategy."""

    evaluates_together: bool

    def eval_loss(self, x: Tensor, y: Tensor) -> LossSum:
        """The loss of this rank's batch, without training."""
        ...

    def exchange(self, values: Sequence[float]) -> list[list[float]]:
        """Every rank's few numbers."""
        ...


def evaluate(context: RunContext, strategy: Evaluates, data: Samples, stop: Callable[[], bool]) -> Score | None:
    """The mean loss over all tokens (pictures) of the validation split, the same number on every rank.

    The same for every world size up to rounding: no sample is left out or counted twice. None if somebody asked to stop
    meanwhile, which all ranks learn here.
    """
    count = data.sample_count("val")
    mine, size = np.arange(*_share(context, count, context.rank)), _batch_size(context, context.rank)
    batches = _batches(context, count, context.rank)
    if strategy.evaluates_together:  # as many for everybody, the last ones of some ranks empty
        batches = max(_batches(context, count, rank) for rank in range(context.world_size))
    # Everybody waits for the last when they agree on a stop; between two such moments a chain is filled.
    together = FILLED * context.plan.grid.stages if context.plan.shape == "CHAIN" else 1
    total, stopping = LossSum(0.0, 0), False
    for number in range(batches):
        if number % together == 0:
            stopping = stop()
            if strategy.evaluates_together:
                stopping = any(row[0] for row in strategy.exchange([float(stopping)]))
            if stopping:
                break
        total += strategy.eval_loss(*data.batch("val", mine[number * size : (number + 1) * size]))
    # Counts stay whole numbers: a float64 carries them exactly.
    rows = strategy.exchange([total.loss, float(total.tokens), float(stopping), float(total.right)])
    if any(row[2] for row in rows):
        return None
    elements = math.fsum(row[1] for row in rows)
    classes = data.meta.kind == "images"
    return Score(
        loss=math.fsum(row[0] for row in rows) / elements,
        accuracy=math.fsum(row[3] for row in rows) / elements if classes else None,
    )


def _share(context: RunContext, count: int, rank: int) -> tuple[int, int]:
    """The half-open range of the split's samples that a rank evaluates, or in a chain of stages all of its ranks."""
    number, parts = rank, context.world_size
    if context.plan.shape == "CHAIN":
        number, parts = context.plan.grid.pipeline_of(rank), context.plan.grid.replicas
    return count * number // parts, count * (number + 1) // parts


def _batch_size(context: RunContext, rank: int) -> int:
    """As many samples at once as the rank trains with, or in a chain its first one, which feeds the others."""
    rank = context.plan.grid.feeder_of(rank) if context.plan.shape == "CHAIN" else rank
    return max(1, math.ceil(context.plan.ranks[rank].samples / context.run.training.grad_accumulation))


def _batches(context: RunContext, count: int, rank: int) -> int:
    first, last = _share(context, count, rank)
    return math.ceil((last - first) / _batch_size(context, rank))
