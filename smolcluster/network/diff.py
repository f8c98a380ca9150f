"""Wanted against found -> the steps between the two, machine by machine. Nothing is to be done where nothing differs.

What carries the login is not touched: a change that could cut it off is a problem, and a machine with a problem gets
no steps at all.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from smolcluster.errors import Problem
from smolcluster.network.boot import (
    BOOT_FILES,
    BRIDGE,
    LOOPBACK,
    boot_text,
    kept_by,
    turned_on_forwarding,
    unbridged_by,
)
from smolcluster.network.choose import UnclearError, address_on, device_for, device_on
from smolcluster.network.found import FoundHost, Interface, Ipv4, KeptRoute
from smolcluster.network.profiles import Target, drop_steps, target_steps
from smolcluster.network.read import own_device
from smolcluster.network.steps import AliasStep, BootStep, ForwardingStep, HostPlan, MembersStep, Step
from smolcluster.network.values import Wanted, WantedHost, WantedRoute
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.document import Document, KeyPath
from smolcluster.spec.values import ip_of

_OTHER_WIRE = "log in over another wire (the machine's `host:`), or set it by hand once"


@dataclass(frozen=True)
class Situation:
    """What a plan is made from: the inventory, the network as it should be, and the machines that were asked."""

    cluster: ClusterSpec
    document: Document
    wanted: Wanted
    found: Mapping[str, FoundHost]

    def known_subnets(self) -> frozenset[str]:
        """Every destination that is ours to route: a kept route to one of these is replaced or dropped."""
        routes = {route.destination for host in self.wanted.hosts for route in host.routes}
        return frozenset(routes | {str(a.subnet) for host in self.wanted.hosts for a in host.addresses})

    def own_addresses(self) -> frozenset[str]:
        """Every address that some machine gets: anywhere else it does not belong."""
        kept = {host.kept_address for host in self.wanted.hosts if host.kept_address is not None}
        return frozenset(kept | {a.ip for host in self.wanted.hosts for a in host.addresses})


def plan_network(situation: Situation) -> tuple[HostPlan, ...]:
    """A plan for each machine that was asked and can be set: first those that forward, then the controller, the rest.

    In that order the controller can reach what lies behind a gateway when its turn comes.
    """
    hosts = [host for host in situation.wanted.hosts if host.managed and host.node in situation.found]
    hosts.sort(key=lambda host: turn(host.node, situation))
    return tuple(plan_host(host.node, situation) for host in hosts)


def turn(node: str, situation: Situation) -> int:
    """When a machine is set: 0 those that forward, 1 the controller, 2 the rest. Taking back goes the other way."""
    if situation.wanted.host(node).forwards:
        return 0
    return 1 if node == situation.cluster.controller else 2


def plan_host(node: str, situation: Situation) -> HostPlan:
    """The steps of one machine. KeyError if it was not asked."""
    wanted, found = situation.wanted.host(node), situation.found[node]
    maker = _Maker(situation, wanted, found)
    steps = maker.steps()
    if not found.manager and any(step.kind not in ("boot", "forwarding") for step in steps):
        maker.no_manager()
    problems = tuple(sorted(set(maker.problems)))
    return HostPlan(node=node, os=found.kind, steps=() if problems else tuple(steps), problems=problems)


@dataclass
class _Maker:
    situation: Situation
    wanted: WantedHost
    found: FoundHost
    problems: list[Problem] = field(default_factory=list)
    targets: dict[str, Target] = field(default_factory=dict)

    def steps(self) -> list[Step]:
        if self.found.ssh_address is not None and self.found.ssh_device is None:
            what = f"nothing tells which interface {self.found.ssh_address}, where the login came in, belongs to"
            self._problem(("machines", self.wanted.node, "host"), what, _OTHER_WIRE)
            return []
        self._find_targets()
        self._find_routes()
        steps: list[Step] = []
        for device, interface, more in self._strays():
            steps += self._guarded(device, None, interface, more)
        steps += self._members()
        steps += self._alias()
        for target in self.targets.values():
            steps += self._guarded(target.interface.device, target, target.interface, target_steps(self.found, target))
        return [*steps, *self._forwarding()]

    def _find_targets(self) -> None:
        for address in self.wanted.addresses:
            key: KeyPath = ("networks", address.network, "members", self.wanted.node)
            # What another wire names is not free for this one.
            named = {other.device for other in self.wanted.addresses if other.device and other is not address}
            try:
                interface = device_for(address, self.found, {*self.targets, *named})
            except UnclearError as unclear:
                self._problem(key, str(unclear), unclear.fix)
                continue
            if interface.device in self.targets:
                what = f"{interface.device} is on {self.targets[interface.device].network} already"
                self._problem(key, what, f"write `interfaces: {{{self.wanted.node}: ...}}` in one of the two")
                continue
            ipv4 = Ipv4(method="manual", address=address.address, router=self._router(interface, address.subnet))
            self.targets[interface.device] = Target(interface, address.network, ipv4, address.mtu)

    def _router(self, interface: Interface, subnet: ipaddress.IPv4Network) -> str | None:
        """A default route through a machine on the same cable (one that shares its Internet) is kept."""
        default = self.found.default
        if default is None or default.device != interface.device or default.via is None:
            return None
        return default.via if ipaddress.IPv4Address(default.via) in subnet else None

    def _find_routes(self) -> None:
        for route in self.wanted.routes:
            device = self._leaves_on(route)
            if device is None:
                continue
            target = self.targets.setdefault(device.device, Target(device, route.network, None, None))
            via = self._via(route)
            if via is None or self._is_there(route.destination, target):
                continue
            if self._carries_login_away(route.destination, via):
                login = f"the login from {self.found.ssh_client}"
                what = f"the route to {route.destination} via {via} would take {login} along"
                self._problem(("networks", route.network, "members", self.wanted.node), what, _OTHER_WIRE)
                continue
            target.routes.append(KeptRoute(destination=route.destination, via=via))
        for target in self.targets.values():
            kept = target.profile(self.found.kind)
            known = self.situation.known_subnets()
            others = [r for r in kept.routes if r.destination not in known] if kept is not None else []
            target.routes[:0] = others

    def _leaves_on(self, route: WantedRoute) -> Interface | None:
        if route.device is not None:
            return self.found.interface(route.device)
        set_here = [t.interface for t in self.targets.values() if t.network == route.network and t.ipv4 is not None]
        if set_here:
            return set_here[0]
        if any(address.network == route.network for address in self.wanted.addresses):
            return None  # the address has a problem of its own
        network = next(n for n in self.situation.cluster.networks if n.name == route.network)
        found = device_on(network, self.found)
        if found is None:
            what = f"no interface of {self.wanted.node} is on this wire, or several may be"
            fix = f"connect it, or write `interfaces: {{{self.wanted.node}: ...}}`"
            self._problem(("networks", route.network, "members", self.wanted.node), what, fix)
        return found

    def _via(self, route: WantedRoute) -> str | None:
        if ip_of(route.via) is not None:
            return route.via
        network = next(n for n in self.situation.cluster.networks if n.name == route.network)
        gateway = self.situation.found.get(route.gateway)
        address = address_on(network, gateway) if gateway is not None else None
        if address is None:
            what = f"{self.wanted.node} needs {route.gateway}'s address here for its route to {route.destination}"
            fix = f"give {route.gateway}'s found state too, or write its address for {route.via}"
            self._problem(("networks", route.network, "members", route.gateway), what, fix)
        return address

    def _is_there(self, destination: str, target: Target) -> bool:
        """Whether the machine is on that subnet itself, over a wire the inventory does not know it on."""
        subnet = ipaddress.IPv4Network(destination)
        elsewhere = [one for one in self.found.interfaces if one.up and one.kind != "loopback"]
        mine = {target.interface.device, *self.targets}
        return any(one.ipv4_in(subnet) for one in elsewhere if one.device not in mine and not self._to_be_cleared(one))

    def _to_be_cleared(self, interface: Interface) -> bool:
        """Whether its address is not there for long: one of the inventory's, or of a profile of ours."""
        own = any(own_device(profile.name) == interface.device for profile in interface.profiles)
        return own or any(profile.ipv4.ip in self.situation.own_addresses() for profile in interface.profiles)

    def _carries_login_away(self, destination: str, via: str) -> bool:
        client = ip_of((self.found.ssh_client or "").partition("%")[0])
        if not isinstance(client, ipaddress.IPv4Address) or client not in ipaddress.IPv4Network(destination):
            return False
        ways = [r for r in self.found.routes if client in ipaddress.IPv4Network(r.destination)]
        now = max(ways, key=lambda r: ipaddress.IPv4Network(r.destination).prefixlen, default=None)
        return now is None or now.via != via

    def _strays(self) -> list[tuple[str, Interface, list[Step]]]:
        """Profiles of ours that are not wanted any more; addresses and routes of the inventory out of their place."""
        known, addresses = self.situation.known_subnets(), self.situation.own_addresses()
        found = []
        for interface in self.found.interfaces:
            target = self.targets.get(interface.device)
            keep = target.profile_id(self.found.kind) if target is not None else None
            for profile in interface.profiles:
                if profile.id == keep:
                    continue
                ours = own_device(profile.name) == interface.device
                moved = profile.ipv4.method == "manual" and profile.ipv4.ip in addresses
                stale = tuple(route for route in profile.routes if route.destination in known)
                # Linux: a connection that another one of the device takes the place of stays as its owner wrote it.
                replaced = self.found.kind == "linux" and target is not None and not ours
                if replaced or not (ours or moved or stale):
                    continue
                found.append(
                    (interface.device, interface, drop_steps(self.found, interface, profile, stale, ours, moved))
                )
        return found

    def _members(self) -> list[Step]:
        bridge = self.found.interface(BRIDGE)
        if self.wanted.fabric is None or self.found.kind != "macos" or bridge is None:
            return []
        if self.wanted.fabric == "routed":
            after = tuple(port for port in bridge.members if port not in self.wanted.bridge_ports)
        else:
            # Those with a cable, and those that a cycle before this had us take out.
            ports = {*self.wanted.bridge_ports, *unbridged_by(self.found.boot_text)}
            after = (*bridge.members, *sorted(ports - set(bridge.members)))
        if after == bridge.members:
            return []
        step = MembersStep(node=self.wanted.node, os="macos", device=BRIDGE, before=bridge.members, after=after)
        return self._guarded(BRIDGE, None, bridge, [step])

    @property
    def _kept(self) -> str | None:
        """What a Mac's loopback should have besides its own address."""
        address = self.wanted.kept_address
        return f"{address}/32" if address is not None and self.found.kind == "macos" else None

    def _alias(self) -> list[Step]:
        loopback = self.found.interface(LOOPBACK)
        if self.found.kind != "macos" or loopback is None:
            return []
        had = kept_by(self.found.boot_text)
        before = next((address for address in (self._kept, had) if address and loopback.has(address)), None)
        if before == self._kept:
            return []
        return [AliasStep(node=self.wanted.node, os="macos", device=LOOPBACK, before=before, after=self._kept)]

    def _guarded(self, device: str, target: Target | None, interface: Interface, steps: list[Step]) -> list[Step]:
        """The steps, unless they touch what carries the login and its address would not stay."""
        risky = [step.kind for step in steps if step.kind != "routes"]
        stays = target is not None and target.ipv4 is not None and interface.has(str(target.ipv4.address))
        if self.found.login_stays:
            # In every connection; only without one, or out of its bridge, the interface is cut off.
            stays = not any(step.kind == "members" or (step.kind == "active" and step.after is None) for step in steps)
        if device != self.found.ssh_device or not risky or stays:
            return steps
        network = target.network if target is not None else None
        key: KeyPath = (
            ("networks", network, "members", self.wanted.node) if network else ("machines", self.wanted.node, "host")
        )
        what = (
            f"{device} of {self.wanted.node} carries the login and is not touched (it would change: {', '.join(risky)})"
        )
        self._problem(key, what, _OTHER_WIRE)
        return []

    def _forwarding(self) -> list[Step]:
        node, kind = self.wanted.node, self.found.kind
        if kind not in BOOT_FILES:
            return []
        unbridged = self.wanted.bridge_ports if self.wanted.fabric == "routed" else ()
        text = boot_text(kind, self.wanted.forwards, unbridged, self._kept)
        steps: list[Step] = []
        # What somebody else turned on (Internet sharing, a VPN) stays on.
        off = not self.wanted.forwards and turned_on_forwarding(self.found.boot_text)
        if self.found.forwarding != self.wanted.forwards and (self.wanted.forwards or off):
            before, after = self.found.forwarding, self.wanted.forwards
            steps.append(ForwardingStep(node=node, os=kind, before=before, after=after))
        # The last, so that it is taken back first: what a boot sets may not come after what took that back.
        if text != self.found.boot_text:
            steps.append(BootStep(node=node, os=kind, before=self.found.boot_text, after=text))
        return steps

    def no_manager(self) -> None:
        """Nothing on the machine would keep what is set."""
        what = f"{self.wanted.node} has no NetworkManager that runs, and nothing else is set here"
        fix = "install and start it (Debian: apt install network-manager; Raspberry Pi OS has it since Bookworm), "
        self._problem(("machines", self.wanted.node), what, f"{fix}or set this machine by hand and leave it out")

    def _problem(self, key: KeyPath, what: str, fix: str) -> None:
        self.problems.append(self.situation.document.problem(key, what, fix))
