"""The strategy: a slot of this rank's own steps, the table, the exchange of what came of them, the commit.

A step of the run is a global batch, here as everywhere: a round of ranks that all take H steps is H of them, one of
unequal ranks as many as their samples make. So rates, evaluations and checkpoints follow the samples taken, on all
ranks alike, however many steps each of them took.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.runtime.slices import CARRIED, Slice, fill
from smolcluster.strategies.base import Batch, Feed, LocalWork, LossSum, NotFiniteError, StepResult, Tally, judge
from smolcluster.strategies.diloco.inner import Clock, Work, work
from smolcluster.strategies.diloco.outer import Outer
from smolcluster.strategies.diloco.slots import Conclusion, Row, conclude
from smolcluster.strategies.pieces import Piece, slices_of, whole_slices
from smolcluster.strategies.replica import COMPARE_EVERY, Replica
from smolcluster.strategies.squares import sum_of_squares

# Of checkpoints: what all ranks have alike, and what is this rank's alone.
MOMENTUM = CARRIED + "outer.momentum.{}"
PROGRESS = CARRIED + "outer.progress"
INNER = CARRIED + "inner.{}of{}."


class DiLoCo(Replica):
    """A replica that goes its own way for a slot, and then as far as all of them went on average, and further."""

    sums_gradients = False

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        self.start_with_whole_gradients([(0, self.flat.length)], send=None)
        run = context.run
        self.most_steps = run.outer_every
        self.outer = Outer(self.flat, self.sums, run.outer_lr, run.outer_momentum)
        self.clock: Clock = time.monotonic
        self._batch = context.plan.global_batch
        self._generation = context.generation
        # Rounds, samples of all ranks, and the next slot in seconds: 0 before there is a table, which makes one step.
        self._progress = torch.zeros(3, dtype=torch.float64)
        # Of how many global batches this rank has had its share.
        self._taken = torch.zeros((), dtype=torch.float64)
        self._last_mean: float | None = None

    # -- a round --------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch, lr: float, stop: bool = False) -> StepResult:
        """A round of one step, on this batch."""
        return self.train_round(_OneStep(batch, lr, stop, int(self._progress[1]) // self._batch))

    def train_round(self, feed: Feed) -> StepResult:
        """A slot, the table, the exchange, the commit."""
        self.begin()
        self._catch_up(feed)
        done, slot_s = Work(), float(self._progress[2])
        work(feed, self._own_step, done, int(self._taken), slot_s, self._most_steps(feed), self.clock)
        row = done.row(int(self._progress[0]), self._generation, int(self._taken) + done.steps)
        table = conclude([Row.of(values) for values in self.exchange(row.values())], self.most_steps)
        self.outer.exchange(table.weights[self.rank], self.whole_grads)
        self._require_committed()
        self.outer.commit(self.whole_grads)
        norms = self._layer_norms.agree(1.0, self.exchange)
        steps = self._go_on(table, done, feed)
        comm_s = self.collectives.blocked_s - self._blocked_before_s
        self.last_loss = table.loss
        return StepResult(
            table.loss, table.tokens, table.grad_norm, time.perf_counter() - self._began - comm_s, comm_s, table.stop,
            layer_norms=norms, loss_scale=self.loss_scale.value if self.loss_scale.used else None, steps=steps,
            local=LocalWork(done.steps, done.tokens, slot_s or None),
        )  # fmt: skip

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

    def _require_committed(self) -> None:
        """All ranks have the sum, and it is finite. NotFiniteError, or PeerError: then nobody takes the outer step."""
        shares = [self.flat.shard(self.whole_grads, bucket, self.rank) for bucket in self.flat.buckets]
        try:
            rows = self.exchange([float(self._progress[0]), self.squares(shares)])
        except BaseException:
            self.outer.take_back()
            raise
        if not all(math.isfinite(row[1]) for row in rows):
            self.outer.take_back()
            what = "the average of what the ranks did in a round is not finite, though every loss is"
            raise NotFiniteError(f"{what}: lower outer_lr or training.learning_rate", None)

    # -- how far the run is ---------------------------------------------------------------------------------------

    def _catch_up(self, feed: Feed) -> None:
        """Where the run went on from a checkpoint of another strategy, or of other shares, count from its steps."""
        if int(self._progress[1]) // self._batch != feed.steps:
            self._progress[1] = feed.steps * self._batch
            self._taken.fill_(max(int(self._taken), feed.steps))

    def _most_steps(self, feed: Feed) -> int:
        """H, or what is left of the run if that is less: with so many of all ranks it is at its end."""
        left = feed.total_steps - int(self._progress[1]) // self._batch
        return max(1, min(self.most_steps, left))

    def _go_on(self, table: Conclusion, done: Work, feed: Feed) -> int:
        """Count a round that is committed. How many steps the run got further."""
        self._taken += done.steps
        self._progress += torch.tensor([1.0, float(table.samples), 0.0], dtype=torch.float64)
        self._progress[2] = table.slot_s
        self._steps = int(self._progress[0])
        if self._steps % max(1, COMPARE_EVERY // self.most_steps) == 0:
            self.mend_drift()
            self.outer.begin_at(self.flat.params)
        return min(int(self._progress[1]) // self._batch, feed.total_steps) - feed.steps

    # -- beside the round -----------------------------------------------------------------------------------------

    def named_slices(self) -> Iterator[Slice]:
        """See Replica: of the moments a piece from every rank. Besides the momentum, and all of this rank's moments."""
        yield from super().named_slices()
        yield from self._momentum_slices(self.my_shards())
        yield from self._inner_slices(self.adamw.exp_avg[0], self.adamw.exp_avg_sq[0], self.adamw.steps[0])
        if self.rank == 0:
            yield from whole_slices({PROGRESS: self._progress})

    def held_slices(self) -> Iterator[Slice]:
        """See Replica."""
        yield from super().held_slices()
        yield from self._momentum_slices(None)
        yield from self._inner_slices(self.adamw.exp_avg[0], self.adamw.exp_avg_sq[0], self.adamw.steps[0])
        yield from whole_slices({PROGRESS: self._progress})

    def load_slices(self, slices: Iterable[Slice]) -> None:
        """Take all that lies here. Moments of another world's ranks are those of all alike, as of another strategy."""
        self.sums.forget()
        moments = [self.adamw.exp_avg[0], self.adamw.exp_avg_sq[0], self.adamw.steps[0]]
        own = [torch.zeros_like(tensor) for tensor in moments]
        prefix = INNER.format(self.rank, self.collectives.world_size)
        held = [part for part in self.held_slices() if not part.name.startswith(prefix)]
        untouched = fill([*held, *self._inner_slices(*own)], slices)
        if prefix + "step" not in untouched:
            for tensor, mine in zip(moments, own, strict=True):
                tensor.copy_(mine)
        self.outer.begin_at(self.flat.params)

    def state_bytes(self) -> dict[str, int]:
        """See Replica; the anchor and the momentum are the outer optimizer's."""
        outer = [self.outer.anchor, *([self.outer.momentum] if self.outer.momentum is not None else [])]
        return super().state_bytes() | {"outer": sum(tensor.nbytes for tensor in outer)}

    def _momentum_slices(self, within: list[tuple[int, int]] | None) -> Iterator[Slice]:
        if self.outer.momentum is not None:
            yield from slices_of(self.flat, MOMENTUM, [Piece(0, self.flat.length, self.outer.momentum)], within)

    def _inner_slices(self, mean: torch.Tensor, square: torch.Tensor, steps: torch.Tensor) -> Iterator[Slice]:
        prefix = INNER.format(self.rank, self.collectives.world_size)
        for name, values in (("exp_avg", mean), ("exp_avg_sq", square)):
            yield from slices_of(self.flat, prefix + "{}." + name, [Piece(0, self.flat.length, values)], None)
        yield from whole_slices({prefix + "step": steps, prefix + "taken": self._taken})


class _OneStep:
    """What a round of one step on a given batch is fed with."""

    def __init__(self, batch: Batch, lr: float, stop: bool, steps: int) -> None:
        self.steps = steps
        self.total_steps = steps + 1
        self._batch, self._lr, self._stop = batch, lr, stop

    def take(self, step: int, number: int) -> tuple[Batch, float]:  # noqa: ARG002
        """See Feed."""
        return self._batch, self._lr

    def stop(self) -> bool:
        """See Feed."""
        return self._stop
