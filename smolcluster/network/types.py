"""The wanted state of a home network, and what stands between it and a found one. Frozen values, written as JSON."""

from __future__ import annotations

from typing import Literal

from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import Kind, Medium

NETWORK_SCHEMA = 1


class Interface(Frozen):
    """A machine's place on a wire. `managed` says whether its address is ours to set: on a cable of one's own it is,
    on a network whose router hands addresses out it is not. `address` is a name where only the router knows it."""

    network: str
    medium: Medium
    address: str
    prefix: int | None
    managed: bool


class RouteWanted(Frozen):
    """The way to a whole wire: `via` is the next gateway's address on `over`, a wire the machine is on itself.

    `via` is a name where only a router knows the address; whoever sets the route looks it up first.
    """

    network: str
    subnet: str
    over: str
    via: str
    gateway: str


class HostWanted(Frozen):
    """One machine: where it is, whether it forwards, and its ways to the wires it is not on, in the file's order."""

    node: str
    kind: Kind
    interfaces: tuple[Interface, ...]
    forwards: bool
    routes: tuple[RouteWanted, ...]


class Gap(Frozen):
    """Two machines that will not reach each other, although the inventory has a way, and why."""

    src: str
    dst: str
    why: str


class NetworkWanted(Frozen):
    """Every machine that can be set up, and what stays out of reach."""

    schema_version: int = NETWORK_SCHEMA
    cluster: str
    hosts: tuple[HostWanted, ...]
    gaps: tuple[Gap, ...]

    def host(self, node: str) -> HostWanted:
        """The machine of that name. KeyError if there is none."""
        for host in self.hosts:
            if host.node == node:
                return host
        raise KeyError(node)


class Change(Frozen):
    """One thing to be done on a machine. `wanted` and `found` are empty where there is none.

    `key` says what it is about: the wire of an address, the subnet of a route.
    """

    node: str
    what: Literal["address", "forwarding", "route"]
    key: str
    wanted: str
    found: str

    @property
    def action(self) -> Literal["add", "change", "remove"]:
        """What happens."""
        if not self.found:
            return "add"
        return "change" if self.wanted else "remove"

    def __str__(self) -> str:
        """A line of the diff that a person sees."""
        head = f"{self.node}: {self.what} {self.key}"
        told = {"add": f"+ {self.wanted}", "remove": f"- {self.found}", "change": f"{self.found} -> {self.wanted}"}
        return f"{head}: {told[self.action]}"


class Conflict(Frozen):
    """Why a machine must not be set up as the inventory says: what is the matter and how to mend it."""

    node: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.node}: {self.what}\n    fix: {self.fix}"
