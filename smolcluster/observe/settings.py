"""What was decided before a run, flat: a line for each setting, by its dotted key. Pure."""

from __future__ import annotations

import json
from typing import Any

from smolcluster.observe.report import RunStory
from smolcluster.plan.types import Plan, ServePlan


def flat_config(story: RunStory) -> dict[str, str]:
    """A run's settings as text, and what the plan made of them. Ports are of one start, and no setting."""
    return flat_plan(story.plan)


def flat_serving(plan: ServePlan) -> dict[str, str]:
    """The same of a served model."""
    flat = dict(_leaves(plan.serve.model_dump(mode="json", exclude={"stages"}), ""))
    flat["nodes"] = ", ".join(rank.node for rank in plan.ranks)
    flat["stages"] = ", ".join(f"{stage.start}:{stage.stop}" for stage in plan.stages)
    return flat | {"cluster": plan.cluster, "params": str(plan.params)}


def flat_plan(plan: Plan) -> dict[str, str]:
    """The same, before anything was done."""
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
