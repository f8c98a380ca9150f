"""The network as it should be: values that follow from the inventory alone, and from how the Macs are cabled."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import Field

from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import Kind, Medium

WANTED_SCHEMA = 1
DEFAULT_MTU = 1500
Fabric = Literal["bridged", "routed"]


class CableEnd(Frozen):
    """A Mac's Thunderbolt port: the machine and the network device of the port (en2)."""

    node: str
    device: str


class Cable(Frozen):
    """A Thunderbolt cable between two machines, the end with the smaller name first."""

    a: CableEnd
    b: CableEnd

    def other(self, node: str) -> CableEnd:
        """The end that is not that machine's."""
        return self.b if self.a.node == node else self.a

    def end(self, node: str) -> CableEnd:
        """That machine's end."""
        return self.a if self.a.node == node else self.b


class WantedAddress(Frozen):
    """An address on a wire, `10.10.0.1/24`. `device` is given where only one will do: a port, or the inventory's word.

    A routed Thunderbolt fabric has one of these per cable, `peer` being the machine at its other end.
    """

    network: str
    medium: Medium
    address: str
    mtu: int = DEFAULT_MTU
    device: str | None = None
    peer: str | None = None

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """The subnet of the address."""
        return ipaddress.IPv4Interface(self.address).network

    @property
    def ip(self) -> str:
        """The address without its prefix."""
        return self.address.partition("/")[0]


class WantedRoute(Frozen):
    """The way to a subnet: over the wire `network`, to the machine `gateway`, whose address there is `via`.

    `via` is a name (mini1.local) where a router hands addresses out; the found state then tells the address. `device`
    is given on a routed Thunderbolt cable.
    """

    destination: str
    network: str
    gateway: str
    via: str
    device: str | None = None


class WantedHost(Frozen):
    """One machine. `managed` is False where nobody can set anything (a tablet).

    `kept_address` is the machine's own address on a routed Thunderbolt fabric, kept on its loopback. `bridge_ports`
    are the Thunderbolt devices with a cable: members of the bridge, or (fabric routed) not.
    """

    node: str
    kind: Kind
    managed: bool
    forwards: bool
    addresses: tuple[WantedAddress, ...] = ()
    routes: tuple[WantedRoute, ...] = ()
    fabric: Fabric | None = None
    kept_address: str | None = None
    bridge_ports: tuple[str, ...] = ()


class Wanted(Frozen):
    """The whole network, machines in the inventory's order. The same inputs give the same value.

    `notes` tell what was assumed and what cannot be had.
    """

    schema_: int = Field(default=WANTED_SCHEMA, alias="schema", serialization_alias="schema")
    cluster: str
    hosts: tuple[WantedHost, ...]
    notes: tuple[str, ...] = ()

    def host(self, node: str) -> WantedHost:
        """The host of that name. KeyError if there is none."""
        for host in self.hosts:
            if host.node == node:
                return host
        raise KeyError(node)

    def to_json(self) -> str:
        """The canonical text."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"
