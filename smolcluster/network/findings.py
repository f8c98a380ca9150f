"""From measurements to causes, by name: which cable, which address, which route, and what to do.

A pair that does not reach each other is a symptom. Causes are looked for in what the machines said of themselves, and
each symptom is explained by the first cause on its way; what nothing explains is said to be unexplained.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from smolcluster.network.choose import UnclearError, device_for
from smolcluster.network.expected import Measured, Pair, expected_pairs
from smolcluster.network.found import FoundHost, Interface
from smolcluster.network.refuse import router_subnets
from smolcluster.network.values import Wanted, WantedAddress, WantedHost
from smolcluster.network.wanted import is_set_here
from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.problems import listed
from smolcluster.spec.values import ip_of

Cause = Literal[
    "router collision", "duplicate address", "cable pulled", "wrong address", "forwarding off", "missing route",
    "missing return route", "other way", "packets too large", "slow", "unexplained",
]  # fmt: skip
# A wire that reaches less of what the inventory says of it is worth a look.
_SLOW = 0.25


class Finding(Frozen):
    """One cause. `pairs` are the symptoms it explains, `src -> dst`."""

    cause: Cause
    node: str
    what: str
    fix: str
    pairs: tuple[str, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether the network is not as it should be by it. A slow wire is told, and so is a cable that is out where
        all who are on can reach each other: the machine at its other end is off, or was not asked."""
        return self.cause != "slow" and (self.cause != "cable pulled" or bool(self.pairs))


@dataclass(frozen=True)
class Verified:
    """What was looked at: the network as it should be, what the machines say, what was measured."""

    cluster: ClusterSpec
    wanted: Wanted
    found: Mapping[str, FoundHost]
    measured: Measured

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs that should reach each other."""
        return expected_pairs(self.cluster, self.wanted, dict(self.found))


def diagnose(verified: Verified) -> tuple[Finding, ...]:
    """Every cause found, in the order of Cause; none means that the network is as it should be."""
    pings = {(ping.src, ping.dst): ping for ping in verified.measured.pings}
    broken = {
        (p.src, p.dst): p for p in verified.pairs if (q := pings.get((p.src, p.dst))) is not None and q.rtt_ms is None
    }
    causes = [
        *_router(verified), *_duplicates(verified), *_wires(verified), *_forwarding(verified), *_routes(verified),
    ]  # fmt: skip
    explained: set[tuple[str, str]] = set()
    findings = []
    for finding, touches in causes:
        mine = [key for key, pair in broken.items() if touches(pair)]
        explained.update(mine)
        findings.append(finding.model_copy(update={"pairs": tuple(f"{src} -> {dst}" for src, dst in mine)}))
    findings += list(_quality(verified))
    for src, dst in broken:
        if (src, dst) not in explained:
            what = f"{src} does not reach {dst} at {broken[src, dst].destination}, and all that was looked at is right"
            fix = f"look whether a firewall on {dst} lets ping through, and whether {dst} is awake"
            findings.append(Finding(cause="unexplained", node=src, what=what, fix=fix, pairs=(f"{src} -> {dst}",)))
    return tuple(findings)


class _Touches:
    """Which pairs a cause can explain: all that use a machine on a wire, or a machine's route to one."""

    def __init__(self, network: str = "", nodes: tuple[str, ...] = (), ends: tuple[tuple[str, str], ...] = ()) -> None:
        self.network, self.nodes, self.ends = network, nodes, ends

    def __call__(self, pair: Pair) -> bool:
        if self.ends:
            return (pair.src, pair.dst) in self.ends
        passed = (pair.src, *pair.passes, pair.dst)
        return (not self.network or self.network in pair.networks) and any(node in passed for node in self.nodes)


_Found = Iterator[tuple[Finding, _Touches]]


