"""What this rank does in a slot: its own steps, with nobody else, until the slot is over.

Its n-th step takes its share of the n-th global batch, which follows from the seed and n alone: ranks never take the
same sample of an epoch, and who is faster goes through its shares faster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass

from smolcluster.strategies.base import Batch, Feed, LossSum
from smolcluster.strategies.diloco.slots import Row, goes_on

Clock = Callable[[], float]
# One step of a rank alone, at that rate: the loss of its samples, and the norm of their mean gradient.
Step = Callable[[Batch, float], tuple[LossSum, float]]


@dataclass
class Work:
    """What was done in a slot so far."""

    steps: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    stop: bool = False

    def add(self, batch: Batch, local: LossSum, norm: float) -> None:
        """Count a step."""
        self.steps += 1
        self.samples += sum(len(y) for _, y in batch)
        self.tokens += local.tokens
        self.loss_sum += local.loss
        self.norm_sum += norm * local.tokens

    def with_more(self, later: Work) -> Work:
        """This and what was done after it, as one."""
        return Work(*(one + more for one, more in zip(astuple(self), astuple(later), strict=True)))

    @property
    def good(self) -> bool:
        """Whether all numbers are finite."""
        return abs(self.loss_sum) < float("inf") and self.norm_sum < float("inf")

    def row(self, number: int, generation: int, taken: int) -> Row:
        """This rank's line of the table."""
        step_s = self.seconds / self.steps if self.steps else 0.0
        return Row(
            number, generation, self.steps, self.samples, self.tokens, step_s, taken,
            self.loss_sum, self.norm_sum, self.stop,
        )  # fmt: skip


def work(feed: Feed, step: Step, done: Work, taken: int, slot_s: float, most_steps: int, clock: Clock) -> None:
    """Take steps until the slot is over, counted in `done`. `taken`: of how many global batches this rank has had its
    share. Who was asked to stop, or whose numbers are not finite, ends its slot at once: the table says so to all.
    """
    before_s, began = done.seconds, clock()
    while done.good and not done.stop and goes_on(done.steps, done.seconds, slot_s, most_steps):
        batch, lr = feed.take(min(feed.steps + done.steps + 1, feed.total_steps), taken + done.steps + 1)
        computing = clock()
        done.add(batch, *step(batch, lr))
        feed.computed(clock() - computing)
        done.seconds = before_s + clock() - began
        done.stop = feed.stop()
