"""Which hosts a lab has, what is plugged into what, and how fast it is. Pure: made from an inventory file.

An Ethernet network of two machines is a cable, a Thunderbolt network a chain of cables (or a cycle, or any cables a
test names), a Wi-Fi network an access point that all its members see. A Mac has its ports whether they are used or not.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from smolcluster.spec.cluster import ClusterSpec, Kind, Medium, Network
from smolcluster.spec.inventory import load_inventory

INVENTORY = Path(__file__).parents[2] / "inventory" / "home.smol.yml"
# The hotspot itself, and where the addresses of members begin that the inventory knows by name only.
_ROUTER, _FIRST_LEASE = 1, 11
# Megabits a second of a new lab. Thunderbolt is what the processor gives: shaping that fast costs more than the copy.
SPEEDS_MBPS: dict[Medium, float | None] = {"thunderbolt": None, "ethernet": 940.0, "wifi": 300.0}
MTU = 1500
# What the medium carries at most; a port starts with MTU.
_MAX_MTU: dict[Medium, int] = {"thunderbolt": 9000, "ethernet": 9000, "wifi": 1500}


@dataclass(frozen=True)
class Port:
    """A socket of a machine. `outer` is the name of its other end in the lab's outermost network namespace."""

    host: str
    device: str
    label: str
    medium: Medium
    mac: str
    outer: str

    @property
    def max_mtu(self) -> int:
        """The largest packet it can carry, bytes."""
        return _MAX_MTU[self.medium]

    @property
    def uuid(self) -> str:
        """What a Thunderbolt controller calls itself: the same at each start."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.host}/{self.device}")).upper()

    @property
    def link_local(self) -> str:
        """The IPv6 address that an interface of this MAC gives itself (RFC 4291, appendix A)."""
        octets = bytes.fromhex(self.mac.replace(":", ""))
        packed = b"\xfe\x80" + bytes(6) + bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
        return str(ipaddress.IPv6Address(packed))


@dataclass(frozen=True)
class Segment:
    """What joins ports: a cable (two) or an access point (any number). `bridge` is its name in the outermost one."""

    network: str
    medium: Medium
    bridge: str
    ports: tuple[Port, ...]
    router: str | None = None  # the access point's own address, with the prefix length
    leases: tuple[tuple[str, str], ...] = ()  # which address it gives to whom, as address/prefix


@dataclass(frozen=True)
class Machine:
    """A host: its kind, its ports, and whom it hangs on when it is not on the Wi-Fi."""

    name: str
    kind: Kind
    ports: tuple[Port, ...]
    memory_mb: int | None = None
    behind: str | None = None

    def port(self, device: str) -> Port:
        """The port of that name. KeyError if there is none."""
        for port in self.ports:
            if port.device == device:
                return port
        raise KeyError(device)


@dataclass(frozen=True)
class Wiring:
    """All of it."""

    cluster: ClusterSpec
    machines: tuple[Machine, ...]
    segments: tuple[Segment, ...]

    def machine(self, name: str) -> Machine:
        """The machine of that name. KeyError if there is none."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise KeyError(name)

    def wifi_address(self, name: str) -> str | None:
        """A host's address on the Wi-Fi, without the prefix; None when it is not there."""
        for segment in self.segments:
            for host, lease in segment.leases:
                if host == name:
                    return lease.partition("/")[0]
        return None


def wiring(
    inventory: Path = INVENTORY,
    only: Sequence[str] | None = None,
    thunderbolt: Sequence[tuple[str, str]] | None = None,
) -> Wiring:
    """The lab of an inventory's machines (`only` some of them). `thunderbolt` names the cables between Macs; without it
    they are chained in the order of the network's members. ValueError for a cable that has no free port."""
    cluster = load_inventory(inventory)
    names = [node.name for node in cluster.nodes if only is None or node.name in only]
    taken = {name: _sockets(index, name, cluster.node(name).kind) for index, name in enumerate(names)}
    used: set[Port] = set()
    segments: list[Segment] = []

    def plug(host: str, medium: Medium) -> Port:
        for port in taken[host]:
            if port.medium == medium and port not in used:
                used.add(port)
                return port
        raise ValueError(f"{host} has no free {medium} port")

    def segment(network: Network, members: Sequence[str]) -> Segment:
        ports = tuple(plug(name, network.medium) for name in members)
        return Segment(network.name, network.medium, f"seg{len(segments)}", ports)

    for network in cluster.networks:
        members = [name for name in network.members if name in names]
        if network.medium == "wifi" and members:
            segments.append(_with_leases(segment(network, members), network))
        elif network.medium == "thunderbolt":
            for ends in pairwise(members) if thunderbolt is None else thunderbolt:
                segments += [segment(network, ends)]
        elif network.medium == "ethernet" and len(members) > 1:
            segments.append(segment(network, members))
    machines = []
    for name in names:
        node = cluster.node(name)
        machine = Machine(name, node.kind, tuple(taken[name]), node.memory_mb)
        machines.append(replace(machine, behind=_gateway(cluster, name, segments)))
    return Wiring(cluster, tuple(machines), tuple(segments))


def _sockets(index: int, name: str, kind: Kind) -> list[Port]:
    """The ports that a machine of this kind has. A MacBook's Wi-Fi is en0; a mini's is en1, after its Ethernet."""
    found: list[tuple[str, str, Medium]]
    if kind == "macos" and name.startswith("macbook"):
        found = [("en0", "Wi-Fi", "wifi"), *_thunderbolts(first=1)]
    elif kind == "macos":
        found = [("en0", "Ethernet", "ethernet"), ("en1", "Wi-Fi", "wifi"), *_thunderbolts(first=2)]
    elif kind == "linux":
        found = [("eth0", "Ethernet", "ethernet")]
    else:
        found = [("wlan0", "Wi-Fi", "wifi")]
    return [
        Port(name, device, label, medium, f"02:53:4d:4c:{index:02x}:{number:02x}", f"p{index}-{device}")
        for number, (device, label, medium) in enumerate(found)
    ]


def _thunderbolts(first: int) -> list[tuple[str, str, Medium]]:
    return [(f"en{first + number}", f"Thunderbolt {number + 1}", "thunderbolt") for number in range(3)]


def _with_leases(segment: Segment, network: Network) -> Segment:
    """An access point's own address and those of its members: what the inventory says, else the next free one."""
    assert network.subnet is not None, network.name
    subnet = ipaddress.ip_network(network.subnet)
    leases: list[tuple[str, str]] = []
    for number, port in enumerate(segment.ports):
        said = network.members[port.host]
        try:
            address = ipaddress.ip_address(said)
        except ValueError:
            address = subnet[_FIRST_LEASE + number]
        leases.append((port.host, f"{address}/{subnet.prefixlen}"))
    return replace(segment, router=f"{subnet[_ROUTER]}/{subnet.prefixlen}", leases=tuple(leases))


def _gateway(cluster: ClusterSpec, name: str, segments: Sequence[Segment]) -> str | None:
    """The machine that one without Wi-Fi is plugged into."""
    mine = [segment for segment in segments if name in {port.host for port in segment.ports}]
    if any(segment.medium == "wifi" for segment in mine):
        return None
    for segment in mine:
        gateways = cluster_network(cluster, segment.network).gateways.values()
        for port in segment.ports:
            if port.host != name and port.host in gateways:
                return port.host
    return None


def cluster_network(cluster: ClusterSpec, name: str) -> Network:
    """The network of that name. KeyError if there is none."""
    for network in cluster.networks:
        if network.name == name:
            return network
    raise KeyError(name)
