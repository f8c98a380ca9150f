"""The only training loop: which samples, at what rate, how often to look. How ranks step together is the strategy's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from smolcluster.data import Samples, step_indices, steps_per_epoch
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.metricsfile import GradientRecord, StepRecord
from smolcluster.runtime.scores import validation_text
from smolcluster.strategies.base import Batch, Fences, StepResult, Strategy, TakesRounds
from smolcluster.train.account import Account
from smolcluster.train.evaluate import evaluate
from smolcluster.train.feed import LoopFeed
from smolcluster.train.keeping import Keeper, falls_in
from smolcluster.train.prefetch import Prefetch

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 2.0


def share_of(context: RunContext, data: Samples, step: int) -> Batch:
    """A rank's contiguous share of the step's global batch, in micro-batches as even as they can be.

    In a chain of stages every rank's share is that of its first one, which is all of it where there is one chain.
    """
    ranks = context.plan.ranks
    feeder = context.plan.grid.feeder_of(context.rank) if context.plan.shape == "CHAIN" else context.rank
    first = sum(rank.samples for rank in ranks[:feeder])
    indices = step_indices(data.sample_count("train"), context.plan.global_batch, context.run.seed, step - 1)
    mine = indices[first : first + ranks[feeder].samples]
    if not len(mine):
        return []
    x, y = data.batch("train", mine)
    parts = min(context.run.training.grad_accumulation, len(mine))
    return list(zip(x.tensor_split(parts), y.tensor_split(parts), strict=True))


class Loop:
    """One run's steps on this rank. `stop` answers whether this rank was asked to end; all end after the same step."""

    def __init__(
        self,
        context: RunContext,
        strategy: Strategy,
        data: Samples,
        metrics: MetricsWriter,
        account: Account,
        stop: Callable[[], bool],
        keeper: Keeper | None = None,
    ) -> None:
        self.account = account
        self._keeper = keeper
        self._context = context
        self._strategy = strategy
        self._data = data
        self._metrics = metrics
        self._stop = stop
        self._training = context.run.training
        self._batch = context.plan.global_batch
        self._stages = len(context.plan.stages)
        self.total_steps = self._training.max_steps or self._training.epochs * steps_per_epoch(
            data.sample_count("train"), self._batch
        )
        # Whose ranks go their own ways takes more shares than there are steps, if it is faster than the others.
        rounds = isinstance(strategy, TakesRounds)
        last = self.total_steps * self._batch // max(1, context.me.samples) if rounds else self.total_steps
        self._ahead = Prefetch(lambda step: share_of(context, data, step), last)
        self._feed = LoopFeed(context, self._ahead, self.total_steps, stop)
        self._began = time.monotonic()
        self._said = 0.0
        self._first_step = account.steps
        self._measured: int | None = None  # the step of account.val_loss

    def run(self) -> None:
        """Train to the end, or to the step at which somebody's wish to stop is known to all.

        NotFiniteError or PeerError end it early; `account` then holds what was done until there.
        """
        self._began = time.monotonic()
        before_s = self.account.seconds
        try:
            if self.account.val_loss is None:  # a resumed run knows it
                self._evaluate()
                self.account.val_loss_first = self.account.val_loss
            while self.account.steps < self.total_steps and not self.account.stopped:
                first = self.account.steps + 1
                self._step(first)
                self.account.seconds = before_s + time.monotonic() - self._began
                self._keep(first)
            if self._keeper is not None:
                self._keeper.finish()
        finally:
            self._ahead.close()
            self.account.seconds = before_s + time.monotonic() - self._began

    def _keep(self, first: int) -> None:
        """Save the state after the steps from `first` on, if it is time to."""
        ended = self.account.stopped or self.account.steps == self.total_steps
        if self._keeper is not None and self._keeper.due(first, self.account.steps, ended):
            measured = self._measured == self.account.steps
            self._keeper.save(self.account, self.total_steps, self._epoch(self.account.steps), measured)

    def _epoch(self, steps: int) -> int:
        return steps // steps_per_epoch(self._data.sample_count("train"), self._batch)

    def _step(self, first: int) -> None:
        """A step, or with a strategy that takes rounds the steps from `first` on that a round is."""
        began = time.perf_counter()
        before = self._context.wires.counters()
        if self._training.track_gradients and (self._due(first, first) or isinstance(self._strategy, TakesRounds)):
            self._strategy.ask_layer_norms()
        feed = self._feed
        feed.begin(first - 1)
        if isinstance(self._strategy, TakesRounds):
            result, slowed_s = self._strategy.train_round(feed), 0.0
        else:
            result = self._strategy.train_step(*feed.take(first, first), stop=self._stop())
            slowed_s = feed.computed(result.compute_s)
            if isinstance(self._strategy, Fences) and self._rests_after(first, result.stop):
                result = self._strategy.fence(result)
        seconds = time.perf_counter() - began
        after = self._context.wires.counters()
        local, waited, lr = result.local, feed.waited_s, feed.lr
        compute_s = result.compute_s + slowed_s
        # Of a batch that passes all stages the first one's are counted.
        tokens = (feed.tokens if self._context.me.samples else 0) if local is None else local.tokens
        step = first - 1 + result.steps
        due = self._due(first, step)
        self._take(step, result, tokens)
        fresh = self._evaluate() if due and not self.account.stopped else False
        self._metrics.write(
            StepRecord(
                step=step,
                time=time.time(),
                loss=result.loss,
                lr=lr,
                tokens=tokens,
                tokens_per_s=tokens / seconds,
                grad_norm=result.grad_norm,
                step_s=seconds,
                compute_s=compute_s,
                comm_s=result.comm_s,
                bytes_out=after.bytes_out - before.bytes_out,
                bytes_in=after.bytes_in - before.bytes_in,
                staleness=result.staleness,
                lags=result.lags or None,
                applied=result.applied,
                val_loss=self.account.val_loss if fresh else None,
                loss_scale=result.loss_scale,
                skipped=result.skipped or None,
                val_accuracy=self.account.val_accuracy if fresh else None,
                data_s=waited,
                counts=self._data.counts,
                total_steps=self.total_steps,
                inner_steps=local.steps if local is not None else None,
                slot_s=local.slot_s if local is not None else None,
                idle_share=result.comm_s / (compute_s + result.comm_s) if self._stages > 1 else None,
            )
        )
        if result.layer_norms is not None and due and self._context.rank == 0:  # they are the same on every rank
            self._metrics.write(GradientRecord(step=step, time=time.time(), norms=dict(result.layer_norms)))
        self._look_at_links(first, step)
        self._say(step, result.loss, tokens / seconds, fresh)

    def _take(self, step: int, result: StepResult, tokens: int) -> None:
        self.account.steps = step
        self.account.tokens += tokens
        self.account.loss_last = result.loss
        if self.account.loss_first is None:
            self.account.loss_first = result.loss
        self.account.stopped = result.stop and step < self.total_steps

    def _evaluate(self) -> bool:
        """Measure the validation loss. False if a wish to stop, now known to all, came between."""
        score = evaluate(self._context, self._strategy, self._data, self._stop)
        if score is None:
            self.account.stopped = self.account.steps < self.total_steps
            return False
        self.account.val_loss, self.account.val_accuracy = score.loss, score.accuracy
        self._measured = self.account.steps
        return True

    def _due(self, first: int, last: int) -> bool:
        """Whether the validation loss is measured after steps `first` to `last`."""
        return falls_in(self._training.eval_steps, first, last) or last == self.total_steps

    def _rests_after(self, step: int, stop: bool) -> bool:
        """Whether something is done after this step that needs the state of all ranks."""
        ended = stop or step == self.total_steps
        saves = self._keeper is not None and self._keeper.due(step, step, ended)
        return ended or saves or self._due(step, step)

    def _look_at_links(self, first: int, step: int) -> None:
        comm = self._context.run.comm
        if not comm.track_network_metrics or not falls_in(comm.metrics_log_interval, first, step):
            return
        self._metrics.write_links(step, self._context.wires.links(), self._context.node_of)

    def _say(self, step: int, loss: float, tokens_per_s: float, fresh: bool) -> None:
        now = time.monotonic()
        if not (fresh or step in (self._first_step + 1, self.total_steps) or now - self._said >= PROGRESS_EVERY_S):
            return
        self._said = now
        left_s = (now - self._began) / max(1, step - self._first_step) * (self.total_steps - step)
        validation = f"  {validation_text(self.account.val_loss, self.account.val_accuracy)}" if fresh else ""
        eta = f"{int(left_s // 60)}:{int(left_s % 60):02d}"
        total = self.total_steps
        speed = f"  {tokens_per_s:.0f} {self._data.counts}/s" if tokens_per_s else ""  # others count them
        log.info("step %d/%d  loss %.4f%s%s  ETA %s", step, total, loss, validation, speed, eta)
