"""What gather.py printed on a machine -> FoundHost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast, get_args

from smolcluster.errors import InputError, Problem
from smolcluster.network import gather
from smolcluster.network.found import FoundHost, Interface, Profile
from smolcluster.network.parse import FormatError, linux, macos, windows
from smolcluster.network.parse.thunderbolt import thunderbolt_ports
from smolcluster.spec.cluster import Kind

Outputs = dict[str, str]


def found_host(text: str, file: str = "") -> FoundHost:
    """The machine that a found-state file describes. InputError when it is none, or of another version."""
    return _found_host(_json(text, file), file)


def found_hosts(text: str, file: str = "") -> tuple[FoundHost, ...]:
    """The machine of a found-state file, or all of one that has several under `hosts`. InputError."""
    value = _json(text, file)
    if isinstance(value, dict) and isinstance(value.get("hosts"), list):
        return tuple(_found_host(one, file) for one in value["hosts"])
    return (_found_host(value, file),)


def _json(text: str, file: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError([Problem(file, 0, "", f"is no JSON: {error}", "write it with gather.py")]) from None


def _found_host(value: Any, file: str) -> FoundHost:
    if not isinstance(value, dict) or value.get("schema") != gather.SCHEMA:
        what = f"is no found state of version {gather.SCHEMA}"
        raise InputError([Problem(file, 0, "schema", what, "write it with gather.py of this smolcluster")])
    node, kind, outputs = value.get("node"), value.get("kind"), value.get("outputs")
    if kind == "ipados":
        raise InputError([Problem(file, 0, "kind", "a machine of this kind cannot be asked", "leave it out")])
    if not isinstance(node, str) or kind not in get_args(Kind) or not isinstance(outputs, dict):
        raise InputError([Problem(file, 0, "", "names no node, kind or outputs", "write it with gather.py")])
    try:
        return host_from(node, cast(Kind, kind), {str(k): str(v) for k, v in outputs.items()})
    except FormatError as error:
        said = "; ".join(f"{problem.key}: {problem.what}" for problem in error.problems)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # Of another OS, the same tool's table has other columns.
        said = str(error)
    what = f"its tools do not answer as those of a {kind} machine do: {said}"
    fix = f"is `kind: {kind}` right for {node}? If it is, report this with what gather.py prints there"
    raise InputError([Problem(file, 0, node, what, fix)])


def host_from(node: str, kind: Kind, outputs: Outputs) -> FoundHost:
    """The machine whose tools printed these outputs (by command)."""
    readers: dict[str, Callable[[str, Outputs], FoundHost]] = {"macos": _macos, "linux": _linux, "windows": _windows}
    words = outputs.get(gather.SSH, "").split()
    found = readers[kind](node, outputs)
    if len(words) != 4:
        return found
    return found.model_copy(update={"ssh_client": words[0], "ssh_address": words[2]})


def _macos(node: str, outputs: Outputs) -> FoundHost:
    first = [outputs.get(gather.key(command), "") for command in gather.first_commands("macos")]
    ports_text, order, ifconfig, table, sysctl, profiler, boot = first
    ports = macos.hardware_ports(ports_text)
    profiles: dict[str, list[Profile]] = {}
    mtus = {link.device: link.mtu for link in macos.links(ifconfig)}
    for service in macos.services(order):
        info = outputs.get(f"networksetup -getinfo {service.name}", "")
        more = outputs.get(f"networksetup -getadditionalroutes {service.name}", "")
        profiles.setdefault(service.device, []).append(
            Profile(
                id=service.name,
                name=service.name,
                active=service.enabled,
                ipv4=macos.service_info(info),
                routes=macos.additional_routes(more),
                mtu=mtus.get(service.device),
            )
        )
    by_device = {port.device: port for port in ports}
    interfaces = []
    for link in macos.links(ifconfig):
        port = by_device.get(link.device)
        kind = "loopback" if link.device.startswith("lo") else port.kind if port is not None else "other"
        interfaces.append(
            Interface(
                device=link.device,
                kind=kind,
                up=link.up,
                port=port.name if port is not None else "",
                mac=link.mac,
                mtu=link.mtu,
                addresses=link.addresses,
                members=link.members,
                profiles=tuple(profiles.get(link.device, ())),
            )
        )
    return FoundHost(
        node=node,
        kind="macos",
        interfaces=tuple(interfaces),
        routes=macos.routing_table(table),
        forwarding=macos.forwarding(sysctl),
        boot_text=boot or None,
        thunderbolt=thunderbolt_ports(profiler, ports),
    )


def _linux(node: str, outputs: Outputs) -> FoundHost:
    addr, table, sysctl, shown, boot, running = [outputs.get(gather.key(c), "") for c in gather.first_commands("linux")]
    profiles: dict[str, list[Profile]] = {}
    for connection in linux.connections(shown):
        command = ("nmcli", "-t", "-f", gather.NM_FIELDS, "connection", "show", connection.uuid)
        values = linux.settings(outputs.get(gather.key(command), ""))
        own = own_device(connection.name)
        device = connection.device or own
        if values and device:
            profiles.setdefault(device, []).append(
                Profile(
                    # Ours is named by its name: its UUID is another one each time it is made.
                    id=connection.name if own else connection.uuid,
                    name=connection.name,
                    active=bool(connection.device),
                    ipv4=linux.ipv4_of(values),
                    routes=linux.routes_of(values),
                    mtu=linux.mtu_of(values),
                )
            )
    links = linux.links(addr)
    interfaces = tuple(
        Interface(
            device=link.device,
            kind=link.kind,
            up=link.up,
            mac=link.mac,
            mtu=link.mtu,
            addresses=link.addresses,
            members=tuple(other.device for other in links if other.master == link.device),
            profiles=tuple(profiles.get(link.device, ())),
        )
        for link in links
    )
    return FoundHost(
        node=node,
        kind="linux",
        interfaces=interfaces,
        routes=linux.routing_table(table),
        forwarding=linux.forwarding(sysctl),
        boot_text=boot or None,
        manager=running.strip() == "running",
    )


def _windows(node: str, outputs: Outputs) -> FoundHost:
    adapters, addresses, settings, table = [outputs.get(gather.key(c), "") for c in gather.first_commands("windows")]
    routes = windows.routing_table(table)
    interfaces = windows.interfaces(adapters, addresses, settings, routes, windows.kept_routes(table))
    return FoundHost(node=node, kind="windows", interfaces=interfaces, routes=routes)


OWN_PREFIX = "smolcluster-"


def own_device(name: str) -> str:
    """The device of a connection of ours, `smolcluster-eth0`; empty for anybody else's."""
    return name.removeprefix(OWN_PREFIX) if name.startswith(OWN_PREFIX) else ""
