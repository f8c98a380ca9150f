"""A worker's loop: a lease, its samples, a step, until the server says that the run is over or this rank is to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from smolcluster.data import Samples, step_indices
from smolcluster.errors import RunOverError
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.runtime.seeding import seed_step
from smolcluster.strategies.base import Batch, NotFiniteError
from smolcluster.strategies.star.leases import Lease
from smolcluster.strategies.star.worker import StarWorker, WorkerStep
from smolcluster.train.account import Account

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 2.0


class WorkerLoop:
    """One process of a worker. Its steps are numbered on from its last one's; `account` counts what it computed.

    metrics None: it is the server's own worker, and tells nothing.
    """

    def __init__(
        self,
        context: RunContext,
        worker: StarWorker,
        data: Samples,
        metrics: MetricsWriter | None,
        account: Account,
        stop: Callable[[], bool],
        batch: int,
    ) -> None:
        self.account = account
        self._context = context
        self._worker = worker
        self._data = data
        self._metrics = metrics
        self._stop = stop
        self._batch = batch
        self._count = data.sample_count("train")
        self._began = time.monotonic()
        self._said = 0.0

    def run(self) -> None:
        """Work. RunOverError: the run failed, or the server is gone for good; NotFiniteError: numbers went wrong."""
        worker = self._worker
        try:
            worker.join()
            while not self._stop():
                lease = worker.lease()
                if lease is None:
                    break
                self._step(lease)
            worker.leave()
        except NotFiniteError as error:
            worker.give_up(str(error))
            raise
        finally:
            self.account.seconds = time.monotonic() - self._began
        ending = worker.ending
        if ending is not None and ending.status == "failed":
            raise RunOverError(f"the server ended the run: {ending.reason}")
        self.account.stopped = ending is None or ending.status == "stopped"

    def _step(self, lease: Lease) -> None:
        step = self.account.steps + 1
        self._context.wires.begin_step(step)
        began = time.perf_counter()
        before = self._context.wires.counters()
        first, offset = divmod(lease.start, self._batch)
        # As the rank that had these samples in a synchronous run would be seeded, if it began with them.
        seed_step(self._context.run.seed, first + 1, offset)
        batch = self._batch_of(lease)
        waited_s = time.perf_counter() - began
        result = self._worker.train_step(batch, lease)
        if result is None:
            return
        slowed_s = self._context.wires.slowed(result.compute_s, self._stop)
        result = replace(result, compute_s=result.compute_s + slowed_s)
        self._write(step, result, time.perf_counter() - began, waited_s, before.bytes_out, before.bytes_in)

    def _write(
        self, step: int, result: WorkerStep, seconds: float, waited_s: float, bytes_out: int, bytes_in: int
    ) -> None:
        after, local = self._context.wires.counters(), result.loss
        loss = local.loss / local.tokens
        self.account.steps, self.account.loss_last = step, loss
        self.account.tokens += local.tokens
        if self.account.loss_first is None:
            self.account.loss_first = loss
        if self._metrics is None:
            return
        total = step + -(-self._worker.left // self._batch)
        self._metrics.write(
            StepRecord(
                step=step,
                time=time.time(),
                loss=loss,
                lr=result.lr,
                tokens=local.tokens,
                tokens_per_s=local.tokens / seconds,
                grad_norm=result.grad_norm,
                step_s=seconds,
                compute_s=result.compute_s,
                comm_s=result.comm_s,
                bytes_out=after.bytes_out - bytes_out,
                bytes_in=after.bytes_in - bytes_in,
                staleness=result.staleness,
                loss_scale=result.loss_scale,
                data_s=waited_s,
                counts=self._data.counts,
                total_steps=total,
            )
        )
        comm = self._context.run.comm
        if comm.track_network_metrics and step % comm.metrics_log_interval == 0:
            self._metrics.write_links(step, self._context.wires.links(), self._context.node_of)
        now = time.monotonic()
        if now - self._said >= PROGRESS_EVERY_S:
            self._said = now
            speed = f"{local.tokens / seconds:.0f} {self._data.counts}/s"
            log.info("own step %d  loss %.4f  %s  staleness %d", step, loss, speed, result.staleness)

    def _batch_of(self, lease: Lease) -> Batch:
        """The samples of a lease, in micro-batches as even as they can be."""
        seed, at, stop = self._context.run.seed, lease.start, lease.start + lease.count
        parts = []
        for step in range(at // self._batch, -(-stop // self._batch)):
            first = step * self._batch
            indices = step_indices(self._count, self._batch, seed, step)
            parts.append(indices[max(0, at - first) : stop - first])
        x, y = self._data.batch("train", np.concatenate(parts))
        pieces = min(self._context.run.training.grad_accumulation, lease.count)
        return list(zip(x.tensor_split(pieces), y.tensor_split(pieces), strict=True))
