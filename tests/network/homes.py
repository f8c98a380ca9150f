"""The home cluster's machines as they come out of their boxes, on the hotspot and cabled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smolcluster.network.diff import Situation
from smolcluster.network.parse.thunderbolt import cables_between
from smolcluster.network.steps import HostPlan
from smolcluster.network.values import Cable
from smolcluster.network.wanted import wanted_network
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.document import read_document

from .clusters import HOME_FILE, home
from .machines import Mac, Machine, Pc, Pi, blank

CONTROLLER = "172.20.10.4"
WIFI = {"macbook": "172.20.10.4", "mini1": "172.20.10.5", "mini2": "172.20.10.6", "mini3": "172.20.10.7"}


def mac(node: str, cables: Sequence[Cable] = (), bridge: str = "Thunderbolt Bridge") -> Mac:
    """A Mac on Wi-Fi, where the login comes in; its Ethernet on DHCP without a lease."""
    ports = {port: number for number, port in enumerate(("en2", "en3", "en4"), 1)}
    ends = {c.end(node).device: c.other(node) for c in cables if node in (c.a.node, c.b.node)}
    devices = {
        "lo0": {"port": "", "up": True, "mtu": 16384},
        "en0": {"port": "Ethernet", "up": node in ("mini1", "mini3"), "mtu": 1500},
        "en1": {"port": "Wi-Fi", "up": True, "mtu": 1500},
        **{port: {"port": f"Thunderbolt {n}", "up": port in ends, "mtu": 1500} for port, n in ports.items()},
        "bridge0": {"port": "Thunderbolt Bridge", "up": True, "mtu": 1500},
    }
    services = [
        {"name": name, "device": device, "enabled": True, "ipv4": ["dhcp"], "routes": []}
        for name, device in (("Kabel", "en0"), (bridge, "bridge0"), ("WLAN", "en1"))
    ]
    profiler = [
        {
            "domain_uuid_key": f"{node}:{port}",
            "receptacle_1_tag": {"receptacle_id_key": str(number)},
            "_items": [{"domain_uuid_key": f"{ends[port].node}:{ends[port].device}"}] if port in ends else [],
        }
        for port, number in ports.items()
    ]
    return Mac(
        node=node,
        kind="macos",
        devices=devices,
        ssh="" if node == "macbook" else f"{CONTROLLER} 50000 {WIFI[node]} 22",
        leases={"en1": f"{WIFI[node]}/28"},
        router="172.20.10.1",
        services=services,
        members=set(ports),
        profiler=profiler,
    )


def pi(node: str, lease: str) -> Pi:
    """A Pi whose login comes in over Wi-Fi, and whose Ethernet is on DHCP without a lease."""
    wifi, cable = f"uuid-wifi-{node}", f"uuid-eth-{node}"
    connections = {
        cable: blank("Wired connection 1"),
        wifi: blank("Caf: oben", kind="802-11-wireless"),
    }
    devices = {
        "lo": {"up": True, "mtu": 65536, "active": None, "in_force": None},
        "eth0": {"up": True, "mtu": 1500, "active": cable, "in_force": dict(connections[cable])},
        "wlan0": {"up": True, "mtu": 1500, "active": wifi, "in_force": dict(connections[wifi])},
    }
    return Pi(
        node=node,
        kind="linux",
        devices=devices,
        ssh=f"192.168.1.50 50000 {lease} 22",
        leases={"wlan0": f"{lease}/24"},
        router="192.168.1.1",
        connections=connections,
    )


def pc() -> Pc:
    devices = {
        "Wi-Fi": {"up": True, "medium": 9, "dhcp": True, "addresses": [], "mtu": 1500},
        "Ethernet": {"up": False, "medium": 14, "dhcp": True, "addresses": [], "mtu": 1500},
    }
    return Pc(
        node="win",
        kind="windows",
        devices=devices,
        ssh=f"{CONTROLLER} 50000 172.20.10.9 22",
        leases={"Wi-Fi": "172.20.10.9/28"},
        table=[["10.9.0.0/16", "172.20.10.1", "Wi-Fi"]],
    )


def bare(cables: Sequence[Cable]) -> dict[str, Machine]:
    """Every machine of the home cluster that can be set."""
    machines: list[Machine] = [mac(node, cables) for node in ("mini1", "mini2", "mini3", "macbook")]
    machines += [pi("pi5", "192.168.1.15"), pi("pi4", "192.168.1.14"), pc()]
    return {machine.node: machine for machine in machines}


def situation(machines: dict[str, Machine], spec: ClusterSpec | None = None, file: Path = HOME_FILE) -> Situation:
    """Ask every machine, and make of it what a plan is made from."""
    cluster = spec or home()
    found = {node: machine.found() for node, machine in machines.items()}
    wanted = wanted_network(cluster, cables_between(list(found.values())))
    return Situation(cluster, read_document(file, "home.smol.yml"), wanted, found)


def problems(plan: HostPlan) -> list[str]:
    return [str(problem).replace("\n    fix: ", " | ") for problem in plan.problems]
