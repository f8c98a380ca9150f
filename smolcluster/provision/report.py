"""setup.json: what setup.yml made of each machine, as one object, and what makes it. Pure."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any

from pydantic import Field, ValidationError

from smolcluster import __version__
from smolcluster.provision.facts import Found
from smolcluster.provision.plan import State, Step
from smolcluster.spec.base import Frozen

REPORT_SCHEMA = 1
# Of what a task said when it failed, the end: there pip and others say why.
_MOST_CHARACTERS = 4000


class Failure(Frozen):
    """The task that failed on a machine, and what it said."""

    task: str
    message: str


class Told(Frozen):
    """What the playbook knows of a machine. `looked` and `put` are node.py's words, before and after an install."""

    name: str
    kind: str
    address: str
    user: str
    why_not: str
    well: bool
    failed: Failure | None
    looked: str
    step: Step | None
    put: str


class Asked(Frozen):
    """What the playbook gives: the tags that were played, and its machines."""

    tags: tuple[str, ...]
    machines: tuple[Told, ...]


class Environment(Frozen):
    """What the role runtime found or made. `state` is what was to be done there, `whole` whether smolcluster's
    environment is as it should be; `python` is what it is made of. What is not known is empty.
    """

    state: State
    why: str
    whole: bool
    system: str = ""
    python: str = ""
    python_version: str = ""
    torch: str = ""
    build: str = ""
    extras: tuple[str, ...] = ()
    cuda: bool | None = None
    free_mb: int | None = None


class Machine(Frozen):
    """One row. `why_not`: why it was not reached; `well`: whether all was done; `environment` is None where the role
    runtime was not played, or did not come so far.
    """

    name: str
    kind: str
    address: str
    user: str
    hostname: str
    reached: bool
    why_not: str
    well: bool
    failed: Failure | None
    environment: Environment | None


class Setup(Frozen):
    """setup.json."""

    schema_: int = Field(default=REPORT_SCHEMA, alias="schema", serialization_alias="schema")
    time: str
    smolcluster: str
    tags: tuple[str, ...]
    machines: tuple[Machine, ...]


def setup_of(asked: Asked, now: datetime.datetime, clean: Callable[[str], str]) -> Setup:
    """The report. `clean` takes secrets out of what others said: pip's index may have a password in its address."""
    return Setup(
        time=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        smolcluster=__version__,
        tags=asked.tags,
        machines=tuple(_machine(told, clean) for told in asked.machines),
    )


def _machine(told: Told, clean: Callable[[str], str]) -> Machine:
    found = _found(told.looked)
    failed = told.failed
    if failed is not None:
        failed = Failure(task=failed.task, message=clean(failed.message)[-_MOST_CHARACTERS:])
    return Machine(
        name=told.name,
        kind=told.kind,
        address=told.address,
        user=told.user,
        hostname=found.node if found is not None else "",
        reached=not told.why_not,
        why_not=clean(told.why_not),
        well=told.well,
        failed=failed,
        environment=_environment(told.step, found, _object(told.put), clean) if told.step is not None else None,
    )


def _environment(step: Step, found: Found | None, put: dict[str, Any], clean: Callable[[str], str]) -> Environment:
    """`put` is empty where nothing was installed, or not to the end."""
    known = Environment(state=step.state, why=clean(step.why), whole=step.state == "ready" or bool(put))
    if found is None:
        return known
    # As runtime.json will have it, or has it.
    note = {**step.order.get("note", {}), **put} if step.state == "install" else found.note
    python = str(note.get("python", ""))
    # Where there is no environment, the interpreter that would come first says what the machine is.
    made_of = next((one for one in found.interpreters if one.python == python), None)
    one = made_of or next(iter(found.interpreters), None)
    names = ("platform_system", "platform_release", "platform_machine")
    changes: dict[str, Any] = {
        "system": " ".join(one.markers.get(name, "") for name in names).strip() if one is not None else "",
        "python": python,
        "python_version": ".".join(map(str, made_of.version)) if made_of is not None else "",
        "torch": str(note.get("torch", "")),
        "build": str(note.get("build", "")),
        "extras": tuple(map(str, note.get("extras", ()))),
        "cuda": found.cuda,
        "free_mb": found.free_mb,
    }
    return known.model_copy(update=changes)


def _found(text: str) -> Found | None:
    """None where nobody looked, or what came is no such answer: a report is made all the same."""
    try:
        return Found.model_validate_json(text)
    except ValidationError:
        return None


def _object(text: str) -> dict[str, Any]:
    """Whatever JSON object it is; empty where it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