def _router(verified: Verified) -> _Found:
    for lan, where in router_subnets(verified.found, verified.cluster).items():
        for network in verified.cluster.networks:
            if is_set_here(network) and lan.overlaps(ipaddress.IPv4Network(str(network.subnet))):
                what = f"{network.name}'s {network.subnet} collides with the router's own {lan} (seen on {where})"
                node = where.partition("'")[0]
                fix = f"give networks.{network.name}.subnet another value in the inventory"
                touches = _Touches(network.name, tuple(network.members))
                yield Finding(cause="router collision", node=node, what=what, fix=fix), touches


def _duplicates(verified: Verified) -> _Found:
    """An address that answers with another machine's hardware, or with different hardware for different askers."""
    for host in verified.wanted.hosts:
        for address, interface in _on_wires(host, verified.found.get(host.node)):
            answers = {
                mac: asker
                for asker, table in verified.measured.neighbours.items()
                if asker != host.node and (mac := table.get(address.ip)) is not None
            }
            strangers = {mac: asker for mac, asker in answers.items() if interface.mac and mac != interface.mac}
            for mac, asker in strangers.items():
                owner = _owner(mac, verified.found)
                what = f"{address.ip} is {host.node}'s ({interface.mac}), but for {asker} {owner} answers there"
                fix = f"take the address off {owner}, or give {host.node} another in the inventory"
                yield (
                    Finding(cause="duplicate address", node=host.node, what=what, fix=fix),
                    _Touches(address.network, (host.node,)),
                )
            for other in verified.found.values():
                theirs = [one.device for one in other.interfaces if one.kind != "loopback" and _ips(one) & {address.ip}]
                if other.node != host.node and theirs:
                    what = f"{address.ip} is {host.node}'s, and {theirs[0]} of {other.node} has it too"
                    fix = f"take the address off {other.node}, or give {host.node} another in the inventory"
                    yield (
                        Finding(cause="duplicate address", node=host.node, what=what, fix=fix),
                        _Touches(address.network, (host.node,)),
                    )


def _ips(interface: Interface) -> set[str]:
    return {text.partition("/")[0] for text in interface.addresses}


def _wires(verified: Verified) -> _Found:
    """Interfaces without a carrier, and those whose address is not the inventory's."""
    for host in verified.wanted.hosts:
        for address, interface in _on_wires(host, verified.found.get(host.node)):
            touches = _Touches(address.network, (host.node,))
            if not interface.up:
                peer = f" to {address.peer}" if address.peer is not None else ""
                what = f"{interface.device} of {host.node} has no carrier: the cable of {address.network}{peer} is out"
                yield Finding(cause="cable pulled", node=host.node, what=what, fix="plug it in at both ends"), touches
            elif not interface.has(address.address):
                has = listed(text for text in interface.addresses if ":" not in text)
                what = f"{interface.device} of {host.node} should have {address.address} and has {has}"
                yield Finding(cause="wrong address", node=host.node, what=what, fix="run network.yml again"), touches


def _forwarding(verified: Verified) -> _Found:
    for host in verified.wanted.hosts:
        found = verified.found.get(host.node)
        if host.forwards and found is not None and not found.forwarding:
            what = f"{host.node} does not forward, and others reach each other through it"
            ends = tuple((p.src, p.dst) for p in verified.pairs if host.node in p.passes)
            touches = _Touches(ends=ends or (("", ""),))
            yield Finding(cause="forwarding off", node=host.node, what=what, fix="run network.yml again"), touches


def _routes(verified: Verified) -> _Found:
    """Routes that are not in force, named after whose packets, or whose answers, they stop."""
    for host in verified.wanted.hosts:
        found = verified.found.get(host.node)
        for route in host.routes if found is not None and host.managed else ():
            live = [r for r in found.routes if r.destination == route.destination] if found is not None else []
            right = [r for r in live if r.via == route.via or (ip_of(route.via) is None and r.via is not None)]
            if right:
                continue
            has = f" (it has one via {live[0].via or live[0].device})" if live else ""
            what = f"{host.node} has no route to {route.destination} via {route.via}{has}"
            out = _users(verified, host.node, route.destination)
            back = tuple((dst, src) for src, dst in out)
            lies_behind = _lies_behind(verified, host.node, route.destination)
            cause: Cause = "missing return route" if lies_behind else "missing route"
            touches = _Touches(ends=(*out, *back) or (("", ""),))
            yield Finding(cause=cause, node=host.node, what=what, fix="run network.yml again"), touches


