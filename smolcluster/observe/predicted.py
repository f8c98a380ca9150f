"""How far a run was from what its plan predicted. Pure.

A plan that knew measured speeds says in its notes how long a step should take (plan/balance.py): that is all it keeps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from smolcluster.observe.curves import per_step
from smolcluster.observe.report import RunStory

_NUMBER = r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
_NOTE = re.compile(rf"predicted: {_NUMBER} s a step, {_NUMBER} computing and {_NUMBER} waiting for the wire")


@dataclass(frozen=True)
class Outcome:
    """Seconds of a step: as predicted, and as they were; `compute_s` is the slowest rank's, both times."""

    step_s: float
    compute_s: float
    wire_s: float
    was_step_s: float
    was_compute_s: float


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step as predicted: all of it, computing on the slowest rank, waiting for the wire."""

    step_s: float
    compute_s: float
    wire_s: float


def prediction_in(notes: Iterable[str]) -> Prediction | None:
    """The one in a plan's notes; None where there is none."""
    found = next(filter(None, map(_NOTE.search, notes)), None)
    return Prediction(*map(float, found.groups())) if found is not None else None


def outcome_of(story: RunStory) -> Outcome | None:
    """The prediction in the plan beside the steps that were taken; None without one of them."""
    found = prediction_in(story.plan.notes)
    steps = [value for rank in story.ranks if (value := per_step(rank.steps, lambda record: record.step_s)) is not None]
    computing = [
        value for rank in story.ranks if (value := per_step(rank.steps, lambda record: record.compute_s)) is not None
    ]
    if found is None or not steps:
        return None
    return Outcome(found.step_s, found.compute_s, found.wire_s, max(steps), max(computing))
