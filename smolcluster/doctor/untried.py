"""Ways from machine to machine that check.yml meant to try and could not, each with its reason: silence is no proof
that nothing is wrong. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from smolcluster.doctor.machines import Finding, not_ours
from smolcluster.network.expected import Pair, Untold
from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import ClusterSpec, Network

_WINDOWS = "is a Windows PC, which neither listens nor dials in this check"
_PLUG = "look at its cable or Wi-Fi, and whether the subnet that the inventory gives there is right"
_NETWORK = "ansible-playbook network.yml --check --diff"
_ROUTES = f"{_NETWORK} says what the inventory lacks (as networks.NAME.subnet)"
_PORTS = "see what holds the ports there: ansible-playbook status.yml"
_SETUP = "its words; ansible-playbook setup.yml brings what listens and dials there"


class Untried(Frozen):
    """From one machine to another, not tried. `node`: the one of the two it is due to, which `why` is said of.

    `fix` is empty where nothing can be mended.
    """

    src: str
    dst: str
    node: str
    why: str
    fix: str = ""


class _Said(Frozen):
    """What a machine's answer has of its ways. `listens`: the own addresses where it listened; `listening` and
    `dialling`: the words of what failed or complained there.
    """

    pairs: tuple[Pair, ...] = ()
    untold: tuple[Untold, ...] = ()
    dialled: dict[str, str | None] = {}  # noqa: RUF012 - pydantic copies defaults
    listens: tuple[str, ...] = ()
    listening: str = ""
    dialling: str = ""


def read_untried(cluster: ClusterSpec, told: Mapping[str, Any]) -> list[Untried]:
    """Those of what the machines said, by source. ConfigError for what is not ours."""
    parts = {name: _read(name, said) for name, said in told.items() if isinstance(said, Mapping)}
    windows = {node.name for node in cluster.nodes if node.kind == "windows"}
    networks = {network.name: network for network in cluster.networks}
    found = []
    for name, part in parts.items():
        for one in part.untold:
            why, fix = f"has no address on {one.network} that anything tells", _tell(networks.get(one.network), one)
            if one.lost:
                why, fix = f"has no way to {one.dst} and back: {one.lost}", _ROUTES
            found.append(Untried(src=one.src, dst=one.dst, node=one.node, why=why, fix=fix))
        for pair in part.pairs:
            if pair.destination not in part.dialled:
                node, why, fix = _reason(name, pair, parts, windows)
                found.append(Untried(src=name, dst=pair.dst, node=node, why=why, fix=fix))
    return found


def untried_findings(untried: Iterable[Untried]) -> list[Finding]:
    """One for each machine and reason. None where nothing can be mended: the count of ways tells it."""
    counts: dict[tuple[str, str, str], int] = {}
    for one in untried:
        if one.fix:
            key = (one.node, one.why, one.fix)
            counts[key] = counts.get(key, 0) + 1
    return [
        Finding(node=node, what=f"{why}: {count} {'way' if count == 1 else 'ways'} not tried", fix=fix)
        for (node, why, fix), count in counts.items()
    ]


def unknown_ways(controller: str, words: str) -> Finding:
    """`network pairs` failed, which says who is to reach whom: in its own words."""
    lines = [line.strip() for line in words.splitlines() if line.strip() and not line.startswith("note: ")]
    fixes = [line.removeprefix("fix: ") for line in lines if line.startswith("fix: ")]
    what = " ".join(line for line in lines if not line.startswith("fix: ")) or "it gave no reason"
    return Finding(
        node=controller,
        what=f"cannot tell who is to reach whom, so no way was tried: {what}",
        fix="; ".join(dict.fromkeys(fixes)) or "ansible-playbook network.yml --check --diff says more",
    )


def _read(name: str, said: Mapping[str, Any]) -> _Said:
    try:
        return _Said.model_validate({key: said[key] for key in _Said.model_fields if said.get(key)})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise not_ours(name, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _reason(src: str, pair: Pair, parts: Mapping[str, _Said], windows: set[str]) -> tuple[str, str, str]:
    """Which of the two, why, and what helps."""
    for node in (src, pair.dst):
        if node in windows:
            return node, _WINDOWS, ""
    there = parts.get(pair.dst, _Said())
    if pair.destination not in there.listens:
        words = _words(there.listening, pair.destination)
        return pair.dst, f"could not listen at {pair.destination}: {words}", _mend(words)
    words = _words(parts[src].dialling, pair.source)
    return src, f"did not dial: {words}", _SETUP


def _words(said: str, address: str) -> str:
    """What was said of that address, else the last line: of a traceback, and of a shell, the one that tells."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    own = [line.removeprefix(f"{address}: ") for line in lines if line.startswith(f"{address}: ")]
    return (own or lines[-1:] or ["it gave no reason"])[0]


def _mend(words: str) -> str:
    if "assign requested address" in words:
        return _NETWORK
    return _PORTS if "in use" in words else _SETUP


def _tell(network: Network | None, one: Untold) -> str:
    """Where the inventory can tell the address."""
    if network is None or network.subnet is not None:
        return _PLUG
    key = f"networks.{one.network}"
    return f"write {key}.subnet in the inventory (as 192.168.1.0/24), or {key}.interfaces: {{{one.node}: its device}}"
