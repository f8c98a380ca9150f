"""The strategy: a slot of this rank's own steps, the table, the exchange of what came of them, the commit.

A step of the run is a global batch, here as everywhere: a round of ranks that all take H steps is H of them, one of
unequal ranks as many as their samples make. So rates, evaluations and checkpoints follow the samples taken, on all
ranks alike, however many steps each of them took.
"""

from __future__ import annotations

import math
import time

import torch
from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Batch, Feed, LocalWork, LossSum, NotFiniteError, StepResult, Tally, judge
from smolcluster.strategies.diloco.inner import Clock, Work, work
from smolcluster.strategies.diloco.replicas import RoundReplica
from smolcluster.strategies.diloco.slots import Conclusion, Row, conclude
from smolcluster.strategies.pieces import Piece
from smolcluster.strategies.replica import COMPARE_EVERY
from smolcluster.strategies.squares import sum_of_squares


class DiLoCo(RoundReplica):
    """A replica that goes its own way for a slot, and then as far as all of them went on average, and further."""

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        self.most_steps = context.run.outer_every
        self.clock: Clock = time.monotonic
        self._last_mean: float | None = None

    def train_step(self, batch: Batch, lr: float, stop: bool = False) -> StepResult:
        """A round of one step, on this batch."""
        return self.train_round(_OneStep(batch, lr, stop, self.steps))

    def train_round(self, feed: Feed) -> StepResult:
        """A slot, the table, the exchange, the commit. Who was in the middle of one when its group failed goes on."""
        self.begin()
        self.catch_up(feed.steps)
        done, slot_s = self.work, self.slot_s
        self.work_on(feed, done, slot_s)
        table = self.agree_on(done)
        self.outer.contribute(self.outer.anchor, table.weights[self.rank], self.whole_grads)
        self.outer.exchange(self.whole_grads)
        self.ready = table
        self.require_all_have(self.whole_grads)
        self.commit(self.whole_grads, table, done)
        # At once: whatever fails from here on, what lies between anchor and parameters is what nobody has committed.
        self.work = Work()
        self.flat.params.copy_(self.outer.anchor)
        norms = self.compare()
        self.flat.params.copy_(self.outer.anchor)  # it may have been mended
        return self.account(feed, table, done, slot_s, norms)

    def account(
        self, feed: Feed, table: Conclusion, done: Work, slot_s: float, norms: dict[str, float] | None
    ) -> StepResult:
        """What a round was."""
        comm_s = self.collectives.blocked_s - self._blocked_before_s
        self.last_loss = table.loss
        return StepResult(
            table.loss, table.tokens, table.grad_norm, time.perf_counter() - self._began - comm_s, comm_s, table.stop,
            layer_norms=norms, loss_scale=self.loss_scale.value if self.loss_scale.used else None,
            steps=min(self.steps, feed.total_steps) - feed.steps,
            local=LocalWork(done.steps, done.tokens, slot_s or None),
        )  # fmt: skip

    def work_on(self, feed: Feed, done: Work, slot_s: float) -> None:
        """Take this rank's own steps of a slot, counted in `done`."""
        longest = 1 if self.steps < self.warmup else self.most_steps
        # So many of all ranks are the end of the run, if it is that near.
        most = max(1, min(longest, feed.total_steps - self.steps))
        work(feed, self._own_step, done, self.taken, slot_s, most, self.clock)

    def _own_step(self, batch: Batch, lr: float) -> tuple[LossSum, float]:
        """A step of this rank alone: the loss of its samples, and the norm of their mean gradient, before clipping.

        What is not finite is given back as it is, and nothing is updated.
        """
        local = self.accumulate(batch)
        scale = self.loss_scale
        tally = Tally(local.loss, local.tokens, False, sum_of_squares(self.whole_grads))
        try:
            verdict = judge([tally.row()], self.max_norm, scale.factor, scale.skippable)
        except NotFiniteError:
            return local, math.nan
        scale.take(verdict.skip)
        if not verdict.skip:
            self.adamw.step(0, lr, verdict.scale)
        if math.isfinite(verdict.loss):
            self._last_mean = verdict.loss
        elif self._last_mean is not None:  # float16 leaves the step out, and the one before stands for it
            local = LossSum(self._last_mean * local.tokens, local.tokens)
        return local, verdict.grad_norm

    def agree_on(self, done: Work) -> Conclusion:
        """The table of a round, and what follows from it."""
        row = done.row(self.rounds_done, self.generation, self.taken + done.steps)
        rows = [Row.of(values) for values in self.collectives.exchange(row.values())]
        self.most_taken = max(row.taken for row in rows)
        return conclude(rows, self.most_steps)

    def require_all_have(self, total: torch.Tensor) -> None:
        """All ranks have the sum, and it is finite. PeerError if nobody can know: then it is kept.

        NotFiniteError on all ranks, and nobody takes the outer step.
        """
        self._layer_norms.measure(self.flat, [Piece(0, self.flat.length, total)], self.my_shards())
        shares = [self.flat.shard(total, bucket, self.rank) for bucket in self.flat.buckets]
        rows = self.collectives.exchange([math.fsum(map(sum_of_squares, shares))])
        if not all(math.isfinite(row[0]) for row in rows):
            self.ready = None
            self.outer.take_back()
            what = "the average of what the ranks did in a round is not finite, though every loss is"
            raise NotFiniteError(f"{what}: lower outer_lr or training.learning_rate", None)

    def compare(self) -> dict[str, float] | None:
        """After a commit: the norms of its sum by parameter, if they were asked for; now and then all anchors are
        compared, and mended where devices round differently."""
        norms = self._layer_norms.agree(1.0, self.collectives.exchange)
        if self.rounds_done % max(1, COMPARE_EVERY // self.most_steps) == 0:
            self.mend_drift(self.outer.anchor)
        return norms


class _OneStep:
    """What a round of one step on a given batch is fed with."""

    def __init__(self, batch: Batch, lr: float, stop: bool, steps: int) -> None:
        self.steps = steps
        self.total_steps = steps + 1
        self._batch, self._lr, self._stop = batch, lr, stop

    def take(self, step: int, number: int) -> tuple[Batch, float]:  # noqa: ARG002
        """See Feed."""
        return self._batch, self._lr

    def computed(self, seconds: float) -> float:  # noqa: ARG002
        """See Feed."""
        return 0.0

    def stop(self) -> bool:
        """See Feed."""
        return self._stop
