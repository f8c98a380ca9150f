"""What is done to a machine: settings, each with the value it had and the one it gets, so that each can be taken back.

A step says what changes; actions/ says with which commands on which OS.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from smolcluster.errors import Problem
from smolcluster.network.found import Ipv4, KeptRoute
from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import Kind

PLAN_SCHEMA = 1


class _Change(Frozen):
    """`profile` is what the OS's commands name the settings by. `live`: they are in force already when this is done."""

    node: str
    os: Kind
    device: str = ""
    profile: str = ""
    live: bool = True

    def inverse(self) -> Self:
        """The step that takes this one back, exactly."""
        return self.model_copy(update={"before": getattr(self, "after"), "after": getattr(self, "before")})  # noqa: B009 - each kind of step has them, with a type of its own


class ProfileStep(_Change):
    """A profile of ours is there or not."""

    kind: Literal["profile"] = "profile"
    before: bool
    after: bool


class MembersStep(_Change):
    """The members of a bridge."""

    kind: Literal["members"] = "members"
    before: tuple[str, ...]
    after: tuple[str, ...]


class Ipv4Step(_Change):
    """How the interface comes by its address."""

    kind: Literal["ipv4"] = "ipv4"
    before: Ipv4
    after: Ipv4


class AliasStep(_Change):
    """An address that a Mac's loopback has besides its own; None: none of ours. No service can keep it there."""

    kind: Literal["alias"] = "alias"
    before: str | None
    after: str | None


class MtuStep(_Change):
    """The largest packet, in bytes; None is the OS's default."""

    kind: Literal["mtu"] = "mtu"
    before: int | None
    after: int | None


class RoutesStep(_Change):
    """All routes kept with the profile."""

    kind: Literal["routes"] = "routes"
    before: tuple[KeptRoute, ...]
    after: tuple[KeptRoute, ...]


class ActiveStep(_Change):
    """Which profile is in force on the interface; None: none that we know."""

    kind: Literal["active"] = "active"
    before: str | None
    after: str | None


class ForwardingStep(_Change):
    """Whether the machine forwards, now."""

    kind: Literal["forwarding"] = "forwarding"
    before: bool
    after: bool


class BootStep(_Change):
    """The file of ours that is read at boot; None: there is none."""

    kind: Literal["boot"] = "boot"
    before: str | None
    after: str | None


Step = Annotated[
    ProfileStep | MembersStep | Ipv4Step | AliasStep | MtuStep | RoutesStep | ActiveStep | ForwardingStep | BootStep,
    Field(discriminator="kind"),
]


class Action(Frozen):
    """One command, or (with `path`) a file to write, `text` None: to remove. All need an administrator's rights.

    `passing`: what it sets, a reboot ends; where it cannot be undone, nothing lasts of it. `may_fail`: what it ends may
    not be there, and what it begins comes by itself with the next boot.
    """

    argv: tuple[str, ...] = ()
    path: str | None = None
    text: str | None = None
    passing: bool = False
    may_fail: bool = False


class HostPlan(Frozen):
    """What is done to one machine, in order. With problems nothing of it is to be done."""

    schema_: int = Field(default=PLAN_SCHEMA, alias="schema", serialization_alias="schema")
    node: str
    os: Kind
    steps: tuple[Step, ...] = ()
    problems: tuple[Problem, ...] = ()

    def rollback(self) -> tuple[Step, ...]:
        """The steps that take the plan back, in order."""
        return tuple(step.inverse() for step in reversed(self.steps))


def described(plan: HostPlan) -> str:
    """A machine's steps as a person reads them."""
    count = len(plan.steps)
    words = "nothing to do" if not count else "1 step" if count == 1 else f"{count} steps"
    steps = ["  " + describe(step).replace("\n", "\n  ") for step in plan.steps]
    return "\n".join([f"{plan.node}: {words}", *steps])


def describe(step: Step) -> str:
    """Two lines, as a diff shows them."""
    where = " ".join(part for part in (step.device, step.kind) if part)
    return f"{where}\n  - {_shown(step.before)}\n  + {_shown(step.after)}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value) or "none"
    text = str(value)
    return text if "\n" not in text else text.rstrip("\n").replace("\n", "\n    ")
