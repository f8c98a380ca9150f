"""Routes between machines, endpoints, shapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.spec.cluster import ClusterSpec, Network, Node
from smolcluster.spec.inventory import load_inventory
from smolcluster.topology import Endpoint, NoRouteError, Topology, neighbours

HOME = Path(__file__).resolve().parents[2] / "inventory" / "home.smol.yml"


def cluster(*networks: Network) -> ClusterSpec:
    names = sorted({name for network in networks for name in network.members} | {"lonely"})
    nodes = tuple(Node(name=name, kind="linux", host=name, workdir="~") for name in names)
    return ClusterSpec(name="test", controller="localhost", nodes=nodes, networks=networks)


def wire(
    name: str, speed: float, members: dict[str, str], gateways: dict[str, str] | None = None, **more: bool
) -> Network:
    return Network(name=name, medium="ethernet", speed_mbps=speed, members=members, gateways=gateways or {}, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def home() -> Topology:
    return Topology(load_inventory(HOME))


@pytest.mark.parametrize(
    ("src", "dst", "address"),
    [
        ("mini1", "mini2", "10.10.0.2"),  # Thunderbolt before Wi-Fi
        ("pi5", "mini1", "192.168.50.1"),  # the cable they share
        ("mini1", "pi5", "192.168.50.2"),
        ("pi5", "mini2", "10.10.0.2"),  # through mini1, and on over Thunderbolt
        ("mini2", "pi5", "192.168.50.2"),
        ("pi5", "pi4", "192.168.51.4"),  # through both Macs
        ("macbook", "mini1", "mini1.local"),  # only the Wi-Fi
        ("mini1", "ipad", "172.20.10.3"),
        ("win", "pi4", "192.168.51.4"),
        ("mini1", "mini1", "127.0.0.1"),
    ],
)
def test_home(home: Topology, src: str, dst: str, address: str) -> None:
    assert home.address_of(src, dst) == address


def test_the_way_between_two_pis(home: Topology) -> None:
    route = home.route("pi5", "pi4")
    assert route.networks == ("ethernet_pi5", "thunderbolt", "ethernet_pi4")
    assert route.gateways == ("mini1", "mini3")
    assert (route.speed_mbps, route.private, route.medium) == (1000, True, "ethernet")


def test_a_way_over_an_open_wire_is_not_private(home: Topology) -> None:
    route = home.route("win", "pi4")
    assert (route.private, route.exposed, route.speed_mbps) == (False, ("wifi",), 300)


def test_routes_are_the_same_both_ways(home: Topology) -> None:
    names = ["mini1", "mini2", "mini3", "macbook", "pi5", "pi4", "win", "ipad"]
    for src in names:
        for dst in names:
            assert home.route(src, dst).networks == home.route(dst, src).networks[::-1]


def test_the_faster_of_two_shared_wires() -> None:
    slow, fast = (
        wire("slow", 100, {"a": "10.0.0.1", "b": "10.0.0.2"}),
        wire("fast", 900, {"a": "fd00::1", "b": "fd00::2"}),
    )
    assert Topology(cluster(slow, fast)).address_of("a", "b") == "fd00::2"


def test_a_shared_wire_before_a_faster_detour() -> None:
    direct = wire("direct", 10, {"a": "10.0.0.1", "b": "10.0.0.2"})
    left = wire("left", 900, {"a": "10.0.1.1", "g": "10.0.1.9"}, {"right": "g"})
    right = wire("right", 900, {"b": "10.0.2.1", "g": "10.0.2.9"})
    assert Topology(cluster(direct, left, right)).address_of("a", "b") == "10.0.0.2"


def test_the_faster_of_two_detours() -> None:
    left = wire("left", 900, {"a": "10.0.1.1", "g": "10.0.1.9", "h": "10.0.1.8"}, {"slow": "g", "fast": "h"})
    slow = wire("slow", 10, {"b": "10.0.2.1", "g": "10.0.2.9"})
    fast = wire("fast", 90, {"b": "10.0.3.1", "h": "10.0.3.8"})
    assert Topology(cluster(left, slow, fast)).address_of("a", "b") == "10.0.3.1"


def test_no_gateway_no_way() -> None:
    left, right = (
        wire("left", 1, {"a": "10.0.1.1", "g": "10.0.1.9"}),
        wire("right", 1, {"b": "10.0.2.1", "g": "10.0.2.9"}),
    )
    with pytest.raises(NoRouteError, match="no wire joins a and b"):
        Topology(cluster(left, right)).address_of("a", "b")
    with pytest.raises(NoRouteError):
        Topology(cluster(left, right)).address_of("a", "lonely")
    with pytest.raises(KeyError):
        Topology(cluster(left, right)).address_of("a", "nobody")


@pytest.mark.parametrize("text", ["10.10.0.1:65432", "[fd00::1]:65432", "mini1.local:0", "[fe80::1%en0]:80"])
def test_endpoints_come_back(text: str) -> None:
    assert str(Endpoint.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["10.10.0.1", "fd00::1:80", "[fd00::1", "[10.0.0.1]:80", ":80", "a:x", "a:70000", "a b:1"]
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("MESH", [(1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)]),
        ("STAR", [(1, 2, 3), (0,), (0,), (0,)]),
        ("CHAIN", [(1,), (0, 2), (1, 3), (2,)]),
    ],
)
def test_shapes(shape: str, expected: list[tuple[int, ...]]) -> None:
    assert [neighbours(shape, rank, 4) for rank in range(4)] == expected  # type: ignore[arg-type]
