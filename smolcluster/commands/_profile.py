"""profile.json: where it lies, read, and the plan of a training made with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from smolcluster.certs.ledger import refuse_uncertified
from smolcluster.certs.places import authority_folder
from smolcluster.commands._inventory import naming
from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.make import make_plan
from smolcluster.plan.measure import make_profile_plan
from smolcluster.plan.profile import PROFILE_SCHEMA, Profile, concerns
from smolcluster.plan.types import Plan, ServePlan
from smolcluster.runtime.runfolder import PROFILE
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.document import display
from smolcluster.spec.request import Request, Resolved
from smolcluster.spec.resolve import resolve


def plan_training(
    request: Request,
    profile: Path | None = None,
    measure: bool = False,
    certify: bool = True,
    told: Callable[[ClusterSpec], ClusterSpec] | None = None,
) -> tuple[Resolved, Plan]:
    """The request resolved, and its plan. `profile` None takes profile.json beside the inventory where there is one.

    `measure`: the plan of measuring its machines instead, which needs none. `certify`: nodes whose certificate would be
    refused are. `told`: the machines of the inventory with what else is known of them. ConfigError with all Problems.
    """
    with naming(request.inventory):
        resolved, plan = _planned(request, profile, measure, told)
        if certify:
            certified(plan)
        return resolved, plan


def _planned(
    request: Request, profile: Path | None, measure: bool, told: Callable[[ClusterSpec], ClusterSpec] | None
) -> tuple[Resolved, Plan]:
    problems: tuple[Problem, ...] = ()
    speeds: Profile | None = None
    inputs: dict[str, str] = {}
    if measure:
        request = to_measure(request)
    else:
        try:
            speeds, inputs = read_profile(profile, request.inventory)
        except ConfigError as error:
            problems = error.problems
    try:
        resolved = resolve(request)
    except ConfigError as error:
        raise ConfigError((*problems, *error.problems)) from None
    if problems:
        raise ConfigError(problems)
    if told is not None:
        resolved = replace(resolved, cluster=told(resolved.cluster))
    cluster, run, notes = resolved.cluster, resolved.run, resolved.notes
    plan: Plan
    if measure:
        plan = make_profile_plan(cluster, run, notes, resolved.inputs, request.ca)
    else:
        if speeds is not None and not concerns(speeds, cluster, run):
            speeds, inputs = None, {}
        plan = make_plan(cluster, run, notes, {**resolved.inputs, **inputs}, speeds, request.ca)
    return resolved, plan


def certified(plan: Plan | ServePlan) -> None:
    """InputError where a link is encrypted and one of the nodes has no certificate, or not any more."""
    if plan.ca:
        refuse_uncertified(authority_folder(), dict.fromkeys(rank.node for rank in plan.ranks))


def to_measure(request: Request) -> Request:
    """The request of measuring: one machine alone tells nothing of the others."""
    return replace(request, strategy="classicdp") if request.strategy == "single" else request


def profile_of(inventory: Path) -> Path:
    """Where the plan looks for it."""
    return inventory.parent / PROFILE


def read_profile(path: Path | None, inventory: Path) -> tuple[Profile | None, dict[str, str]]:
    """Measured speeds, and the file's SHA-256 by its name; none where no file is named or lies beside the inventory."""
    file = path or profile_of(inventory)
    if path is None and not file.is_file():
        return None, {}
    name = display(file)
    again = (
        "measure again (python -m smolcluster profile, or ansible-playbook train.yml -e profile=true),"
        ' or write {"schema": 1, "speeds": {"mini1": 2.0, "pi5": 0.5}}'
    )
    try:
        raw = file.read_bytes()
        profile = Profile.model_validate_json(raw)
    except OSError as error:
        raise ConfigError([Problem(name, 0, "", f"cannot be read: {error.strerror}", "check the path")]) from None
    except ValidationError as error:
        raise ConfigError(
            Problem(name, 0, ".".join(map(str, item["loc"])), item["msg"], again) for item in error.errors()
        ) from None
    if profile.schema_ != PROFILE_SCHEMA:
        what = f"is version {profile.schema_}; this smolcluster reads version {PROFILE_SCHEMA}"
        raise ConfigError([Problem(name, 0, "schema", what, again)])
    return profile, {name: hashlib.sha256(raw).hexdigest()}
