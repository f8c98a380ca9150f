"""How far a run was from what its plan predicted. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from smolcluster.observe.curves import per_step
from smolcluster.observe.report import RunStory


@dataclass(frozen=True)
class Outcome:
    """Seconds of a step: as predicted, and as they were; `compute_s` is the slowest rank's, both times."""

    step_s: float
    compute_s: float
    wire_s: float
    was_step_s: float
    was_compute_s: float


def outcome_of(story: RunStory) -> Outcome | None:
    """The plan's prediction beside the steps that were taken; None without one of them.

    A plan that was made before predictions were kept has none, whatever its notes say.
    """
    said = story.plan.predicted
    steps = [value for rank in story.ranks if (value := per_step(rank.steps, lambda record: record.step_s)) is not None]
    computing = [
        value for rank in story.ranks if (value := per_step(rank.steps, lambda record: record.compute_s)) is not None
    ]
    if said is None or not steps:
        return None
    return Outcome(said.step_s, said.compute_s, said.wire_s, max(steps), max(computing))
