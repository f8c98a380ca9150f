"""A run's metrics as rows for an experiment tracker: one for each step, with the values of every rank. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from smolcluster.observe.curves import Clock, longest
from smolcluster.observe.gradients import layer_of
from smolcluster.observe.report import RankStory, RunStory
from smolcluster.runtime.metricsfile import StepRecord


@dataclass
class Row:
    """Values by name at a step. `time`: seconds since 1970. A rank's are `rank-1/loss`, a link's `link-0-1/mbps`."""

    step: int
    time: float
    values: dict[str, float] = field(default_factory=dict)


def rows_of(story: RunStory) -> Iterator[Row]:
    """All rows, by step. The same records give the same rows."""
    rows: dict[int, Row] = {}

    def row(step: int, time: float) -> Row:
        return rows.setdefault(step, Row(step, time))

    clock = Clock.of(story)
    for record in longest(story):
        row(record.step, record.time).values |= _of_the_run(record, clock)
    for rank in story.ranks:
        _of_a_rank(rank, rank in story.counted, row)
    for step in sorted(rows):
        yield rows[step]


def _of_the_run(record: StepRecord, clock: Clock) -> dict[str, float]:
    values = {
        "loss": record.loss,
        "lr": record.lr,
        "grad_norm": record.grad_norm,
        "tokens": record.step * clock.tokens_per_step,
        "seconds": record.time - clock.began,
    }
    if record.val_loss is not None:
        values["val_loss"] = record.val_loss
    if record.val_accuracy is not None:
        values["val_accuracy"] = record.val_accuracy
    return values


def _of_a_rank(rank: RankStory, counted: bool, row: Callable[[int, float], Row]) -> None:
    name = f"rank-{rank.plan.rank}"
    for record in rank.steps:
        values = row(record.step, record.time).values
        if counted:
            values["tokens_per_s"] = values.get("tokens_per_s", 0.0) + record.tokens_per_s
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
    for link in rank.links:
        at = f"link-{rank.plan.rank}-{link.peer}"
        values = row(link.step, link.time).values
        seen = {"mbps": link.mbps, "rtt_ms": link.rtt_ms, "buffered": link.buffered, "unread": link.unread}
        values |= {f"{at}/{name}": float(value) for name, value in seen.items() if value is not None}
    for gradient in rank.gradients:
        squares: dict[str, float] = {}
        for parameter, norm in gradient.norms.items():
            squares[layer_of(parameter)] = squares.get(layer_of(parameter), 0.0) + norm**2
        values = row(gradient.step, gradient.time).values
        values |= {f"gradients/{layer}": math.sqrt(total) for layer, total in squares.items()}
