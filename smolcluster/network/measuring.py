"""What is to be measured, with the addresses of the moment; and what probe.py printed, as values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from smolcluster.network.choose import dialled_on
from smolcluster.network.expected import Measured, Pair, Ping, Speed, Untold
from smolcluster.network.found import FoundHost
from smolcluster.network.parse import FormatError
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.values import ip_of

_ARP = re.compile(r"\((\d+(?:\.\d+){3})\) at ([0-9a-fA-F:]+)\b")
# An entry that was tried and got no answer, or was never tried, tells nothing.
_UNANSWERED = {"FAILED", "INCOMPLETE", "NONE"}


def with_addresses(
    pairs: Sequence[Pair], cluster: ClusterSpec, found: Mapping[str, FoundHost]
) -> tuple[tuple[Pair, ...], tuple[Untold, ...]]:
    """The pairs with each name as the address the machine has there now, and those where nothing tells one."""
    networks = {network.name: network for network in cluster.networks}

    def address(text: str, node: str, network: str) -> str | None:
        if ip_of(text) is not None:
            return text
        return dialled_on(networks[network], found[node], cluster) if node in found else None

    known, untold = [], []
    for pair in pairs:
        source = address(pair.source, pair.src, pair.networks[0])
        destination = address(pair.destination, pair.dst, pair.networks[-1])
        if source is None or destination is None:
            who, where = (pair.src, pair.networks[0]) if source is None else (pair.dst, pair.networks[-1])
            untold.append(Untold(src=pair.src, dst=pair.dst, node=who, network=where))
        else:
            known.append(pair.model_copy(update={"source": source, "destination": destination}))
    return tuple(known), tuple(untold)


def rounds(pairs: Sequence[Pair]) -> tuple[tuple[Pair, ...], ...]:
    """The pairs whose bandwidth is measured, once for each wire that two machines share, in rounds of pairs that do not
    have a machine in common: those of one round do not disturb each other."""
    done: list[list[Pair]] = []
    seen: set[frozenset[str]] = set()
    for pair in pairs:
        ends = frozenset((pair.src, pair.dst))
        if pair.passes or ends in seen:
            continue
        seen.add(ends)
        for group in done:
            if not any(ends & {other.src, other.dst} for other in group):
                group.append(pair)
                break
        else:
            done.append([pair])
    return tuple(tuple(group) for group in done)


def pings_of(pairs: Sequence[Pair], node: str, text: str) -> tuple[Ping, ...]:
    """What `probe.py ping` printed on a machine, a line for each address it pinged from."""
    answers: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        answers |= _object(line, "probe.py ping").get("pings", {})
    return tuple(
        Ping(src=node, dst=pair.dst, rtt_ms=one.get("rtt_ms"), hops=one.get("hops"), mtu=one.get("mtu"))
        for pair in pairs
        if pair.src == node and (one := answers.get(pair.destination)) is not None
    )


def speed_of(src: str, dst: str, text: str) -> Speed:
    """What `probe.py measure` printed; without numbers when the other end could not be reached."""
    value = _object(text, "probe.py measure")
    return Speed(src=src, dst=dst, rtt_ms=value.get("rtt_ms"), mbps=value.get("mbps"))


def pinged_neighbours(text: str) -> dict[str, str]:
    """What the last line of `probe.py ping` has of its machine's neighbours."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        said = _object(line, "probe.py ping").get("neighbours")
        found |= neighbours_of(said) if isinstance(said, str) and said.strip() else {}
    return found


def neighbours_of(text: str) -> dict[str, str]:
    """Address to hardware address, of `arp -an`, `ip -j neigh` or `Get-NetNeighbor | ConvertTo-Json`."""
    if not text.lstrip("\ufeff \r\n").startswith(("[", "{")):
        return {ip: _mac(mac) for ip, mac in _ARP.findall(text)}
    try:
        value = json.loads(text.lstrip("\ufeff"))
    except ValueError:
        raise FormatError("ip -j neigh", "is no JSON") from None
    found = {}
    for entry in value if isinstance(value, list) else [value]:
        mac = entry.get("lladdr") or entry.get("LinkLayerAddress") or ""
        ip = entry.get("dst") or entry.get("IPAddress") or ""
        zero = set(re.sub("[^0-9a-fA-F]", "", mac)) <= {"0"}
        if isinstance(ip, str) and not zero and not _UNANSWERED & set(entry.get("state", ())):
            found[ip] = _mac(mac.replace("-", ":"))
    return found


def measured_in(files: Mapping[str, str], pairs: Sequence[Pair]) -> Measured:
    """A folder's files: `NODE.pings.json`, `NODE.speed.PEER.json`, `NODE.neighbours.txt`. Others are passed over."""
    pings: list[Ping] = []
    speeds: list[Speed] = []
    neighbours: dict[str, dict[str, str]] = {}
    for name, text in sorted(files.items()):
        node, _, rest = name.partition(".")
        peer = re.fullmatch(r"speed\.([A-Za-z0-9_-]+)\.json", rest)
        if rest == "pings.json":
            pings += pings_of(pairs, node, text)
            if said := pinged_neighbours(text):
                neighbours.setdefault(node, {}).update(said)
        elif peer is not None:
            speeds.append(speed_of(node, peer[1], text))
        elif rest == "neighbours.txt":
            neighbours.setdefault(node, {}).update(neighbours_of(text))
    return Measured(pings=tuple(pings), speeds=tuple(speeds), neighbours=neighbours)


def _mac(text: str) -> str:
    """macOS leaves out zeros: 36:5f:d5:0:1:0."""
    return ":".join(part.zfill(2) for part in text.lower().split(":"))


def _object(text: str, tool: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        raise FormatError(tool, "is no JSON") from None
    if not isinstance(value, dict):
        raise FormatError(tool, "is no JSON object")
    return value
