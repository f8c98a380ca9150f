"""Whether a new run goes on with what an earlier one did: asked before anything starts, from both plans.

A resumed run takes the earlier one's settings where nothing else was said (spec/resumed.py). What cannot go on (another
model, nothing left to train) is refused; what was said to be different (data, strategy, machines, batch) is told.
"""

from __future__ import annotations

from smolcluster.commands._resume import Found, plan_of
from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.types import Plan
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.spec.run import DataSpec


def continued(found: Found, plan: Plan, flag: str = "--resume") -> Plan:
    """The plan, with notes on what changes. ConfigError, with all problems, if it cannot go on from `found`."""
    return plan.model_copy(update={"notes": (*plan.notes, *require_continues(found, plan, flag))})


def require_continues(found: Found, plan: Plan, flag: str) -> list[str]:
    """What changes, a line each. ConfigError, with all problems, if `plan` cannot go on from `found`."""
    problems = []
    run_id = found.folder.name
    if plan.run.init is not None:
        what = "a run starts from given weights or from a checkpoint, not from both"
        problems.append(Problem(flag, 0, "init", what, "leave init or resume away"))
    if found.step is not None and plan.run.training.max_steps is not None and found.step >= plan.run.training.max_steps:
        what = f"nothing is left to train: {run_id} has made {found.step} steps, and this run ends after"
        fix = (
            f"raise it above {found.step}: --override training.max_steps={2 * found.step} "
            f"(of a playbook: -e override=training.max_steps={2 * found.step})"
        )
        problems.append(Problem(flag, 0, "training.max_steps", f"{what} {plan.run.training.max_steps}", fix))
    before = plan_of(found)
    notes: list[str] = []
    if before is None:
        notes.append(f"{run_id} has no plan that can be read here: its settings are not known, and not compared")
    else:
        problems += _other_model(before, plan, run_id, flag)
        notes += _other_data(before.run.data, plan.run.data, found)
        if _way(before) != _way(plan):
            notes.append(f"{run_id} was {_way(before)}; this run is {_way(plan)}")
    if problems:
        raise ConfigError(problems)
    return notes


def _other_model(before: Plan, plan: Plan, run_id: str, flag: str) -> list[Problem]:
    old, new = before.run.model.model_dump(), plan.run.model.model_dump()
    if old["type"] != new["type"]:
        what = f"{run_id} trained the model {old['type']}, this run is for {new['type']}"
        return [Problem(flag, 0, "model", what, f"say model {old['type']} again, or start anew without resume")]
    # Dropout is how one trains; what a vocabulary is the data decides; positions follow from the length.
    free = ("dropout", "vocab_size", "num_positions")
    keys = [key for key in old if key not in free and old[key] != new.get(key)]
    return [
        Problem(flag, 0, f"model.{key}", f"{run_id} has {old[key]}, this run {new.get(key)}", f"leave it at {old[key]}")
        for key in keys
    ]


def _other_data(old: DataSpec, new: DataSpec, found: Found) -> list[str]:
    if _shown(old) == _shown(new):
        return []
    note = f"{found.folder.name} was trained on {_shown(old)}, this run goes on with {_shown(new)}"
    if new.tokenizer.startswith("bpe:"):
        note += "; the tokenizer is trained anew on them, and its tokens are others"
        model = RunFolder(found.folder).model
        if (model / "tokenizer.json").is_file():
            note += f" (--override data.tokenizer={model} keeps the one it had)"
    return [note]


def _shown(data: DataSpec) -> str:
    return f"{data.path or data.dataset}, tokenizer {data.tokenizer}"


def _way(plan: Plan) -> str:
    stage = f" stage {plan.run.fsdp_stage}" if plan.run.strategy == "fsdp" else ""
    side = f" in {plan.replicas} pipelines" if plan.replicas > 1 else ""
    return f"{plan.run.strategy}{stage} on {plan.world_size} rank(s){side}, {plan.global_batch} samples a step"
