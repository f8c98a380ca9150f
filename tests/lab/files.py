"""Files that tell hosts of the lab who and where everybody is: inventory, names, ssh's settings, hardware. Pure."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from .disk import USER
from .wiring import Machine, Port, Wiring

_MODELS = {"macbook": ("Mac16,12", "MacBook Air")}
_MINI = ("Mac16,10", "Mac mini")


def inventory(plan: Wiring) -> str:
    """An inventory file of the lab's hosts for its controller, with the networks of the one the lab was made from.

    What plays the Windows PC has no PowerShell: it goes as a Linux machine.
    """
    cluster = plan.cluster
    machines: dict[str, Any] = {}
    for machine in plan.machines:
        kind = "linux" if machine.kind == "windows" else machine.kind
        entry: dict[str, Any] = {"kind": kind, "python": sys.executable, "threads": 1}
        if machine.name == cluster.controller:
            entry["connection"] = "local"
        elif machine.kind == "ipados":
            entry = {"kind": kind, "host": plan.wifi_address(machine.name)}
        else:
            entry |= {"host": machine.name, "user": USER}
        machines[machine.name] = entry
    networks = {}
    for network in cluster.networks:
        members = {name: address for name, address in network.members.items() if name in machines}
        if members:
            told = network.model_dump(exclude_none=True, exclude={"name"})
            gateways = {to: by for to, by in network.gateways.items() if by in members}
            networks[network.name] = told | {"members": members, "gateways": gateways}
    content = {"schema": 1, "name": "lab", "controller": cluster.controller, "machines": machines, "networks": networks}
    # JSON is YAML.
    return json.dumps(content, indent=2) + "\n"


def model(name: str) -> tuple[str, str]:
    """What kind of Mac a machine is: its model's identifier and name."""
    return _MODELS.get(name, _MINI)


def hardware(plan: Wiring, machine: Machine) -> dict[str, Any]:
    """What the host itself can find out of what it is made of; the stand-ins and the first program read it."""
    leases = {}
    for segment in plan.segments:
        lease = dict(segment.leases).get(machine.name)
        for port in segment.ports:
            if port.host == machine.name and lease and segment.router:
                leases[port.device] = {"address": lease, "router": segment.router.partition("/")[0]}
    ports = [
        {key: getattr(port, key) for key in ("device", "label", "medium", "mac", "uuid", "max_mtu")}
        for port in machine.ports
    ]
    identifier, model_name = model(machine.name)
    return {
        "name": machine.name,
        "kind": machine.kind,
        "model": identifier,
        "model_name": model_name,
        "memory_mb": machine.memory_mb,
        "ports": ports,
        "leases": leases,
    }


def hosts_file(plan: Wiring, machine: Machine) -> str:
    """Names of the hosts with a Wi-Fi address; in a home mDNS tells them."""
    lines = ["127.0.0.1 localhost", f"127.0.1.1 {machine.name}", "::1 localhost"]
    for other in plan.machines:
        address, alias = plan.wifi_address(other.name), "" if other is machine else f" {other.name}"
        lines += [f"{address} {other.name}.local{alias}"] if address else []
    return "\n".join(lines) + "\n"


def names(plan: Wiring, machine: Machine) -> str:
    """Everything a host is called, for known_hosts."""
    names: Mapping[str, None] = dict.fromkeys([machine.name, f"{machine.name}.local"])
    own = [*(network.members.get(machine.name) for network in plan.cluster.networks), plan.wifi_address(machine.name)]
    addresses: list[str] = [name for name in own if name]
    return ",".join(dict.fromkeys([*names, *addresses]))


def ssh_config(plan: Wiring, home: str) -> str:
    """How the controller reaches each host by its name alone."""
    lines = ["Host *", f"  User {USER}", f"  IdentityFile {home}/.ssh/id_ed25519", "  BatchMode yes", ""]
    for machine in plan.machines:
        if machine.behind is not None:
            mine, theirs = _cable(plan, machine.name, machine.behind)
            lines += [f"Host {machine.name}", f"  HostName {mine.link_local}%%{theirs.device}"]
            lines += [f"  ProxyJump {machine.behind}", f"  HostKeyAlias {machine.name}", ""]
    return "\n".join(lines)


def _cable(plan: Wiring, one: str, other: str) -> tuple[Port, Port]:
    for segment in plan.segments:
        ends = {port.host: port for port in segment.ports}
        if one in ends and other in ends:
            return ends[one], ends[other]
    raise LookupError(f"no cable between {one} and {other}")
