"""The server's loop: until all samples are applied, with metrics, evaluations and checkpoints beside it.

A step is what it is for every other strategy: a global batch of samples. Here it is made of several updates, and is
complete when so many samples more are applied. So runs of all strategies have the same steps, schedule and checkpoints.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from smolcluster.data import Samples, steps_per_epoch
from smolcluster.errors import RunOverError
from smolcluster.runtime.checkpoint.load import Restored, restore
from smolcluster.runtime.checkpoint.manifest import StarNote
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.metricsfile import StepRecord, ValidationRecord
from smolcluster.runtime.schedule import learning_rate
from smolcluster.runtime.scores import validation_text
from smolcluster.strategies.star.centre import Centre
from smolcluster.strategies.star.leases import Leases
from smolcluster.strategies.star.ledger import Ledger
from smolcluster.strategies.star.server import StarServer, Update
from smolcluster.train.account import Account
from smolcluster.train.keeping import Keeper, sources_of, take_up
from smolcluster.train.rank import require_given_weights
from smolcluster.train.star.journal import Journal, restored
from smolcluster.train.star.validation import Validation

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 2.0
# How often it is looked whether to stop, and whether a measurement is done.
_LOOK_S = 0.25


@dataclass(frozen=True)
class Start:
    """Where a server begins: all steps of the run, what is leased and accounted for, the learning rate by step."""

    total_steps: int
    leases: Leases
    ledger: Ledger
    rate: Callable[[float], float]

    @classmethod
    def of(cls, context: RunContext, centre: Centre, data: Samples, account: Account, journal: Journal) -> Start:
        """From the newest checkpoint, into `centre` and `account`, or from the beginning. InputError as for restore."""
        run, batch = context.run, context.plan.global_batch
        samples = data.sample_count("train")
        total_steps = run.training.max_steps or run.training.epochs * steps_per_epoch(samples, batch)
        found = restore(context, centre, sources_of(context))
        if found is None:
            require_given_weights(context)
        else:
            take_up(account, found, context)
            centre.last_loss = account.loss_last
        note = _note_of(found, context)
        front, back = (note.front, note.back) if note is not None else (account.steps * batch, ())
        leases = Leases(total_steps * batch, front, back)
        ours = found is None or found.manifest.run_id == context.run_id
        ledger = restored(found.manifest.star if found is not None else None, journal, ours, leases)

        def rate(step: float) -> float:
            return learning_rate(step, total_steps, run.training.learning_rate, run.schedule)

        return cls(total_steps, leases, ledger, rate)


def _note_of(found: Restored | None, context: RunContext) -> StarNote | None:
    """What a checkpoint says of the samples; None where they were other ones, or of another strategy's run."""
    if found is None or found.manifest.star is None:
        return None
    cursor = found.manifest.cursor
    now = (context.run.seed, context.plan.global_batch, context.data_dir.name)
    return found.manifest.star if (cursor.seed, cursor.global_batch, cursor.dataset) == now else None


