"""Ports: which one each rank listens on, and who would be in whose way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smolcluster.plan.wires import Complaint

_LAST_PORT = 65535


@dataclass(frozen=True)
class Listener:
    """Who listens on which addresses of which machine. Port 0 is any free one."""

    who: str
    node: str
    addresses: tuple[str, ...]
    port: int


def ports_of(seats: Sequence[tuple[str, int]], listen: Sequence[tuple[str, ...]]) -> dict[int, int]:
    """By rank: its machine's port; + rank where another rank would listen on the same address and port. 0 stays 0.

    `seats` has each rank's machine and port, `listen` its addresses.
    """
    ports: dict[int, int] = {}
    for rank, (node, base) in enumerate(seats):
        shared = any(
            other != rank and port == base and (name == node or set(listen[rank]) & set(listen[other]))
            for other, (name, port) in enumerate(seats)
        )
        ports[rank] = base + rank if base and shared else base
    return ports


def port_problems(listeners: Sequence[Listener]) -> list[Complaint]:
    """Ports beyond the last one, and two that would listen on one address and port."""
    problems: list[Complaint] = []
    taken: dict[tuple[str, int], Listener] = {}
    for one in listeners:
        if one.port > _LAST_PORT:
            what = f"the port of {one.who} and its rank's number lead beyond {_LAST_PORT}"
            problems.append(("port", what, "write a lower port, 65432 for one"))
        for address in one.addresses if one.port else ():
            other = taken.setdefault((address, one.port), one)
            if other is not one:
                what = f"{other.who} and {one.who} share {one.port} on {address}"
                problems.append(("port", what, "give their machines ports further apart"))
    return problems
