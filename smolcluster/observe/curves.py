"""A run's figures over its steps, as lists of points that a plot, a page and a terminal can draw. Pure.

A file of metrics may have 20,000 lines: `thinned` leaves as many points as can be told apart, spikes among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Literal

from smolcluster.observe.report import RunStory
from smolcluster.plan.profile import tokens_per_sample
from smolcluster.runtime.metricsfile import StepRecord

# Twice as many as a screen's figure has columns.
MOST_POINTS = 1000
# The training loss of a step is a draw: what is compared is the mean of so many recorded ones.
SMOOTHED = 10

Over = Literal["steps", "tokens", "time"]
Points = list[tuple[float, float]]


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> Points:
    """At most about `most` of them, in order: of each stretch its lowest and highest, and the first and last of all."""
    if len(points) <= most:
        return list(points)
    length = 2 * len(points) / most
    kept = {0, len(points) - 1}
    for number in range(most // 2):
        stretch = range(int(number * length), min(len(points), int((number + 1) * length)))
        if stretch:
            kept.add(min(stretch, key=lambda index: points[index][1]))
            kept.add(max(stretch, key=lambda index: points[index][1]))
    return [points[index] for index in sorted(kept)]


def longest(story: RunStory) -> tuple[StepRecord, ...]:
    """The loss is the same on every rank: take whoever recorded most of it."""
    return max((rank.steps for rank in story.counted), key=len, default=())


@dataclass(frozen=True)
class Clock:
    """What a step of a run is in tokens and seconds: the other ways to lay it along an axis."""

    tokens_per_step: float
    began: float
    records: tuple[StepRecord, ...]

    @cached_property
    def times(self) -> dict[int, float]:
        """When each recorded step ended, seconds since 1970."""
        return {record.step: record.time for record in self.records}

    @classmethod
    def of(cls, story: RunStory) -> Clock:
        """Tokens by the account of the ranks, by the plan before there is one; time by the clock of who recorded it."""
        records = longest(story)
        results = [rank.result for rank in story.counted if rank.result is not None]
        steps = min((result.steps for result in results), default=0)
        run = story.plan.run
        per_step = float(story.plan.global_batch * tokens_per_sample(run.model))
        if steps:
            per_step = sum(result.tokens for result in results) / steps
        first = records[0] if records else None
        resumed = next((result.resumed_step for result in results if result.resumed_step), 0)
        # Where the first lines were thinned away, the steps before took as long as the first that is left.
        began = first.time - first.step_s * max(1, first.step - resumed) / first.own_steps if first else 0.0
        return cls(per_step, began, records)

    def at(self, step: int, over: Over) -> float:
        """Where a recorded step lies on that axis: its number, tokens until then, seconds since training began."""
        if over == "steps":
            return float(step)
        if over == "tokens":
            return step * self.tokens_per_step
        return self.times[step] - self.began if step in self.times else 0.0


def loss_points(story: RunStory, over: Over = "steps") -> Points:
    """The training loss, all recorded steps of it."""
    clock = Clock.of(story)
    return [(clock.at(record.step, over), record.loss) for record in longest(story)]


def val_points(story: RunStory, over: Over = "steps") -> Points:
    """The validation loss where it was measured, before the first step too."""
    clock = Clock.of(story)
    points = [(clock.at(r.step, over), r.val_loss) for r in longest(story) if r.val_loss is not None]
    first = next((rank.result.val_loss_first for rank in story.counted if rank.result is not None), None)
    resumed = any(rank.result.resumed_step for rank in story.counted if rank.result is not None)
    return [(0.0, first), *points] if first is not None and not resumed else points


def smoothed(points: Sequence[tuple[float, float]], count: int = SMOOTHED) -> Points:
    """Each value as the mean of itself and up to `count` - 1 before it."""
    total, means = 0.0, []
    for index, (at, value) in enumerate(points):
        total += value - (points[index - count][1] if index >= count else 0.0)
        means.append((at, total / min(count, index + 1)))
    return means


def time_to(points: Sequence[tuple[float, float]], loss: float) -> float | None:
    """The time (or step) at which the loss first was at or below `loss`; None: never."""
    return next((at for at, value in points if value <= loss), None)


def means(points: Points, most: int = MOST_POINTS) -> Points:
    """A mean for each stretch of points, at its last one's place; as they are where there are few."""
    length = -(-len(points) // most)
    if length <= 1:
        return points
    stretches = [points[start : start + length] for start in range(0, len(points), length)]
    return [(stretch[-1][0], fmean(value for _, value in stretch)) for stretch in stretches]


def per_step(records: Iterable[StepRecord], value: Callable[[StepRecord], float]) -> float | None:
    """The mean of a value for each step of a rank; None without steps."""
    total, count = 0.0, 0
    for record in records:
        total += value(record)
        count += record.own_steps
    return total / count if count else None
