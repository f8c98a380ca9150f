"""Under which names and addresses a node is certified. Links do not look at them, a browser does."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from smolcluster.spec.cluster import ClusterSpec

# The authority is trusted by people's phones, so it can sign for nothing but what is at home: names that no one can
# register, and addresses that no one is reached at from outside.
DOMAINS = ("local", "localhost", "lan", "home", "home.arpa", "internal")
NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "127.0.0.0/8"),
        *("fc00::/7", "fe80::/10", "::1/128"),
    )
)
_ALWAYS = ("localhost", "127.0.0.1", "::1")


def at_home(name: str) -> bool:
    """Whether the authority may sign for it."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name.isascii() and " " not in name and any(name == d or name.endswith(f".{d}") for d in DOMAINS)
    return any(address in network for network in NETWORKS)


def names_of(cluster: ClusterSpec, node: str) -> tuple[str, ...]:
    """A node's names and addresses by the inventory: NAME.local, its host, its address on every wire; in order."""
    machine = cluster.node(node)
    found = [f"{node}.local", machine.host, *(network.members.get(node, "") for network in cluster.networks), *_ALWAYS]
    return ordered(found)


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Those that the authority may sign for, each once, in lower case and an order of their own."""
    return tuple(sorted({name.lower() for name in names if name and at_home(name.lower())}))
