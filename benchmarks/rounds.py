"""diloco fed step by step, as the contestants that talk in every step are: a round begins when it has all its steps."""

from __future__ import annotations

import torch

from smolcluster.strategies.base import Batch
from smolcluster.strategies.diloco.rounds import DiLoCo


class Rounds:
    """strategies.base.Feed over the last `every` batches. Ranks here are equal, so every slot has all its steps.

    While diloco warms up, those batches are as many rounds.
    """

    def __init__(self, strategy: DiLoCo, every: int, rate: float) -> None:
        self.steps, self.total_steps = 0, 1 << 40
        self._strategy, self._every, self._rate = strategy, every, rate
        self._batches: list[Batch] = []
        self._next = 0
        # Time stands still: a slot ends by its number of steps alone.
        strategy.clock = lambda: 0.0

    def step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Keep a batch; with the last of a round, take the round."""
        self._batches.append([(x, y)])
        if len(self._batches) == self._every:
            self._next = 0
            while self._next < self._every:
                self.steps += self._strategy.train_round(self).steps
            self._batches.clear()

    def take(self, step: int, number: int) -> tuple[Batch, float]:  # noqa: ARG002
        """See Feed."""
        self._next += 1
        return self._batches[self._next - 1], self._rate

    def computed(self, seconds: float) -> float:  # noqa: ARG002
        """See Feed."""
        return 0.0

    def stop(self) -> bool:
        """See Feed."""
        return False
