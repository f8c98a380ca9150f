"""Machines that do what the tools' real counterparts do, and print what those print: for plans to be carried out on.

`state` is everything that a reboot or the owner could notice; two equal ones are the same machine.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from smolcluster.network import gather
from smolcluster.network.actions import actions_of
from smolcluster.network.found import FoundHost
from smolcluster.network.read import host_from
from smolcluster.network.steps import Step


def mask(prefix: int) -> str:
    return str(ipaddress.IPv4Network(f"0.0.0.0/{prefix}").netmask)


@dataclass
class Machine:
    """`leases` are the addresses that a router hands to a device on DHCP, with prefix."""

    node: str
    kind: str
    devices: dict[str, dict[str, Any]]
    ssh: str = ""
    leases: dict[str, str] = field(default_factory=dict)
    router: str | None = None
    forwarding: bool = False
    files: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def found(self) -> FoundHost:
        outputs = gather.gather(self.kind, self.run) | {gather.SSH: self.ssh}
        return host_from(self.node, self.kind, outputs)  # type: ignore[arg-type]

    def apply(self, steps: Sequence[Step]) -> None:
        for step in steps:
            for action in actions_of(step):
                if action.path is not None:
                    if action.text is None:
                        del self.files[action.path]
                    else:
                        self.files[action.path] = action.text
                    continue
                self.calls.append(action.argv)
                self.run(action.argv)

    def snapshot(self) -> str:
        return json.dumps([self.devices, self.forwarding, self.files, self.kept()], sort_keys=True)

    def kept(self) -> Any:
        raise NotImplementedError

    def run(self, argv: Sequence[str]) -> str:
        raise NotImplementedError

    def read_or_set_sysctl(self, name: str, words: Sequence[str], equals: str) -> str:
        if words[0] == "-w":
            key, _, value = words[1].partition("=")
            assert key == name
            self.forwarding = value == "1"
        return f"{name}{equals}{int(self.forwarding)}\n"


@dataclass
class Mac(Machine):
    """`devices[d]`: port, up, mtu. `services` in their order: name, device, enabled, ipv4 (words), routes (triples)."""

    services: list[dict[str, Any]] = field(default_factory=list)
    members: set[str] = field(default_factory=set)
    aliases: set[str] = field(default_factory=set)
    profiler: list[dict[str, Any]] = field(default_factory=list)

    def kept(self) -> Any:
        # What is made anew comes last: ours have no router, so their place among themselves means nothing.
        services = sorted(self.services, key=lambda s: s["name"] * ("smolcluster-" in s["name"]))
        return [services, sorted(self.members), sorted(self.aliases)]

    def service(self, name: str) -> dict[str, Any]:
        (found,) = [service for service in self.services if service["name"] == name]
        return found

    def up(self, device: str) -> bool:
        if device == "bridge0":
            return any(self.devices[member]["up"] for member in self.members)
        return bool(self.devices[device]["up"])

    def live(self, device: str) -> list[tuple[str, list[tuple[str, str, str]], str | None]]:
        """(address/prefix, routes, router) of each service in force on a device with a carrier."""
        found = []
        for service in self.services:
            if service["device"] != device or not service["enabled"] or not self.up(device) or device in self.members:
                continue
            method, *words = service["ipv4"]
            address = f"{words[0]}/{mask_length(words[1])}" if method == "manual" else None
            if method == "dhcp":
                address = self.leases.get(device)
            if address:
                router = words[2] if len(words) > 2 else self.router if method == "dhcp" else None
                found.append((address, service["routes"], router))
        return found

    def run(self, argv: Sequence[str]) -> str:
        tool, *words = argv
        if tool == "networksetup":
            return self._networksetup(*words)
        if tool == "ifconfig":
            return self._ifconfig(*words)
        if tool == "sysctl":
            return self.read_or_set_sysctl("net.inet.ip.forwarding", words, ": ")
        return {
            "netstat": self._netstat,
            "launchctl": lambda: "",
            "system_profiler": lambda: json.dumps({"SPThunderboltDataType": self.profiler}),
            "cat": lambda: self.files.get(words[0], ""),
        }[tool]()

    def _networksetup(self, verb: str, *words: str) -> str:
        if verb == "-listallhardwareports":
            return "\n".join(
                f"\nHardware Port: {d['port']}\nDevice: {name}\nEthernet Address: 00:00:00:00:00:01"
                for name, d in self.devices.items()
                if d["port"]
            )
        if verb == "-listnetworkserviceorder":
            lines = ["An asterisk (*) denotes that a network service is disabled."]
            for number, s in enumerate(self.services, 1):
                port = self.devices[s["device"]]["port"] or s["device"]
                lines.append(f"({number if s['enabled'] else '*'}) {s['name']}")
                lines.append(f"(Hardware Port: {port}, Device: {s['device']})\n")
            return "\n".join(lines)
        if verb == "-createnetworkservice":
            assert words[1] in self.devices
            assert all(s["name"] != words[0] for s in self.services)
            self.services.append(
                {"name": words[0], "device": words[1], "enabled": True, "ipv4": ["dhcp"], "routes": []}
            )
            return ""
        if verb == "-setMTU":
            self.devices[words[0]]["mtu"] = int(words[1])
            return ""
        service = self.service(words[0])
        if verb == "-removenetworkservice":
            self.services.remove(service)
        elif verb == "-setnetworkserviceenabled":
            service["enabled"] = words[1] == "on"
        elif verb == "-setadditionalroutes":
            assert len(words) % 3 == 1
            service["routes"] = [list(words[i : i + 3]) for i in range(1, len(words), 3)]
        elif verb in ("-setmanual", "-setdhcp", "-setv4off", "-setbootp", "-setmanualwithdhcprouter"):
            service["ipv4"] = [verb.removeprefix("-set"), *words[1:]]
        elif verb == "-getinfo":
            return self._info(*service["ipv4"])
        elif verb == "-getadditionalroutes":
            none = f"There are no additional IPv4 routes on {words[0]}."
            return "\n".join(" ".join(route) for route in service["routes"]) or none
        else:
            raise AssertionError(verb)
        return ""

    def _info(self, method: str, *words: str) -> str:
        tail = "IPv6: Automatic\nIPv6 IP address: none\nIPv6 Router: none\n"
        if method == "dhcp":
            return f"DHCP Configuration\nClient ID: {words[0] if words else ''}\n{tail}"
        if method == "bootp":
            return f"BOOTP Configuration\n{tail}"
        if method == "manualwithdhcprouter":
            return f"Manually Using DHCP Router Configuration\nIP address: {words[0]}\nSubnet mask: (null)\n{tail}"
        if method == "v4off":
            return tail
        router = words[2] if len(words) > 2 else "(null)"
        return f"Manual Configuration\nIP address: {words[0]}\nSubnet mask: {words[1]}\nRouter: {router}\n{tail}"

    def _ifconfig(self, *words: str) -> str:
        if words:
            device, verb, port = words
            if device == "lo0":
                assert (port in self.aliases) == (verb == "-alias")
                self.aliases ^= {port}
                return ""
            assert device == "bridge0"
            assert (port in self.members) == (verb == "deletem")
            self.members ^= {port}
            return ""
        blocks = []
        for name, device in self.devices.items():
            lines = [f"{name}: flags=8863<UP,RUNNING> mtu {device['mtu']}"]
            for address in [*(a for a, _, _ in self.live(name)), *(sorted(self.aliases) if name == "lo0" else ())]:
                ip, _, prefix = address.partition("/")
                lines.append(f"\tinet {ip} netmask {int(ipaddress.IPv4Address(mask(int(prefix)))):#010x} broadcast x")
            if name == "bridge0":
                lines += [f"\tmember: {member} flags=3<LEARNING,DISCOVER>" for member in sorted(self.members)]
            if name != "lo0":
                lines.append(f"\tstatus: {'active' if self.up(name) else 'inactive'}")
            blocks.append("\n".join(lines) + "\n")
        return "".join(blocks)

    def _netstat(self) -> str:
        lines = ["Internet:", "Destination        Gateway            Flags               Netif Expire"]
        for device in self.devices:
            for address, routes, router in self.live(device):
                lines.append(f"{ipaddress.IPv4Interface(address).network}  link#4  UCS  {device}  !")
                lines += [f"{dst}/{mask_length(m)}  {via}  UGSc  {device}" for dst, m, via in routes]
                lines += [f"default  {router}  UGScg  {device}"] if router else []
        return "\n".join(lines) + "\n"


def mask_length(text: str) -> int:
    return ipaddress.IPv4Network(f"0.0.0.0/{text}").prefixlen


@dataclass
class Pi(Machine):
    """`devices[d]`: up, mtu, kind, active (a connection's uuid or None). `connections` by uuid."""

    connections: dict[str, dict[str, str]] = field(default_factory=dict)
    manager: bool = True

    def kept(self) -> Any:
        return self.connections

    def find(self, name: str) -> str:
        (found,) = [u for u, c in self.connections.items() if name in (u, c["connection.id"])]
        return found

    def live(self, device: str) -> tuple[list[str], list[list[str]], str]:
        active = self.devices[device]["active"]
        if active is None or not self.devices[device]["up"]:
            return [], [], ""
        values = self.devices[device]["in_force"]
        if values["ipv4.method"] == "auto":
            lease = self.leases.get(device)
            return [lease] if lease else [], [], self.router if lease and self.router else ""
        routes = [r.split()[:2] for r in values["ipv4.routes"].split(", ") if r]
        return [a for a in values["ipv4.addresses"].split(", ") if a], routes, values["ipv4.gateway"]

    def run(self, argv: Sequence[str]) -> str:
        tool, *words = argv
        if tool == "ip":
            return self._addr() if words[-1] == "addr" else self._route()
        if tool == "sysctl":
            return self.read_or_set_sysctl("net.ipv4.ip_forward", words, " = ")
        if tool == "cat":
            return self.files.get(words[0], "")
        assert tool == "nmcli"
        return self._nmcli(words)

    def _nmcli(self, words: list[str]) -> str:
        if words == ["-t", "-f", "RUNNING", "general"]:
            return "running" if self.manager else "not running"
        if words[:2] == ["-t", "-f"]:
            fields = words[2].split(",")
            if len(words) == 5:
                rows = []
                for uuid, c in self.connections.items():
                    device = next((n for n, d in self.devices.items() if d["active"] == uuid), "")
                    name = c["connection.id"].replace("\\", "\\\\").replace(":", "\\:")
                    rows.append(f"{uuid}:{name}:{c['type']}:{device}")
                return "\n".join(rows)
            values = self.connections[words[5]] | {"connection.uuid": words[5]}
            return "\n".join(f"{key}:{values.get(key, '')}" for key in fields)
        what, verb, *rest = words
        if (what, verb) == ("connection", "add"):
            pairs = dict(zip(rest[::2], rest[1::2], strict=True))
            assert pairs["type"] == "ethernet"
            uuid = f"made-{pairs['con-name']}"
            self.connections[uuid] = blank(pairs["con-name"], pairs["ipv4.method"])
        elif (what, verb) == ("connection", "delete"):
            uuid = self.find(rest[0])
            assert all(d["active"] != uuid for d in self.devices.values())
            del self.connections[uuid]
        elif (what, verb) == ("connection", "modify"):
            values = self.connections[self.find(rest[0])]
            for key, value in zip(rest[1::2], rest[2::2], strict=True):
                had = [r for r in values.get(key[1:], "").split(", ") if r]
                if key[0] == "+":
                    values[key[1:]] = ", ".join([*had, value])
                elif key[0] == "-":
                    had.remove(value)
                    values[key[1:]] = ", ".join(had)
                else:
                    values[key] = "auto" if key.endswith(".mtu") and value == "0" else value
            if values["ipv4.method"] == "manual":
                assert values["ipv4.addresses"]
                assert not (values["ipv4.gateway"] and values["ipv4.never-default"] == "yes")
        elif (what, verb) == ("connection", "up"):
            self._activate(rest[2], self.find(rest[0]))
        elif (what, verb) == ("device", "reapply"):
            self._activate(rest[0], self.devices[rest[0]]["active"])
        elif (what, verb) == ("connection", "down"):
            (device,) = (one for one in self.devices.values() if one["active"] == self.find(rest[0]))
            device |= {"active": None, "in_force": None}
        else:
            raise AssertionError(words)
        return ""

    def _activate(self, device: str, uuid: str) -> None:
        values = dict(self.connections[uuid])
        mtu = values["802-3-ethernet.mtu"]
        self.devices[device] |= {"active": uuid, "in_force": values, "mtu": 1500 if mtu == "auto" else int(mtu)}

    def _addr(self) -> str:
        return json.dumps([
            {
                "ifname": name, "flags": ["UP"], "mtu": d["mtu"], "link_type": "loopback" if name == "lo" else "ether",
                "operstate": "UP" if d["up"] else "DOWN", "address": "00:00:00:00:00:01",
                "addr_info": [
                    {"family": "inet", "local": a.split("/")[0], "prefixlen": int(a.split("/")[1])}
                    for a in self.live(name)[0]
                ],
            }
            for name, d in self.devices.items()
        ])  # fmt: skip

    def _route(self) -> str:
        rows = []
        for name in self.devices:
            addresses, routes, router = self.live(name)
            rows += [{"dst": str(ipaddress.IPv4Interface(a).network), "dev": name} for a in addresses]
            rows += [{"dst": dst, "gateway": via, "dev": name} for dst, via in routes]
            rows += [{"dst": "default", "gateway": router, "dev": name}] if router else []
        return json.dumps(rows)


def blank(name: str, method: str = "auto", kind: str = "802-3-ethernet") -> dict[str, str]:
    return {
        "connection.id": name, "type": kind, "ipv4.method": method, "ipv4.addresses": "", "ipv4.gateway": "",
        "ipv4.routes": "", "ipv4.dhcp-client-id": "", "802-3-ethernet.mtu": "auto", "ipv4.never-default": "no",
    }  # fmt: skip


@dataclass
class Pc(Machine):
    """`devices[alias]`: up, medium, dhcp, addresses, mtu. `table`: [prefix, next hop, alias] set by hand."""

    table: list[list[str]] = field(default_factory=list)

    def kept(self) -> Any:
        return sorted(self.table)

    def run(self, argv: Sequence[str]) -> str:
        line = argv[-1]
        verb = line.split()[0]
        options = {k: v.replace("''", "'") for k, v in re.findall(r"-(\w+) '((?:[^']|'')*)'", line)}
        options |= dict(re.findall(r"-(\w+) (\w+)", line))
        if "ConvertTo-Json" in line:
            return json.dumps(self._objects(verb))
        device = self.devices[options["InterfaceAlias"]]
        if verb == "New-NetRoute":
            self.table.append([options["DestinationPrefix"], options["NextHop"], options["InterfaceAlias"]])
        elif verb == "Remove-NetRoute":
            self.table.remove([options["DestinationPrefix"], options["NextHop"], options["InterfaceAlias"]])
        elif verb == "Set-NetIPInterface" and "Dhcp" in options:
            device["dhcp"] = options["Dhcp"] == "Enabled"
        elif verb == "Set-NetIPInterface":
            device["mtu"] = int(options["NlMtuBytes"])
        elif verb == "New-NetIPAddress":
            device["addresses"].append(f"{options['IPAddress']}/{options['PrefixLength']}")
        elif verb == "Remove-NetIPAddress":
            device["addresses"] = [a for a in device["addresses"] if a.split("/")[0] != options["IPAddress"]]
        else:
            raise AssertionError(line)
        return ""

    def _objects(self, verb: str) -> Any:
        if verb == "Get-NetAdapter":
            return [
                {"Name": n, "InterfaceDescription": "x", "MacAddress": "AA", "Status": "Up" if d["up"] else "Down",
                 "NdisPhysicalMedium": d["medium"], "Virtual": False}
                for n, d in self.devices.items()
            ]  # fmt: skip
        if verb == "Get-NetIPInterface":
            return [{"InterfaceAlias": n, "Dhcp": int(d["dhcp"]), "NlMtu": d["mtu"]} for n, d in self.devices.items()]
        if verb == "Get-NetIPAddress":
            shown = [(n, a, 1) for n, d in self.devices.items() if not d["dhcp"] for a in d["addresses"]]
            shown += [(n, a, 3) for n, a in self.leases.items() if self.devices[n]["dhcp"]]
            return [
                {
                    "InterfaceAlias": n,
                    "IPAddress": a.split("/")[0],
                    "PrefixLength": int(a.split("/")[1]),
                    "PrefixOrigin": o,
                }
                for n, a, o in shown
            ]
        return [
            {"DestinationPrefix": dst, "NextHop": via, "InterfaceAlias": n, "Protocol": 3} for dst, via, n in self.table
        ]
