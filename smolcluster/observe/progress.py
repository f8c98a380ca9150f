"""One line of progress per node: step, loss, tokens/s, time left. Pure: from records to text.

What it deliberately does not know: where records come from, when a line is due, who prints it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.runtime.scores import validation_text


@dataclass(frozen=True)
class Mark:
    """A step and when the watcher saw it (seconds of any steady clock): the start of a measurement of speed."""

    step: int
    seen_s: float


def slowest(records: Mapping[int, StepRecord]) -> StepRecord:
    """The record of the rank that is furthest behind; of equals, the lowest rank's. `records` must not be empty."""
    return min(records.items(), key=lambda item: (item[1].step, item[0]))[1]


def time_left_s(start: Mark, now: Mark, total_steps: int) -> float | None:
    """Seconds until the last step at the speed since `start`; None before there is a speed."""
    steps, elapsed = now.step - start.step, now.seen_s - start.seen_s
    if steps <= 0 or elapsed <= 0:
        return None
    return (total_steps - now.step) * elapsed / steps


def clock(seconds: float | None) -> str:
    """`1:05`, `2:03:09`, or `-:--` where nothing is known yet."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def progress_line(node: str, records: Mapping[int, StepRecord], eta_s: float | None, width: int = 10) -> str:
    """A node's line. Tokens/s (pictures: samples/s) is the sum of its ranks, left out where others count them: of a
    batch that passes all stages the first one does. `width` is the column of node names.
    """
    record = slowest(records)
    total = str(record.total_steps)
    speed = sum(each.tokens_per_s for each in records.values())
    parts = [
        f"{node:<{width}}",
        f"step {record.step:>{len(total)}}/{total}",
        f"loss {record.loss:.4f}",
        *([f"{speed:,.0f} {record.counts}/s"] if speed else []),
        f"ETA {clock(eta_s)}",
    ]
    if record.val_loss is not None:
        parts.insert(3, validation_text(record.val_loss, record.val_accuracy))
    return "  ".join(parts)
