"""What a step is fed with: the samples and the rate, and what they set off: faults on purpose, the random numbers."""

from __future__ import annotations

import time
from collections.abc import Callable

from smolcluster.runtime.context import RunContext
from smolcluster.runtime.schedule import learning_rate
from smolcluster.runtime.seeding import seed_step
from smolcluster.strategies.base import Batch
from smolcluster.train.prefetch import Prefetch


class LoopFeed:
    """strategies.base.Feed over the loop's batches. Since `begin`: `tokens` that were taken, seconds waited for them.

    `lr` is the rate of the last step.
    """

    def __init__(self, context: RunContext, ahead: Prefetch, total_steps: int, stop: Callable[[], bool]) -> None:
        self.steps = 0
        self.total_steps = total_steps
        self.stop = stop
        self.tokens, self.waited_s, self.lr = 0, 0.0, 0.0
        self._context = context
        self._ahead = ahead
        self._begun: int | None = None

    def begin(self, steps: int) -> None:
        """The run has taken so many steps, and takes another, or several."""
        self.steps = steps
        self.tokens, self.waited_s = 0, 0.0

    def take(self, step: int, number: int) -> tuple[Batch, float]:
        """See Feed. Faults begin at the run's steps, each once, though a rank may come to a step twice, or past it.

        PeerError if the run has failed meanwhile: a rank in the middle of a slot has not talked to anybody for long.
        """
        self._context.wires.check()
        for each in range(step if self._begun is None else self._begun + 1, step + 1):
            self._context.wires.begin_step(each)
            self._begun = each
        run = self._context.run
        seed_step(run.seed, number, self._context.rank)
        asked = time.perf_counter()
        batch = self._ahead.take(number)
        self.waited_s += time.perf_counter() - asked
        self.tokens += sum(y.numel() for _, y in batch)
        self.lr = learning_rate(step, self.total_steps, run.training.learning_rate, run.schedule)
        return batch, self.lr

    def computed(self, seconds: float) -> float:
        """See Feed."""
        return self._context.wires.slowed(seconds, self.stop)
