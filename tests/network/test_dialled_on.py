"""Where a machine is looked for on a router's network of which nobody wrote the subnet: dialled, never configured."""

from __future__ import annotations

import pytest

from smolcluster.network.choose import device_on, dialled_on
from smolcluster.network.expected import expected_pairs
from smolcluster.network.found import FoundHost, Interface, InterfaceKind, LiveRoute
from smolcluster.network.measuring import with_addresses
from smolcluster.network.wanted import wanted_network
from smolcluster.spec.cluster import ClusterSpec, Network

from .clusters import cluster, machines, wire

NODES = machines(mini1="macos", mini2="macos", pi4="linux", pi5="linux")
NAMES = {node.name: node.host for node in NODES}


def lan(subnet: str | None = None, **more: object) -> Network:
    """As `init` writes it without --scan."""
    return wire("lan", subnet, NAMES, medium="wifi", private=False, **more)


HOME = cluster(NODES, lan())


def on(device: str, kind: InterfaceKind, *addresses: str) -> Interface:
    return Interface(device=device, kind=kind, up=bool(addresses), addresses=addresses)


def host(node: str, *interfaces: Interface, default: str | None = None, ssh: str | None = None) -> FoundHost:
    routes = (LiveRoute(destination="0.0.0.0/0", device=default, via="192.168.1.1"),) if default else ()
    return FoundHost(node=node, kind="linux", interfaces=interfaces, routes=routes, ssh_address=ssh)


def cabled(node: str, last: int) -> FoundHost:
    """On the router's Ethernet, its Wi-Fi off."""
    here = on("en0", "ethernet", "fe80::1%en0/64", f"192.168.1.{last}/24")
    return host(node, here, on("en1", "wifi"), default="en0")


def wireless(node: str, last: int) -> FoundHost:
    return host(node, on("eth0", "ethernet"), on("wlan0", "wifi", f"192.168.1.{last}/24"), default="wlan0")


def test_a_routers_ethernet_and_its_wifi_are_one_lan() -> None:
    found = {"mini1": cabled("mini1", 11), "mini2": cabled("mini2", 12)}
    found |= {"pi4": wireless("pi4", 14), "pi5": wireless("pi5", 15)}
    pairs = expected_pairs(HOME, wanted_network(HOME), found)
    known, untold = with_addresses(pairs, HOME, found)
    assert (len(known), untold) == (12, ())
    [way] = [one for one in known if (one.src, one.dst) == ("mini1", "pi5")]
    assert (way.source, way.destination) == ("192.168.1.11", "192.168.1.15")
    # What network.yml would set a route on stays undecided.
    assert device_on(HOME.networks[0], found["mini1"]) is None


def test_the_interface_of_the_login_where_a_vpn_has_the_default_route() -> None:
    vpn = on("utun3", "other", "10.8.0.2/24")
    here = on("en0", "ethernet", "192.168.1.11/24")
    assert dialled_on(HOME.networks[0], host("mini1", vpn, here, default="utun3"), HOME) is None
    asked = host("mini1", vpn, here, default="utun3", ssh="192.168.1.11")
    assert dialled_on(HOME.networks[0], asked, HOME) == "192.168.1.11"


@pytest.mark.parametrize(
    "home",
    [
        cluster(NODES, lan(subnet="192.168.7.0/24")),
        cluster(NODES, lan(interfaces={"mini1": "en1"})),
        # Which of two routers' networks it would be nobody knows.
        cluster(NODES, lan(), wire("office", None, NAMES, private=False)),
        # Its default route goes over a cable of the inventory.
        cluster(NODES, lan(), wire("cable", "192.168.1.0/24", {"mini1": "192.168.1.11", "pi5": "192.168.1.2"})),
        cluster(NODES, lan(), wire("cable", None, NAMES, interfaces={"mini1": "en0"})),
    ],
    ids=["a subnet", "a device", "two networks", "the subnet of a cable", "the device of a cable"],
)
def test_what_the_inventory_says_is_not_overruled(home: ClusterSpec) -> None:
    assert dialled_on(home.networks[0], cabled("mini1", 11), home) is None