def _users(verified: Verified, node: str, destination: str) -> tuple[tuple[str, str], ...]:
    """The pairs whose packets a machine needs that route for."""
    subnet = ipaddress.IPv4Network(destination)
    return tuple(
        (pair.src, pair.dst)
        for pair in verified.pairs
        if node in (pair.src, *pair.passes)
        and isinstance(ip := ip_of(pair.destination), ipaddress.IPv4Address)
        and ip in subnet
    )


def _lies_behind(verified: Verified, node: str, destination: str) -> bool:
    """Whether the route leads to a cable behind a gateway, from a machine that is not behind one itself.

    Those are the ways back that are easily forgotten: who is behind the gateway has its own way out.
    """
    networks = verified.cluster.networks
    behind = all(network.gateways for network in networks if node in network.members)
    subnet = ipaddress.ip_network(destination)
    return not behind and any(n.gateways for n in networks if n.subnet and ipaddress.ip_network(n.subnet) == subnet)


def _quality(verified: Verified) -> Iterator[Finding]:
    pings = {(ping.src, ping.dst): ping for ping in verified.measured.pings}
    speeds = {(speed.src, speed.dst): speed for speed in verified.measured.speeds}
    for pair in verified.pairs:
        ping, speed = pings.get((pair.src, pair.dst)), speeds.get((pair.src, pair.dst))
        label = f"{pair.src} -> {pair.dst}"
        if ping is not None and ping.hops is not None and len(ping.hops) != len(pair.passes):
            meant = ", ".join(pair.passes) or "nobody"
            what = f"{label} goes over {', '.join(ping.hops) or 'nobody'}, and is meant to go over {meant}"
            fix = f"look at {pair.src}'s routes; run network.yml again"
            yield Finding(cause="other way", node=pair.src, what=what, fix=fix, pairs=(label,))
        if ping is not None and ping.mtu is not None and ping.mtu < pair.mtu:
            what = f"{label}: packets above {ping.mtu} bytes do not pass, and {pair.mtu} should"
            fix = f"give {' and '.join(pair.networks)} `mtu: {max(1280, ping.mtu)}`, or set every interface on the way"
            yield Finding(cause="packets too large", node=pair.src, what=what, fix=fix, pairs=(label,))
        if speed is not None and speed.mbps is not None and speed.mbps < _SLOW * pair.speed_mbps:
            said = f"{' and '.join(pair.networks)}, said to do {pair.speed_mbps:,.0f}"
            what = f"{label}: {speed.mbps:,.0f} Mbit/s over {said}"
            fix = "look at the cable, or write what it does as `speed_mbps:`"
            yield Finding(cause="slow", node=pair.src, what=what, fix=fix, pairs=(label,))


def _on_wires(host: WantedHost, found: FoundHost | None) -> Iterator[tuple[WantedAddress, Interface]]:
    """A machine's wanted addresses with the interfaces they belong on, as far as those can be told."""
    taken: list[str] = []
    for address in host.addresses if found is not None else ():
        try:
            interface = device_for(address, found, taken)  # type: ignore[arg-type]
        except UnclearError:
            continue
        taken.append(interface.device)
        yield address, interface


def _owner(mac: str, found: Mapping[str, FoundHost]) -> str:
    for host in found.values():
        for interface in host.interfaces:
            if interface.mac == mac:
                return f"{host.node} ({mac})"
    return f"a machine that is not in the inventory ({mac})"
