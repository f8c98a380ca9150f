"""A node's figures as Prometheus wants them: summed up from the records that its ranks and its supervisor leave.

Names follow Prometheus' conventions: base units, `_total` on what only grows. Every figure has the labels `run` and
`node`, those of a rank `rank` too, those of a link also `peer` and `peer_node`. What nobody tells is left out.

It knows neither files nor sockets: records go in with `take`, and `text` comes out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from smolcluster.runtime.metricsfile import HardwareRecord, LinkRecord, StepRecord, ValidationRecord
from smolcluster.runtime.runfolder import JobState

_MB = 1 << 20
_STATES = ("starting", "running", "restarting", "completed", "failed", "stopped")


@dataclass
class _Link:
    """A link of one rank so far."""

    bytes_out: int = 0
    bytes_in: int = 0
    last: LinkRecord | None = None


@dataclass
class _Rank:
    """A rank so far. `seen`: the time of the newest record, as a file that was thinned tells its lines again."""

    seen: float = 0.0
    tokens: int = 0
    step_s: float = 0.0
    compute_s: float = 0.0
    comm_s: float = 0.0
    data_s: float = 0.0
    bytes_out: int = 0
    bytes_in: int = 0
    last: StepRecord | None = None
    val_loss: float | None = None
    links: dict[int, _Link] = field(default_factory=dict)

    def take(self, record: StepRecord | LinkRecord | ValidationRecord) -> None:
        """Add a record."""
        if isinstance(record, LinkRecord):
            link = self.links.setdefault(record.peer, _Link())
            link.bytes_out += record.bytes_out or 0
            link.bytes_in += record.bytes_in or 0
            link.last = record
            return
        self.val_loss = self.val_loss if record.val_loss is None else record.val_loss
        if isinstance(record, StepRecord):
            self.tokens += record.tokens
            self.step_s += record.step_s
            self.compute_s += record.compute_s
            self.comm_s += record.comm_s
            self.data_s += record.data_s
            self.bytes_out += record.bytes_out
            self.bytes_in += record.bytes_in
            self.last = record


class NodeFigures(Collector):
    """One node's of one run. From any thread. `job` tells how the job is now."""

    def __init__(self, run_id: str, node: str, job: Callable[[], JobState]) -> None:
        self._own = [run_id, node]
        self._job = job
        self._lock = threading.Lock()
        self._ranks: dict[int, _Rank] = {}
        self._hardware: HardwareRecord | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def take(self, rank: int, record: StepRecord | LinkRecord | ValidationRecord) -> None:
        """A record of a rank, in the order they were written. One that is not newer than the last is known already."""
        with self._lock:
            known = self._ranks.setdefault(rank, _Rank())
            # Links are looked at together: their records may have one time.
            again = record.time < known.seen if isinstance(record, LinkRecord) else record.time <= known.seen
            if not again:
                known.seen = record.time
                known.take(record)

    def take_hardware(self, record: HardwareRecord) -> None:
        """The newest look at the machine."""
        with self._lock:
            self._hardware = record

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        with self._lock:
            found = [*self._of_job(), *self._of_steps(), *self._of_links(), *self._of_machine()]
        yield from found

    def _of_job(self) -> Iterator[Metric]:
        job = self._job()
        state = self._gauge("job_state", "1 for the state that the node's part of the run is in", "state")
        for name in _STATES:
            state.add_metric([*self._own, name], float(job.state == name))
        yield state
        restarts = self._counter("job_restarts", "How often the node's ranks were started again")
        restarts.add_metric(self._own, job.restarts)
        yield restarts
        running = self._gauge("rank_running", "Whether the rank's process runs", "rank")
        for rank, said in job.ranks.items():
            running.add_metric([*self._own, str(rank)], float(said == "running"))
        yield running

    def _of_steps(self) -> Iterator[Metric]:
        taken = [(rank, each, each.last) for rank, each in sorted(self._ranks.items()) if each.last is not None]
        gauges: tuple[tuple[str, str, Callable[[StepRecord], float]], ...] = (
            ("train_loss", "Training loss of the last step", lambda last: last.loss),
            ("train_learning_rate", "Learning rate of the last step", lambda last: last.lr),
            ("train_gradient_norm", "Global norm of the last step's gradient, before clipping", lambda r: r.grad_norm),
            ("train_planned_steps", "Steps the run will have", lambda last: last.total_steps),
            ("train_staleness_steps", "How many steps weights were behind", lambda last: last.staleness),
            ("train_last_step_timestamp_seconds", "When the last step ended", lambda last: last.time),
        )
        for name, what, value in gauges:
            gauge = self._gauge(name, what, "rank")
            for rank, _, last in taken:
                gauge.add_metric([*self._own, str(rank)], value(last))
            yield gauge
        validation = self._gauge("train_validation_loss", "Validation loss, measured last", "rank")
        for rank, each, _ in taken:
            if each.val_loss is not None:
                validation.add_metric([*self._own, str(rank)], each.val_loss)
        yield validation
        counters: tuple[tuple[str, str, Callable[[_Rank, StepRecord], float]], ...] = (
            ("train_steps", "Steps taken", lambda _, last: last.step),
            ("train_step_seconds", "Time in steps", lambda each, _: each.step_s),
            ("train_compute_seconds", "Time in computing", lambda each, _: each.compute_s),
            ("train_communication_seconds", "Time in waiting for other ranks", lambda each, _: each.comm_s),
            ("train_data_seconds", "Time in waiting for samples", lambda each, _: each.data_s),
            ("train_sent_bytes", "Bytes sent in steps, headers included", lambda each, _: each.bytes_out),
            ("train_received_bytes", "Bytes received in steps, headers included", lambda each, _: each.bytes_in),
        )
        for name, what, count in counters:
            counter = self._counter(name, what, "rank")
            for rank, each, last in taken:
                counter.add_metric([*self._own, str(rank)], count(each, last))
            yield counter
        tokens = self._counter("train_tokens", "Tokens, or samples of other data, that were trained on", "rank", "unit")
        for rank, each, last in taken:
            tokens.add_metric([*self._own, str(rank), last.counts], each.tokens)
        yield tokens

    def _of_links(self) -> Iterator[Metric]:
        names = ("rank", "peer", "peer_node")
        sent = self._counter("link_sent_bytes", "Bytes sent to a rank", *names)
        received = self._counter("link_received_bytes", "Bytes received from a rank", *names)
        trip = self._gauge("link_round_trip_seconds", "Shortest way to a rank and back, lately", *names)
        written = self._gauge("link_send_buffer_bytes", "Bytes written and not acknowledged", *names)
        unread = self._gauge("link_receive_buffer_bytes", "Bytes that have come and were not read", *names)
        for rank, each in sorted(self._ranks.items()):
            for peer, link in sorted(each.links.items()):
                if link.last is None:
                    continue
                labels = [*self._own, str(rank), str(peer), link.last.node]
                sent.add_metric(labels, link.bytes_out)
                received.add_metric(labels, link.bytes_in)
                trip_s = link.last.rtt_ms / 1000 if link.last.rtt_ms is not None else None
                for gauge, value in ((trip, trip_s), (written, link.last.buffered), (unread, link.last.unread)):
                    if value is not None:
                        gauge.add_metric(labels, value)
        yield from (sent, received, trip, written, unread)

    def _of_machine(self) -> Iterator[Metric]:
        seen = self._hardware
        if seen is None:
            return
        slowed = None if seen.throttled is None else float(bool(seen.throttled))
        for name, what, value in (
            ("node_cpu_ratio", "Share of all cores that worked, lately", seen.cpu),
            ("node_cpus", "Cores", seen.cores),
            ("node_load1", "Load average of a minute", seen.load),
            ("node_memory_bytes", "Memory of the machine", seen.memory_mb * _MB),
            ("node_memory_available_bytes", "Memory that is free or can be freed at once", seen.memory_free_mb * _MB),
            ("node_temperature_celsius", "The hottest zone", seen.temperature_c),
            ("node_throttled", "Whether heat or too little power slows the machine down", slowed),
        ):
            if value is not None:
                gauge = self._gauge(name, what)
                gauge.add_metric(self._own, value)
                yield gauge
        resident = self._gauge("rank_resident_bytes", "Resident memory of a rank's process", "rank")
        for rank, mb in seen.rss_mb.items():
            resident.add_metric([*self._own, str(rank)], mb * _MB)
        yield resident

    @staticmethod
    def _gauge(name: str, what: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"smolcluster_{name}", what, labels=["run", "node", *labels])

    @staticmethod
    def _counter(name: str, what: str, *labels: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"smolcluster_{name}", what, labels=["run", "node", *labels])
