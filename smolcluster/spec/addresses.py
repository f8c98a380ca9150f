"""Checks of an inventory's wires: every address belongs to one machine and lies in its subnet, every name is known."""

from __future__ import annotations

import ipaddress

from smolcluster.errors import Problem
from smolcluster.spec.cluster import Network, Node
from smolcluster.spec.document import Document
from smolcluster.spec.problems import did_you_mean, listed
from smolcluster.spec.values import ip_of, normal


def check_networks(networks: tuple[Network, ...], machines: tuple[str, ...], document: Document) -> list[Problem]:
    """Everything wrong with the networks, as Problems of that document."""
    problems: list[Problem] = []
    names = tuple(network.name for network in networks)
    owners: dict[str, tuple[str, str]] = {}
    for network in networks:
        for node, address in network.members.items():
            here = ("networks", network.name, "members", node)
            if node not in machines:
                # One that is on this wire already is not meant: this line is left of a machine that was deleted.
                others = [name for name in machines if name not in network.members]
                near = did_you_mean(node, others)
                fix = f"delete this line, or add {node} to machines"
                fix = f"{near} Else {fix}" if near else fix
                problems.append(document.problem(here, f'there is no machine "{node}"', fix))
            problems += _check_subnet(network, node, address, document)
            key = normal(address)
            if network.medium == "loopback":
                continue
            if key in owners:
                other, where = owners[key]
                what = f"{address} is the own address of {other} in {where} already"
                problems.append(document.problem(here, what, "give every machine an address of its own"))
            else:
                owners[key] = (node, network.name)
        problems += _check_gateways(network, networks, names, document)
        problems += _check_interfaces(network, document)
    return problems + _check_overlaps(networks, document)


def check_hosts(nodes: tuple[Node, ...], document: Document) -> list[Problem]:
    """No two machines are logged into at the same place."""
    problems: list[Problem] = []
    seen: dict[tuple[str, int], str] = {}
    for node in nodes:
        if node.connection != "ssh":
            continue
        other = seen.setdefault((normal(node.host), node.ssh_port), node.name)
        if other != node.name:
            what = f"{node.host} is how {other} is reached already"
            fix = "a machine with several ranks is listed once, with `ranks: 2`"
            problems.append(document.problem(("machines", node.name, "host"), what, fix))
    return problems


def check_controller(
    controller: str, machines: tuple[str, ...], nodes: tuple[Node, ...], document: Document
) -> list[Problem]:
    """The controller is a machine of the file, or localhost; it is not reached over SSH where another one is local."""
    if controller != "localhost" and controller not in machines:
        fix = did_you_mean(controller, (*machines, "localhost"), f"write localhost or one of {listed(machines)}")
        return [document.problem(("controller",), f'there is no machine "{controller}"', fix)]
    here = [node.name for node in nodes if node.connection == "local"]
    away = [node.name for node in nodes if node.connection == "ssh"]
    if here and controller in away:
        what = f"{controller} is reached over SSH, but {here[0]} has `connection: local`, as the controller has"
        fix = f"write `controller: {here[0]}`, or give {here[0]} a `host` instead and {controller} `connection: local`"
        return [document.problem(("controller",), what, fix)]
    return []


def _check_subnet(network: Network, node: str, address: str, document: Document) -> list[Problem]:
    ip = ip_of(address)
    if network.subnet is None or ip is None:
        return []
    subnet = ipaddress.ip_network(network.subnet)
    here = ("networks", network.name, "members", node)
    if ip not in subnet:
        what = f"{address} lies outside the subnet {network.subnet}"
        return [document.problem(here, what, f"use an address between {subnet[1]} and {subnet[-2]}")]
    if subnet.num_addresses > 2 and ip in (subnet[0], subnet[-1]) and ip.version == 4:
        what = f"{address} is no machine's: the first and last address of {network.subnet} are reserved"
        return [document.problem(here, what, f"use an address between {subnet[1]} and {subnet[-2]}")]
    return []


def _check_interfaces(network: Network, document: Document) -> list[Problem]:
    problems: list[Problem] = []
    for node in network.interfaces:
        if node not in network.members:
            what = f"{node} is not on this wire"
            fix = did_you_mean(node, network.members, f"members: {listed(network.members)}")
            problems.append(document.problem(("networks", network.name, "interfaces", node), what, fix))
    return problems


def _check_overlaps(networks: tuple[Network, ...], document: Document) -> list[Problem]:
    """Cables of one's own need subnets of their own. Two ways into the same router's LAN may share its subnet."""
    problems: list[Problem] = []
    known = [network for network in networks if network.subnet is not None and network.medium != "loopback"]
    for index, network in enumerate(known):
        for other in known[:index]:
            mine, its = ipaddress.ip_network(str(network.subnet)), ipaddress.ip_network(str(other.subnet))
            if mine.version == its.version and mine.overlaps(its) and (network.private or other.private):
                what = f"{network.subnet} overlaps {other.name}'s {other.subnet}: no machine could tell them apart"
                problems.append(document.problem(("networks", network.name, "subnet"), what, "one subnet per wire"))
    return problems


def _check_gateways(
    network: Network, networks: tuple[Network, ...], names: tuple[str, ...], document: Document
) -> list[Problem]:
    problems: list[Problem] = []
    by_name = {other.name: other for other in networks}
    for target, gateway in network.gateways.items():
        here = ("networks", network.name, "gateways", target)
        if target not in by_name or target == network.name:
            others = tuple(name for name in names if name != network.name)
            fix = did_you_mean(target, others, f"other networks: {listed(others)}")
            problems.append(document.problem(here, f'there is no other network "{target}"', fix))
            continue
        both = [node for node in network.members if node in by_name[target].members]
        if gateway not in both:
            what = f"{gateway} is not on both wires, {network.name} and {target}, so it cannot forward between them"
            fix = did_you_mean(gateway, both, f"machines on both: {listed(both)}")
            problems.append(document.problem(here, what, fix))
    return problems
