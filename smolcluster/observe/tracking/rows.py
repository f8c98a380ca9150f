"""A run's metrics as rows for an experiment tracker: one for each step, with the values of every rank. Pure.

Records may come rank by rank when a run has ended, or as they are written while it goes on: the values are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from smolcluster.observe.curves import Clock, longest
from smolcluster.observe.gradients import layer_of
from smolcluster.observe.report import RunStory
from smolcluster.runtime.metricsfile import GradientRecord, LinkRecord, MetricsRecord, StepRecord, ValidationRecord

# A sum over ranks that is not whole by then is told of those who came: a rank was lost.
MOST_OPEN = 10_000


@dataclass
class Row:
    """Values by name at a step. `time`: seconds since 1970. A rank's are `rank-1/loss`, a link's `link-0-1/mbps`."""

    step: int
    time: float
    values: dict[str, float] = field(default_factory=dict)


class Rows:
    """Puts records together. `counted`: the ranks whose steps are those of the run, which all tell its loss. `began`:
    when training did, seconds since 1970; None: with the first step that comes.

    What comes late, of a slower rank, is a row of its own with the same step and other names: no value comes twice.
    """

    def __init__(self, counted: frozenset[int], tokens_per_step: float, began: float | None = None) -> None:
        self._counted = counted
        self._tokens_per_step = tokens_per_step
        self._began = began
        self._told = 0
        self._open: dict[int, Row] = {}
        # By step, the tokens/s of each rank that has told them.
        self._speeds: dict[int, Row] = {}

    def add(self, rank: int, record: MetricsRecord) -> None:
        """Take a record of that rank."""
        values = self._open.setdefault(record.step, Row(record.step, record.time)).values
        if isinstance(record, StepRecord):
            self._add_step(rank, record, values)
        elif isinstance(record, LinkRecord):
            at = f"link-{rank}-{record.peer}"
            seen = {"mbps": record.mbps, "rtt_ms": record.rtt_ms, "buffered": record.buffered, "unread": record.unread}
            values |= {f"{at}/{name}": float(value) for name, value in seen.items() if value is not None}
        elif isinstance(record, GradientRecord):
            squares: dict[str, float] = {}
            for parameter, norm in record.norms.items():
                squares[layer_of(parameter)] = squares.get(layer_of(parameter), 0.0) + norm**2
            values |= {f"gradients/{layer}": math.sqrt(total) for layer, total in squares.items()}
        elif isinstance(record, ValidationRecord):
            values |= _scores(record)

    def take(self) -> list[Row]:
        """What has come since the last time, in the order of steps."""
        if len(self._speeds) > MOST_OPEN:
            for step in sorted(self._speeds)[:-MOST_OPEN]:
                self._close_speed(step)
        rows, self._open = self._open, {}
        return [rows[step] for step in sorted(rows)]

    def rest(self) -> list[Row]:
        """The same at the end, when nobody is waited for."""
        for step in list(self._speeds):
            self._close_speed(step)
        return self.take()

    def _add_step(self, rank: int, record: StepRecord, values: dict[str, float]) -> None:
        if rank in self._counted:
            if record.step > self._told:
                self._told = record.step
                values |= self._of_the_run(record)
            speeds = self._speeds.setdefault(record.step, Row(record.step, record.time))
            speeds.values[f"rank-{rank}"] = record.tokens_per_s
            if len(speeds.values) == len(self._counted):
                self._close_speed(record.step)
        name = f"rank-{rank}"
        values |= {
            f"{name}/loss": record.loss,
            f"{name}/tokens_per_s": record.tokens_per_s,
            f"{name}/step_s": record.step_s,
            f"{name}/compute_s": record.compute_s,
            f"{name}/comm_s": record.comm_s,
            f"{name}/data_s": record.data_s,
            f"{name}/bytes_out": float(record.bytes_out),
            f"{name}/bytes_in": float(record.bytes_in),
            f"{name}/staleness": record.staleness_mean,
        }

    def _close_speed(self, step: int) -> None:
        speeds = self._speeds.pop(step)
        row = self._open.setdefault(step, Row(step, speeds.time))
        row.values["tokens_per_s"] = sum(speeds.values.values())

    def _of_the_run(self, record: StepRecord) -> dict[str, float]:
        if self._began is None:
            self._began = record.time - record.step_s
        return {
            "loss": record.loss,
            "lr": record.lr,
            "grad_norm": record.grad_norm,
            "tokens": record.step * self._tokens_per_step,
            "seconds": record.time - self._began,
            **_scores(record),
        }


def rows_of(story: RunStory) -> Iterator[Row]:
    """All rows, by step. The same records give the same rows."""
    clock = Clock.of(story)
    rows = Rows(frozenset(rank.plan.rank for rank in story.counted), clock.tokens_per_step, clock.began)
    # Whoever recorded most tells the run's values.
    told = longest(story)
    for rank in sorted(story.ranks, key=lambda rank: rank.steps is not told):
        for records in (rank.steps, rank.links, rank.gradients):
            for record in records:
                rows.add(rank.plan.rank, record)
    yield from rows.rest()


def _scores(record: StepRecord | ValidationRecord) -> dict[str, float]:
    scores = {"val_loss": record.val_loss, "val_accuracy": record.val_accuracy}
    return {name: value for name, value in scores.items() if value is not None}
