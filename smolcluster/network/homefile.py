"""Answers -> the text of an inventory, with comments that tell what was found, what was said and what was assumed."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Literal

from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import Kind
from smolcluster.spec.inventoryfile import INVENTORY_SCHEMA
from smolcluster.spec.machines import kind_from_name

_THUNDERBOLT = ipaddress.IPv4Network("10.10.0.0/24")
_FIRST_EDGE = 50


class Machine(Frozen):
    """A machine of the inventory to be. `source` tells how it got in: found on the network, or named by the person.
    `user` logs in there, None: whom ssh takes by itself.
    """

    name: str
    kind: Kind
    host: str
    user: str | None = None
    local: bool = False
    ssh_port: int = 22
    source: str


class Edge(Frozen):
    """A machine plugged into another one's Ethernet; `only`: it is not on the router's network besides."""

    node: str
    gateway: str
    only: bool


class Answers(Frozen):
    """Everything a person said or a scan found. `subnet` is the LAN's, None where nobody knows it.

    `fabric` are the machines on a Thunderbolt cable; `cabled` tells how that is known.
    """

    name: str
    controller: str
    machines: tuple[Machine, ...]
    medium: Literal["wifi", "ethernet"] = "wifi"
    subnet: str | None = None
    fabric: tuple[str, ...] = ()
    cabled: str = ""
    edges: tuple[Edge, ...] = ()


def assumptions(answers: Answers) -> tuple[str, ...]:
    """What was decided without anybody having said it, in words. They stand in the file too."""
    found = [f"the machines reach each other over {answers.medium} under the names they are logged in at"]
    if any(machine.user is None and not machine.local for machine in answers.machines):
        found.append("you are the same user there as here, where no other is named: else add `user: NAME`")
    if answers.subnet is None:
        found.append("the subnet of that network is not known: it is left out, and no routes lead to it")
    if answers.fabric:
        found.append(f"{_THUNDERBOLT} is free for the Thunderbolt cables ({answers.cabled})")
    if answers.edges:
        nets = ", ".join(str(subnet) for subnet in _edge_subnets(answers))
        found.append(f"{nets}: free for the Ethernet cables")
    if answers.fabric or answers.edges:
        found.append("nobody else is on those cables: they are private")
    return tuple(found)


def home_file(answers: Answers) -> str:
    """The text of the inventory. The same answers give the same bytes."""
    lines = [
        "# The machines and the wires between them, written by `python -m smolcluster init`. Yours to edit:",
        "# documentation/configuration.md has every key. What is wrong is told by",
        "#   python -m smolcluster check -i THIS_FILE",
        "#",
        "# Assumed, because nobody said so:",
        *(f"#   - {text}" for text in assumptions(answers)),
        "",
        f"schema: {INVENTORY_SCHEMA}",
        f"name: {answers.name}",
        f"controller: {answers.controller}",
        "",
        "machines:",
        *_machines(answers.machines),
        "",
        "networks:",
    ]
    blocks = [*_fabric(answers), *_edges(answers), _lan(answers)]
    return "\n".join([*lines, "\n\n".join("\n".join(block) for block in blocks)]) + "\n"


def _machines(machines: Sequence[Machine]) -> list[str]:
    lines = []
    for machine in machines:
        words = ["connection: local"] if machine.local else [f"host: {machine.host}"]
        words += [f"user: {machine.user}"] if machine.user is not None else []
        # A machine whose name tells its kind needs no word on it, but for the one this runs on.
        words += [f"kind: {machine.kind}"] if machine.local or kind_from_name(machine.name) != machine.kind else []
        words += [f"ssh_port: {machine.ssh_port}"] if machine.ssh_port != 22 else []
        lines.append(f"  {machine.name}: {{{', '.join(words)}}}    # {machine.source}")
    return lines


def _fabric(answers: Answers) -> list[list[str]]:
    if not answers.fabric:
        return []
    lines = [
        f"  # {answers.cabled}. network.yml sets these addresses.",
        *_head("thunderbolt", "thunderbolt", str(_THUNDERBOLT), private=True),
        *(f"      {node}: {_THUNDERBOLT[number]}" for number, node in enumerate(answers.fabric, 1)),
    ]
    return [lines]


def _edges(answers: Answers) -> list[list[str]]:
    blocks = []
    for edge, subnet in zip(answers.edges, _edge_subnets(answers), strict=True):
        # The LAN can be routed to only where its subnet is known.
        targets = ["thunderbolt"] * (edge.gateway in answers.fabric) + ["lan"] * (answers.subnet is not None)
        gates = ", ".join(f"{target}: {edge.gateway}" for target in targets)
        blocks.append([
            f"  # {edge.node} is plugged into {edge.gateway}, and reaches the others through it.",
            *_head(f"ethernet_{edge.node}", "ethernet", str(subnet), private=True),
            f"      {edge.gateway}: {subnet[1]}",
            f"      {edge.node}: {subnet[2]}",
            *([f"    gateways: {{{gates}}}"] if gates else []),
        ])  # fmt: skip
    return blocks


def _lan(answers: Answers) -> list[str]:
    behind = {edge.node for edge in answers.edges if edge.only}
    return [
        "  # The router's network. Its addresses may change, so machines are known by their names.",
        *_head("lan", answers.medium, answers.subnet, private=False),
        *(f"      {m.name}: {m.host}" for m in answers.machines if m.name not in behind),
    ]


def _head(name: str, medium: str, subnet: str | None, private: bool) -> list[str]:
    return [
        f"  {name}:",
        f"    medium: {medium}",
        *([f"    subnet: {subnet}"] if subnet is not None else []),
        f"    private: {str(private).lower()}",
        "    members:",
    ]


def _edge_subnets(answers: Answers) -> list[ipaddress.IPv4Network]:
    """One /24 an edge, from 192.168.50.0 on, none of them the LAN's."""
    lan = ipaddress.ip_network(answers.subnet) if answers.subnet is not None else None
    subnets = list(ipaddress.IPv4Network("192.168.0.0/16").subnets(new_prefix=24))[_FIRST_EDGE:]
    return [s for s in subnets if not (lan is not None and lan.version == 4 and s.overlaps(lan))][: len(answers.edges)]
