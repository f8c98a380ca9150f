"""Whether a new run goes on with what an earlier one did: asked before anything starts, from both plans.

A resumed run takes its settings from its own command line. What would be a mistake in silence (another text, another
model, nothing left to train) is refused; what may change on purpose (strategy, machines, batch) is told.
"""

from __future__ import annotations

from pydantic import ValidationError

from smolcluster.commands._resume import Found
from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.types import Plan
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.spec.run import DataSpec


def require_continues(found: Found, plan: Plan, flag: str, other_data: bool) -> list[str]:
    """What changes, a line each. ConfigError, with all problems, if `plan` cannot go on from `found`.

    `other_data`: the data was named for this run, so that it may be another on purpose.
    """
    problems = []
    run_id = found.folder.name
    if plan.run.init is not None:
        what = "a run starts from given weights or from a checkpoint, not from both"
        problems.append(Problem(flag, 0, "init", what, "leave init or resume away"))
    if found.step is not None and plan.run.training.max_steps is not None and found.step >= plan.run.training.max_steps:
        what = f"nothing is left to train: {run_id} has made {found.step} steps, and this run ends after"
        fix = f"raise it above {found.step}"
        problems.append(Problem(flag, 0, "training.max_steps", f"{what} {plan.run.training.max_steps}", fix))
    before = _plan_of(found)
    notes: list[str] = []
    if before is not None:
        problems += _other_model(before, plan, run_id, flag)
        old, new = before.run.data, plan.run.data
        if _shown(old) != _shown(new):
            if other_data:
                notes.append(f"{run_id} was trained on {_shown(old)}, this run goes on with {_shown(new)}")
            else:
                what = f"{run_id} was trained on {_shown(old)}; this run would take {_shown(new)}"
                fix = f"name the data again (dataset {old.path or old.dataset}), or others if that is meant"
                problems.append(Problem(flag, 0, "data", what, fix))
        if _way(before) != _way(plan):
            notes.append(f"{run_id} was {_way(before)}; this run is {_way(plan)}")
    if problems:
        raise ConfigError(problems)
    return notes


def _plan_of(found: Found) -> Plan | None:
    """The plan of the run that is resumed; None where only its checkpoints are left."""
    try:
        return Plan.model_validate_json(RunFolder(found.folder).plan.read_bytes())
    except (OSError, ValidationError):
        return None


def _other_model(before: Plan, plan: Plan, run_id: str, flag: str) -> list[Problem]:
    old, new = before.run.model.model_dump(), plan.run.model.model_dump()
    if old["type"] != new["type"]:
        what = f"{run_id} trained the model {old['type']}, this run is for {new['type']}"
        return [Problem(flag, 0, "model", what, f"say model {old['type']} again, or start anew without resume")]
    # Dropout is how one trains; what a vocabulary is the data decides.
    keys = [key for key in old if key not in ("dropout", "vocab_size") and old[key] != new.get(key)]
    return [
        Problem(flag, 0, f"model.{key}", f"{run_id} has {old[key]}, this run {new.get(key)}", f"set it to {old[key]}")
        for key in keys
    ]


def _shown(data: DataSpec) -> str:
    return f"{data.path or data.dataset}, tokenizer {data.tokenizer}"


def _way(plan: Plan) -> str:
    stage = f" stage {plan.run.fsdp_stage}" if plan.run.strategy == "fsdp" else ""
    return f"{plan.run.strategy}{stage} on {plan.world_size} rank(s), {plan.global_batch} samples a step"
