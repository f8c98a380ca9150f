"""Whether the machines reach each other at the addresses that a run dials: what probe.py's dialling found. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from smolcluster.doctor.machines import Finding, not_ours
from smolcluster.network.expected import Pair
from smolcluster.spec.base import Frozen
from smolcluster.spec.problems import listed

_FIX = (
    "a firewall there: ansible-playbook setup.yml --tags firewall; or no way there: "
    "ansible-playbook network.yml --check --diff"
)


class Way(Frozen):
    """From one machine to another at that address. `why`: why it was not reached; empty where it was."""

    src: str
    dst: str
    address: str
    networks: tuple[str, ...]
    why: str = ""


def read_ways(told: Mapping[str, Any]) -> list[Way]:
    """Those that were tried: the other end listened. ConfigError for what is not ours."""
    found = []
    for name, said in told.items():
        dialled = said.get("dialled") or {} if isinstance(said, Mapping) else {}
        for pair in said.get("pairs") or () if dialled else ():
            try:
                one = Pair.model_validate(pair)
                if one.destination in dialled:
                    why = dialled[one.destination] or ""
                    found.append(Way(src=name, dst=one.dst, address=one.destination, networks=one.networks, why=why))
            except ValidationError as error:
                raise not_ours(name, f"pairs: {error.errors()[0]['msg']}") from None
    return found


def unreached(ways: list[Way]) -> list[Finding]:
    """One finding for each machine that others cannot reach."""
    found = []
    for dst in dict.fromkeys(way.dst for way in ways if way.why):
        own = [way for way in ways if way.dst == dst]
        lost = [way for way in own if way.why]
        who = "anybody" if len(lost) == len(own) > 1 else listed(way.src for way in lost)
        where = listed(sorted({f"{way.address} on {way.networks[-1]}" for way in lost}))
        what = f"is not reached by {who} at {where}: {listed(sorted({way.why for way in lost}))}"
        found.append(Finding(node=dst, what=what, fix=_FIX, blocks=True))
    return found
