"""How far a run was from what its plan predicted. Pure.

A plan that knew measured speeds says in its notes how long a step should take (plan/balance.py): that is all it keeps.
"""

from __future__ import annotations

import re
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


def outcome_of(story: RunStory) -> Outcome | None:
    """The prediction in the plan beside the steps that were taken; None without one of them."""
    found = next(filter(None, map(_NOTE.search, story.plan.notes)), None)
    steps = [value for rank in story.ranks if (value := per_step(rank.steps, lambda record: record.step_s)) is not None]
    computing = [
        value for rank in story.ranks if (value := per_step(rank.steps, lambda record: record.compute_s)) is not None
    ]
    if found is None or not steps:
        return None
    step_s, compute_s, wire_s = map(float, found.groups())
    return Outcome(step_s, compute_s, wire_s, max(steps), max(computing))
