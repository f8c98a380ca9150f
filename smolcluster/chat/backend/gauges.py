"""What the head says of now, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from smolcluster.infer.head import Health, StageNow

_STATES = get_args(Health.model_fields["state"].annotation)


class HealthGauges(Collector):
    """Collects the `health` that was put in last."""

    def __init__(self) -> None:
        self.health = Health(state="starting")
        self.tokens_per_s = 0.0

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        health = self.health
        state = GaugeMetricFamily("smolcluster_state", "1 for the state that serving is in", labels=["state"])
        for name in _STATES:
            state.add_metric([name], float(health.state == name))
        yield state
        for name, what, value in (
            ("epoch", "How often the stages were connected", health.epoch),
            ("active", "Requests that hold caches", health.active),
            ("waiting", "Requests that wait for room", health.waiting),
            ("tokens_per_second", "Tokens chosen per second, lately", self.tokens_per_s),
        ):
            yield GaugeMetricFamily(f"smolcluster_{name}", what, value=value)
        busy = _counter("smolcluster_stage_busy_seconds", "Seconds a stage has computed")
        steps = _counter("smolcluster_stage_steps", "Steps a stage has computed")
        mean = _gauge("smolcluster_stage_step_seconds", "Seconds per step of a stage, on average since it began")
        alive = _gauge("smolcluster_stage_alive", "Whether a stage can be reached")
        sessions = _gauge("smolcluster_stage_sessions", "Sessions with caches on a stage")
        caches = _gauge("smolcluster_stage_cache_bytes", "Bytes of a stage's caches")
        memory = _gauge("smolcluster_stage_resident_bytes", "Resident memory of a stage's process")
        sent = _counter("smolcluster_stage_sent_bytes", "Bytes the head has sent to a stage")
        received = _counter("smolcluster_stage_received_bytes", "Bytes the head has received from a stage")
        trip = _gauge("smolcluster_stage_round_trip_seconds", "From the head to a stage and back")
        for stage in health.stages:
            labels = [str(stage.rank), stage.node]
            alive.add_metric(labels, float(stage.alive))
            if stage.alive:
                busy.add_metric(labels, stage.busy_s)
                steps.add_metric(labels, stage.steps)
                mean.add_metric(labels, step_ms(stage) / 1000)
                sessions.add_metric(labels, stage.sessions)
                caches.add_metric(labels, stage.cache_bytes)
                memory.add_metric(labels, stage.rss_mb * 1e6)
            if stage.alive and stage.rank:
                sent.add_metric(labels, stage.bytes_out)
                received.add_metric(labels, stage.bytes_in)
                if stage.rtt_ms is not None:
                    trip.add_metric(labels, stage.rtt_ms / 1000)
        yield from (busy, steps, mean, alive, sessions, caches, memory, sent, received, trip)


def step_ms(stage: StageNow) -> float:
    """Milliseconds that a step takes it, on average since it began."""
    return 1000 * stage.busy_s / stage.steps if stage.steps else 0.0


def _counter(name: str, what: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, what, labels=["rank", "node"])


def _gauge(name: str, what: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, what, labels=["rank", "node"])