class ServerLoop:
    """One run of a server. `stop` answers whether it was asked to end; `alone_s`: how long it does without a worker."""

    def __init__(
        self,
        context: RunContext,
        server: StarServer,
        data: Samples,
        metrics: MetricsWriter,
        account: Account,
        keeper: Keeper,
        validation: Validation,
        journal: Journal,
        start: Start,
        stop: Callable[[], bool],
        alone_s: float,
    ) -> None:
        self.account = account
        self._alone_s = alone_s
        self._context = context
        self._server = server
        self._data = data
        self._metrics = metrics
        self._keeper = keeper
        self._validation = validation
        self._start = start
        self._stop = stop
        self._batch = server.batch
        self._began = time.monotonic()
        self._before_s = account.seconds
        self._first_step = account.steps
        self._said = 0.0
        self._measured: int | None = None
        self._updates: list[Update] = []
        self._step_began, self._waited_before_s = time.monotonic(), server.waited_s
        self._counted = context.wires.counters()
        server.note = lambda: journal.write(server.account(), server.ledger)

    def run(self) -> None:
        """Serve to the end, or until somebody asks to stop; then everything is saved. NotFiniteError ends it early, and
        RunOverError where no worker is left.
        """
        server = self._server
        try:
            server.note()
            if self.account.val_loss is None:  # a resumed run knows it
                self._validation.begin(self.account.steps)
            self._context.wires.begin_step(self.account.steps + 1)
            while server.leases.left and not self._stop():
                server.turn(_LOOK_S)
                self._take_updates()
                self._take_score(wait=False)
                if server.alone_s > self._alone_s:
                    self._save_last()
                    raise RunOverError(
                        f"no worker was here for {self._alone_s:g} s, and nothing is trained without one. "
                        "Fix: see why the workers ended (their logs say), then go on with --resume latest."
                    )
            self.account.stopped = server.leases.left > 0
            self._finish()
        finally:
            self._clock()

    def _take_updates(self) -> None:
        """Account for what was applied in this turn; close the steps that are complete."""
        updates, self._server.updates = self._server.updates, []
        for update in updates:
            self._updates.append(update)
            self.account.tokens += update.tokens
        # Only then: several updates of one turn may complete a step together.
        step = self._server.leases.applied // self._batch
        if updates and step > self.account.steps:
            self._close_step(step)

    def _close_step(self, step: int) -> None:
        updates, self._updates = self._updates, []
        before = self.account.steps
        tokens = sum(update.tokens for update in updates)
        loss = math.fsum(update.loss for update in updates) / tokens
        self.account.steps, self.account.loss_last = step, loss
        if self.account.loss_first is None:
            self.account.loss_first = loss
        self._clock()
        now, counted = time.monotonic(), self._context.wires.counters()
        seconds = max(1e-9, now - self._step_began)
        waited_s = self._server.waited_s - self._waited_before_s
        self._metrics.write(
            StepRecord(
                step=step,
                time=time.time(),
                loss=loss,
                lr=updates[-1].lr,
                tokens=tokens,
                tokens_per_s=tokens / seconds,
                grad_norm=updates[-1].grad_norm,
                step_s=seconds,
                compute_s=max(0.0, seconds - waited_s),
                comm_s=waited_s,
                bytes_out=counted.bytes_out - self._counted.bytes_out,
                bytes_in=counted.bytes_in - self._counted.bytes_in,
                staleness=max(update.staleness for update in updates),
                late=sum(update.late for update in updates) or None,
                counts=self._data.counts,
                total_steps=self._start.total_steps,
            )
        )
        self._step_began, self._waited_before_s, self._counted = now, self._server.waited_s, counted
        self._look_at_links(step)
        self._say(step, loss, tokens / seconds)
        self._measure(step, before)
        self._keep(before, ended=False)
        if step < self._start.total_steps:
            self._context.wires.begin_step(step + 1)

    def _measure(self, step: int, before: int) -> None:
        """Begin to measure the validation loss, if it is time to and the last one is done."""
        every = self._context.run.training.eval_steps
        if step // every == before // every or step >= self._start.total_steps:
            return
        if self._validation.busy:
            log.warning("step %d is not evaluated: the evaluation before is still at work. Raise eval_steps", step)
        else:
            self._validation.begin(step)

    def _take_score(self, wait: bool) -> None:
        """Write down what was measured."""
        found = self._validation.result(wait)
        if found is None:
            return
        step, score = found
        self.account.val_loss, self.account.val_accuracy, self._measured = score.loss, score.accuracy, step
        if self.account.val_loss_first is None:
            self.account.val_loss_first = score.loss
        if step:
            self._metrics.write(
                ValidationRecord(step=step, time=time.time(), val_loss=score.loss, val_accuracy=score.accuracy)
            )
        log.info("step %d  %s", step, validation_text(score.loss, score.accuracy))

    def _finish(self) -> None:
        """The last evaluation and the last checkpoint."""
        if not self.account.stopped:
            self._take_score(wait=True)
            self._validation.begin(self.account.steps)
            self._take_score(wait=True)
        self._save_last()

    def _save_last(self) -> None:
        self._clock()
        self._keep(self.account.steps, ended=True)
        self._keeper.finish()

    def _keep(self, before: int, ended: bool) -> None:
        """Save the state, if it is time to. In the middle a save that would wait for the one before is left out."""
        step = self.account.steps
        if not self._keeper.due(before + 1, step, ended) or (self._keeper.busy and not ended):
            return
        server = self._server
        front, back = server.leases.open_ranges()
        note = StarNote(front=front, back=back, gradients=server.account(), seen=server.ledger.seen)
        epoch = step // steps_per_epoch(self._data.sample_count("train"), self._batch)
        measured = self._measured == step
        self._keeper.save(self.account, self._start.total_steps, epoch, measured, note)

    def _clock(self) -> None:
        self.account.seconds = self._before_s + time.monotonic() - self._began

    def _look_at_links(self, step: int) -> None:
        comm = self._context.run.comm
        if not comm.track_network_metrics or step % comm.metrics_log_interval:
            return
        self._metrics.write_links(step, self._context.wires.links(), self._context.node_of)

    def _say(self, step: int, loss: float, tokens_per_s: float) -> None:
        now, total = time.monotonic(), self._start.total_steps
        if step not in (self._first_step + 1, total) and now - self._said < PROGRESS_EVERY_S:
            return
        self._said = now
        left_s = (now - self._began) / max(1, step - self._first_step) * (total - step)
        speed = f"{tokens_per_s:.0f} {self._data.counts}/s of {self._server.active} worker(s)"
        eta = f"{int(left_s // 60)}:{int(left_s % 60):02d}"
        log.info("step %d/%d  loss %.4f  %s  ETA %s", step, total, loss, speed, eta)
