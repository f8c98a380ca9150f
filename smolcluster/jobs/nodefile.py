"""node.yaml and the plan it names: read once, checked, turned into frozen objects."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import yaml
from pydantic import ValidationError

from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.types import KINDS, NODE_SCHEMA, PLAN_SCHEMA, NodeConfig, Plan, RankPlan, ServePlan

_RENDER = "run the playbook again: node.yaml and plan.json are made by it, not by hand"


def load_node(path: Path) -> NodeConfig:
    """Read a host's node.yaml. ConfigError with every problem in it."""
    raw = _read(path)
    try:
        value = yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), 0, "", f"not YAML: {error}", _RENDER)]) from error
    if isinstance(value, dict) and value.get("schema", NODE_SCHEMA) != NODE_SCHEMA:
        raise ConfigError([_other_schema(path, value["schema"], NODE_SCHEMA)])
    try:
        return NodeConfig.model_validate(value)
    except ValidationError as error:
        raise ConfigError(_problems(path, error)) from error


def load_plan(config: NodeConfig) -> Plan | ServePlan:
    """Read the plan a node.yaml names. ConfigError if it is missing, broken, or not the one this node was told of."""
    path = Path(config.plan_file)
    raw = _read(path)
    try:
        plan = _kind(raw).model_validate_json(raw)
    except ValidationError as error:
        raise ConfigError(_problems(path, error)) from error
    if plan.schema_ != PLAN_SCHEMA:
        raise ConfigError([_other_schema(path, plan.schema_, PLAN_SCHEMA)])
    if plan.digest() != config.plan_digest:
        found = hashlib.sha256(raw).hexdigest()
        what = f"this is not the plan node.yaml was made for (expected {config.plan_digest[:12]}, found {found[:12]})"
        raise ConfigError([Problem(str(path), 0, "plan_digest", what, _RENDER)])
    return plan


def _kind(raw: bytes) -> type[Plan | ServePlan]:
    """The plan of a training, which does not say so, or of another kind. Text that is none is reported as a Plan."""
    try:
        value = json.loads(raw)
    except ValueError:
        return Plan
    return KINDS.get(str(value.get("kind")), Plan) if isinstance(value, dict) else Plan


def ranks_of(config: NodeConfig, plan: Plan | ServePlan) -> tuple[RankPlan, ...]:
    """This node's ranks, in order. ConfigError if the plan gives them to another node, or has none for this one."""
    mine = tuple(rank for rank in plan.ranks if rank.node == config.node)
    if not mine or tuple(rank.rank for rank in mine) != config.ranks:
        planned = ", ".join(str(rank.rank) for rank in mine) or "none"
        what = f"the plan gives {config.node} the ranks: {planned}; node.yaml says {list(config.ranks)}"
        raise ConfigError([Problem(config.plan_file, 0, "ranks", what, _RENDER)])
    return mine


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {error.strerror}", _RENDER)]) from error


def _other_schema(path: Path, found: object, known: int) -> Problem:
    fix = "use the same version of smolcluster on the controller and on this node (ansible-playbook setup.yml)"
    return Problem(str(path), 0, "schema", f"schema {found} is not known here (this version writes {known})", fix)


def _problems(path: Path, error: ValidationError) -> list[Problem]:
    return [
        Problem(str(path), 0, ".".join(str(part) for part in item["loc"]), item["msg"], _RENDER)
        for item in error.errors()
    ]
