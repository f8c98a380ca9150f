"""Whether the machines reach each other at the addresses that a run dials: what probe.py's dialling found. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        dialled, pairs = _tried(name, said) if isinstance(said, Mapping) else ({}, [])
        for pair in pairs if dialled else ():
            try:
                one = Pair.model_validate(pair)
                if not one.networks:
                    raise not_ours(name, f"pairs: the way to {one.dst} is on no network")
                if one.destination in dialled:
                    why = dialled[one.destination] or ""
                    found.append(Way(src=name, dst=one.dst, address=one.destination, networks=one.networks, why=why))
            except ValidationError as error:
                raise not_ours(name, f"pairs: {error.errors()[0]['msg']}") from None
    return found


def _tried(name: str, said: Mapping[str, Any]) -> tuple[Mapping[str, Any], Sequence[Any]]:
    """A machine's answers by address, and its pairs. ConfigError where they are none."""
    dialled, pairs = said.get("dialled") or {}, said.get("pairs") or []
    if not isinstance(pairs, list):
        raise not_ours(name, "pairs: is no list")
    if not isinstance(dialled, Mapping):
        raise not_ours(name, "dialled: is no object")
    if any(why is not None and not isinstance(why, str) for why in dialled.values()):
        raise not_ours(name, "dialled: a value is neither null nor a text")
    return dialled, pairs


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
