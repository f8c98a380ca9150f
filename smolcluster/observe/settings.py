"""What was decided before a run, flat: a line for each setting, by its dotted key. Pure."""

from __future__ import annotations

import json
from typing import Any

from smolcluster.observe.report import RunStory


def flat_config(story: RunStory) -> dict[str, str]:
    """A run's settings as text, and what the plan made of them. Ports are of one start, and no setting."""
    plan = story.plan
    flat = dict(_leaves(plan.run.model_dump(mode="json", exclude={"participants"}), ""))
    flat["nodes"] = ", ".join(rank.node for rank in plan.ranks)
    flat["samples"] = ", ".join(str(rank.samples) for rank in plan.ranks)
    flat |= {"cluster": plan.cluster, "global_batch": str(plan.global_batch), "params": str(plan.params)}
    flat |= {"transport": plan.transport, "wire": plan.wire}
    if plan.stages:
        flat["stages"] = ", ".join(f"{start}:{stop}" for start, stop in plan.stages)
    return flat


def _leaves(value: Any, at: str) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [leaf for key, below in value.items() for leaf in _leaves(below, f"{at}.{key}" if at else str(key))]
    return [(at, value if isinstance(value, str) else json.dumps(value))]
