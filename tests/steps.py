"""What a rank wrote into its metrics.jsonl, as the report reads it."""

from __future__ import annotations

from pathlib import Path

from smolcluster.observe.records import Reader
from smolcluster.runtime.metricsfile import LinkRecord, StepRecord


def read_metrics(path: Path) -> tuple[tuple[StepRecord, ...], tuple[LinkRecord, ...]]:
    """Its steps and its links, in order; none where there is no file."""
    records = Reader().metrics(path)
    return records.steps, records.links
