"""What every machine's network has to be for the inventory to be true: addresses, forwarding, routes. Pure; no torch.

wanted_network(cluster)            the wanted state of every machine, from the inventory alone
fabric_of(network, cables)         how Macs share a Thunderbolt network: a chain bridged, a cycle routed
changes(wanted, found)             what is missing or wrong on machines that somebody looked at
conflicts(wanted, found)           why it must not be set up as it is: a subnet that is taken, an address used twice

Setting it up, looking at machines and verifying them is what network.yml and its roles do.
"""

from __future__ import annotations

from smolcluster.network.conflicts import conflicts
from smolcluster.network.differ import changes
from smolcluster.network.fabric import Cable, CableEnd, Fabric, fabric_of
from smolcluster.network.found import FoundHost, FoundInterface, FoundRoute
from smolcluster.network.types import Change, Conflict, Gap, HostWanted, Interface, NetworkWanted, RouteWanted
from smolcluster.network.wanted import wanted_network

__all__ = [
    "Cable",
    "CableEnd",
    "Change",
    "Conflict",
    "Fabric",
    "FoundHost",
    "FoundInterface",
    "FoundRoute",
    "Gap",
    "HostWanted",
    "Interface",
    "NetworkWanted",
    "RouteWanted",
    "changes",
    "conflicts",
    "fabric_of",
    "wanted_network",
]
