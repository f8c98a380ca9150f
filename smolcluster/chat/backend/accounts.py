"""What was asked and how it went: Prometheus' figures, requests.jsonl, and the counts of serving.json.

Used in the event loop's thread alone. No word of what was asked or answered is kept.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from smolcluster.chat.backend.gauges import HealthGauges
from smolcluster.infer.head import Health
from smolcluster.runtime.runfolder import RequestRecord

log = logging.getLogger("smolcluster.chat")
# Tokens per second are those of the last so many seconds.
_WINDOW_S = 5.0
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SPEEDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Accounts:
    """Of one API. A record that cannot be written is told once in the log and does not stop anything."""

    def __init__(self, requests_file: Path | None = None) -> None:
        self.requests = self.failed = self.tokens = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._began = time.monotonic()
        self._file = requests_file
        self._registry = CollectorRegistry()
        self._gauges = HealthGauges()
        self._registry.register(self._gauges)
        self._answers = Counter(
            "smolcluster_requests", "Requests answered", ["endpoint", "status"], registry=self._registry
        )
        self._read = Counter("smolcluster_prompt_tokens", "Tokens of prompts", registry=self._registry)
        self._written = Counter("smolcluster_completion_tokens", "Tokens chosen", registry=self._registry)
        self._first = Histogram(
            "smolcluster_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._whole = Histogram(
            "smolcluster_request_seconds", "Length of requests", buckets=_SECONDS, registry=self._registry
        )
        self._speed = Histogram(
            "smolcluster_request_tokens_per_second",
            "Tokens per second of requests after their first token",
            buckets=_SPEEDS,
            registry=self._registry,
        )

    def chosen(self) -> None:
        """A token came."""
        now = time.monotonic()
        self.tokens += 1
        self._written.inc()
        if self._recent and now - self._recent[-1][0] < 0.1:  # a few entries a second are enough
            self._recent[-1] = (self._recent[-1][0], self._recent[-1][1] + 1)
        else:
            self._recent.append((now, 1))

    def tokens_per_s(self) -> float:
        """Now, of all requests together."""
        now = time.monotonic()
        while self._recent and self._recent[0][0] < now - _WINDOW_S:
            self._recent.popleft()
        return sum(count for _, count in self._recent) / max(0.1, min(_WINDOW_S, now - self._began))

    def answered(self, endpoint: str, status: int) -> None:
        """Any answer was sent."""
        self._answers.labels(endpoint, str(status)).inc()

    def ended(self, record: RequestRecord) -> None:
        """A request for text ended, well or badly."""
        self.requests += 1
        self.failed += record.failed
        self._read.inc(record.prompt_tokens)
        self._whole.observe(record.seconds)
        if record.first_s is not None:
            self._first.observe(record.first_s)
            if record.completion_tokens > 1 and record.seconds > record.first_s:
                self._speed.observe((record.completion_tokens - 1) / (record.seconds - record.first_s))
        if self._file is not None:
            try:
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(record.model_dump_json(by_alias=True) + "\n")
            except OSError as error:
                log.error("requests are not recorded any more: %s cannot be written: %s", self._file, error.strerror)
                self._file = None

    def metrics(self, health: Health) -> bytes:
        """Prometheus' text."""
        self._gauges.health, self._gauges.tokens_per_s = health, self.tokens_per_s()
        return generate_latest(self._registry)
