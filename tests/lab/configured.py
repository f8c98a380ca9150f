"""The home network on a lab's hosts, set with each system's own tools: for what needs machines that reach each other.

What is set is `smolcluster.network`'s; how a real cluster is set up, safely and reversibly, is network.yml's business.
"""

from __future__ import annotations

import plistlib
import re
import shlex

from smolcluster.network.values import Wanted, WantedHost
from smolcluster.network.wanted import wanted_network
from smolcluster.spec.values import ip_of

from .host import Host
from .lab import Lab

_FORWARDING = "/Library/LaunchDaemons/org.smolcluster.forwarding.plist"


def configure(lab: Lab, *, pis_reach_each_other: bool = True) -> Wanted:
    """Set addresses, routes and forwarding on all hosts, so that it lasts; what was set."""
    names = {f"{machine.name}.local": lab.wiring.wifi_address(machine.name) for machine in lab.wiring.machines}
    known = {name: address for name, address in names.items() if address is not None}
    cluster = lab.wiring.cluster.model_copy(update={"pis_reach_each_other": pis_reach_each_other})
    wanted = wanted_network(cluster)
    for host in wanted.hosts:
        if host.node not in lab.hosts or not host.managed:
            continue
        there = lab.host(host.node)
        # A lab of some of the machines has not all the wires, nor all that forward.
        wired = {each.network for each in lab.wiring.segments if any(port.host == host.node for port in each.ports)}
        addresses = tuple(address for address in host.addresses if address.network in wired)
        routes = [route for route in host.routes if route.network in wired]
        routes = [route.model_copy(update={"via": known.get(route.via, route.via)}) for route in routes]
        routes = [route for route in routes if ip_of(route.via) is not None]
        host = host.model_copy(update={"addresses": addresses, "routes": tuple(routes)})
        commands = {"macos": _mac, "linux": _pi}.get(there.machine.kind, _plain)(lab, host, there)
        script = "\n".join(shlex.join(command) for command in commands)
        there.run(["sh", "-e", "-c", script])
    return wanted


def _mac(lab: Lab, wanted: WantedHost, host: Host) -> list[list[str]]:
    told = host.run(["networksetup", "-listnetworkserviceorder"]).stdout
    pairs = re.findall(r"^\((?:\d+|\*)\) (.+)\n\(Hardware Port: .+, Device: (\w+)\)$", told, re.MULTILINE)
    services: dict[str, str] = {device: name for name, device in pairs}

    def service(network: str) -> str:
        device = _device(lab, host.name, network)
        # Thunderbolt ports are members of the bridge, which is what has a service.
        return services["bridge0" if host.machine.port(device).medium == "thunderbolt" else device]

    commands = []
    for wire in wanted.addresses:
        assert wire.subnet.prefixlen == 24
        commands.append(["networksetup", "-setmanual", service(wire.network), wire.ip, "255.255.255.0"])
    routes: dict[str, list[str]] = {}
    for route in wanted.routes:
        subnet = route.destination.partition("/")[0]
        routes.setdefault(service(route.network), []).extend([subnet, "255.255.255.0", route.via])
    commands += [["networksetup", "-setadditionalroutes", name, *words] for name, words in routes.items()]
    if wanted.forwards:
        job = {
            "Label": "org.smolcluster.forwarding",
            "ProgramArguments": ["/usr/sbin/sysctl", "-w", "net.inet.ip.forwarding=1"],
            "RunAtLoad": True,
        }
        host.write(_FORWARDING, plistlib.dumps(job).decode())
        commands.append(["launchctl", "bootstrap", "system", _FORWARDING])
    return commands


def _pi(lab: Lab, wanted: WantedHost, host: Host) -> list[list[str]]:
    (wire,) = wanted.addresses
    routes = ",".join(f"{route.destination} {route.via}" for route in wanted.routes)
    settings = ["ipv4.method", "manual", "ipv4.addresses", wire.address, "ipv4.routes", routes]
    name = "Wired connection 1"
    return [["nmcli", "connection", "modify", name, *settings], ["nmcli", "connection", "up", name]]


def _plain(lab: Lab, wanted: WantedHost, host: Host) -> list[list[str]]:
    return [["ip", "route", "replace", route.destination, "via", route.via] for route in wanted.routes]


def _device(lab: Lab, host: str, network: str) -> str:
    for segment in lab.wiring.segments:
        for port in segment.ports:
            if (port.host, segment.network) == (host, network):
                return port.device
    raise LookupError(f"{host} is not on {network}")
