"""The network as it should be: every pair that may talk does, there and back; what the guide's own routes miss."""

from __future__ import annotations

import ipaddress
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolcluster.network.expected import expected_pairs, lost_pairs
from smolcluster.network.packets import Packets
from smolcluster.network.values import Wanted, WantedRoute
from smolcluster.network.wanted import wanted_network
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.topology import NoRouteError, Topology

from .clusters import CHAIN, TRIANGLE, cable, cluster, home, machines, wire

SET = ("mini1", "mini2", "mini3", "macbook", "pi5", "pi4", "win")


def lost(spec: ClusterSpec, wanted: Wanted) -> dict[tuple[str, str], str]:
    """The pairs of machines that are meant to talk and do not, with the reason; without the tablet and the Pis."""
    packets, topology, found = Packets(spec, wanted), Topology(spec), {}
    for src, dst in permutations([host.node for host in wanted.hosts], 2):
        try:
            topology.route(src, dst)
        except NoRouteError:
            continue
        out, back = packets.there_and_back(src, dst)
        if (out.lost or back.lost) and not ("ipad" in (src, dst) and {src, dst} & {"pi4", "pi5"}):
            found[src, dst] = out.lost or f"answer: {back.lost}"
    return found


def routes(wanted: Wanted) -> dict[str, list[tuple[str, str]]]:
    return {host.node: [(r.destination, r.via) for r in host.routes] for host in wanted.hosts}


def test_home_has_every_route() -> None:
    assert routes(wanted_network(home(), CHAIN)) == {
        "mini1": [("192.168.51.0/24", "10.10.0.3")],
        "mini2": [("192.168.50.0/24", "10.10.0.1"), ("192.168.51.0/24", "10.10.0.3")],
        "mini3": [("192.168.50.0/24", "10.10.0.1")],
        "macbook": [("192.168.50.0/24", "mini1.local"), ("192.168.51.0/24", "mini3.local")],
        "pi5": [
            ("10.10.0.0/24", "192.168.50.1"),
            ("172.20.10.0/24", "192.168.50.1"),
            ("192.168.51.0/24", "192.168.50.1"),
        ],
        "pi4": [
            ("10.10.0.0/24", "192.168.51.2"),
            ("172.20.10.0/24", "192.168.51.2"),
            ("192.168.50.0/24", "192.168.51.2"),
        ],
        "win": [("192.168.50.0/24", "mini1.local"), ("192.168.51.0/24", "mini3.local")],
        "ipad": [("192.168.50.0/24", "mini1.local"), ("192.168.51.0/24", "mini3.local")],
    }


def test_home_forwards_where_a_pi_is_plugged_in_and_nowhere_else() -> None:
    assert [host.node for host in wanted_network(home(), CHAIN).hosts if host.forwards] == ["mini1", "mini3"]


def test_home_addresses() -> None:
    wanted = wanted_network(home(), CHAIN)
    assert {host.node: [a.address for a in host.addresses] for host in wanted.hosts if host.addresses} == {
        "mini1": ["10.10.0.1/24", "192.168.50.1/24"],
        "mini2": ["10.10.0.2/24"],
        "mini3": ["10.10.0.3/24", "192.168.51.2/24"],
        "pi5": ["192.168.50.2/24"],
        "pi4": ["192.168.51.4/24"],
    }
    assert {a.mtu for host in wanted.hosts for a in host.addresses} == {1500}


def test_what_the_guide_says_is_not_enough() -> None:
    """ "Pis route to Thunderbolt network via their connected Mac", and nothing else: the answers have no way back."""
    spec = home()
    full = wanted_network(spec, CHAIN)
    documented = {
        "pi5": (WantedRoute(destination="10.10.0.0/24", network="ethernet_pi5", gateway="mini1", via="192.168.50.1"),),
        "pi4": (WantedRoute(destination="10.10.0.0/24", network="ethernet_pi4", gateway="mini3", via="192.168.51.2"),),
    }
    hosts = tuple(host.model_copy(update={"routes": documented.get(host.node, ())}) for host in full.hosts)
    missed = lost(spec, full.model_copy(update={"hosts": hosts}))
    assert {pair: why for pair, why in missed.items() if set(pair) <= {"mini1", "mini2", "mini3", "pi5", "pi4"}} == {
        ("mini1", "pi4"): "mini1 has no route to 192.168.51.4",
        ("mini2", "pi5"): "mini2 has no route to 192.168.50.2",
        ("mini2", "pi4"): "mini2 has no route to 192.168.51.4",
        ("mini3", "pi5"): "mini3 has no route to 192.168.50.2",
        ("pi5", "mini2"): "answer: mini2 has no route to 192.168.50.2",
        ("pi5", "mini3"): "answer: mini3 has no route to 192.168.50.2",
        ("pi5", "pi4"): "pi5 has no route to 192.168.51.4",
        ("pi4", "mini1"): "answer: mini1 has no route to 192.168.51.4",
        ("pi4", "mini2"): "answer: mini2 has no route to 192.168.51.4",
        ("pi4", "pi5"): "pi4 has no route to 192.168.50.2",
    }
    added = {
        (host.node, r.destination) for host in full.hosts for r in host.routes if r not in documented.get(host.node, ())
    }
    assert {a for a in added if a[0].startswith("mini")} == {
        ("mini1", "192.168.51.0/24"),
        ("mini2", "192.168.50.0/24"),
        ("mini2", "192.168.51.0/24"),
        ("mini3", "192.168.50.0/24"),
    }


@pytest.mark.parametrize("cables", [None, CHAIN, TRIANGLE], ids=["unseen", "chain", "cycle"])
@pytest.mark.parametrize("pis", [True, False])
def test_home_every_pair_reaches_each_other(cables: tuple | None, pis: bool) -> None:
    spec = home(pis=pis)
    assert lost(spec, wanted_network(spec, cables)) == {}


def test_no_route_is_more_than_needed() -> None:
    """Without any one of them some pair is cut off."""
    spec = home()
    full = wanted_network(spec, CHAIN)
    for index, host in enumerate(full.hosts):
        for route in host.routes if host.managed else ():
            less = host.model_copy(update={"routes": tuple(r for r in host.routes if r != route)})
            hosts = (*full.hosts[:index], less, *full.hosts[index + 1 :])
            assert lost(spec, full.model_copy(update={"hosts": hosts})), (host.node, route)


def test_pis_apart() -> None:
    spec = home(pis=False)
    found = routes(wanted_network(spec, CHAIN))
    assert found["pi5"] == [("10.10.0.0/24", "192.168.50.1"), ("172.20.10.0/24", "192.168.50.1")]
    with pytest.raises(NoRouteError, match="pi5 and pi4 may not reach each other") as refused:
        Topology(spec).route("pi5", "pi4")
    assert refused.value.fix == "write `network: {pis_reach_each_other: true}`"


def test_a_tablet_is_left_alone_and_said_so() -> None:
    wanted = wanted_network(home(), CHAIN)
    assert not wanted.host("ipad").managed
    assert wanted.notes == (
        "ipad: nobody can set routes on it, so it and ethernet_pi4, ethernet_pi5 do not reach each other",
    )


def test_a_cycle_is_routed() -> None:
    """A /30 per cable out of the next free /24; each Mac keeps its address; Pis reach the cables too."""
    wanted = wanted_network(home(), TRIANGLE)
    assert (
        wanted.notes[0] == "network thunderbolt: is cabled as a cycle, so it is routed; its cables lie in 10.10.1.0/24"
    )
    mini1, mini2 = wanted.host("mini1"), wanted.host("mini2")
    assert (mini1.fabric, mini1.kept_address, mini1.forwards, mini1.bridge_ports) == (
        "routed", "10.10.0.1", True, ("en2", "en3"),
    )  # fmt: skip
    assert [(a.device, a.address, a.peer) for a in mini1.addresses if a.network == "thunderbolt"] == [
        ("en2", "10.10.1.1/30", "mini2"),
        ("en3", "10.10.1.5/30", "mini3"),
    ]
    assert [(r.destination, r.via, r.device) for r in mini2.routes] == [
        ("10.10.0.1/32", "10.10.1.1", "en2"),
        ("10.10.0.3/32", "10.10.1.10", "en3"),
        ("10.10.1.4/30", "10.10.1.1", "en2"),
        ("192.168.50.0/24", "10.10.1.1", "en2"),
        ("192.168.51.0/24", "10.10.1.10", "en3"),
    ]
    assert [r.destination for r in wanted.host("pi5").routes] == [
        "10.10.0.0/24", "10.10.1.0/24", "172.20.10.0/24", "192.168.51.0/24",
    ]  # fmt: skip


def test_a_chain_stays_on_the_bridge() -> None:
    mini2 = wanted_network(home(), CHAIN).host("mini2")
    assert (mini2.fabric, mini2.kept_address, mini2.bridge_ports) == ("bridged", None, ("en2", "en3"))


def test_cables_are_numbered_away_from_what_is_taken() -> None:
    taken = [ipaddress.IPv4Network("10.10.0.0/23"), ipaddress.IPv4Network("10.10.2.128/25")]
    wanted = wanted_network(home(), TRIANGLE, taken)
    assert "its cables lie in 10.10.3.0/24" in wanted.notes[0]


def test_two_cables_between_the_same_macs_are_a_cycle() -> None:
    twice = (cable("mini1:en2", "mini2:en2"), cable("mini1:en3", "mini2:en3"), cable("mini2:en4", "mini3:en2"))
    spec = home()
    wanted = wanted_network(spec, twice)
    assert wanted.host("mini1").fabric == "routed"
    assert lost(spec, wanted) == {}


def test_a_ring_of_four_passes_through_its_members() -> None:
    ring = tuple(cable(f"m{i}:en2", f"m{(i + 1) % 4}:en3") for i in range(4))
    spec = cluster(
        machines(m0="macos", m1="macos", m2="macos", m3="macos", pi5="linux"),
        wire(
            "tb",
            "10.10.0.0/24",
            {f"m{i}": f"10.10.0.{i + 1}" for i in range(4)},
            medium="thunderbolt",
            speed_mbps=20000,
        ),
        wire("edge", "192.168.50.0/24", {"m0": "192.168.50.1", "pi5": "192.168.50.2"}, gateways={"tb": "m0"}),
    )
    wanted = wanted_network(spec, ring)
    assert lost(spec, wanted) == {}
    out, back = Packets(spec, wanted).there_and_back("m2", "pi5")
    assert (len(out.hops), back.hops) == (4, out.hops[::-1])


def test_a_routers_lan_is_not_set() -> None:
    spec = cluster(
        machines(mini1="macos", pi5="linux"),
        wire("lan", "192.168.1.0/24", {"mini1": "192.168.1.10", "pi5": "192.168.1.11"}, private=False),
    )
    assert all(host.addresses == () for host in wanted_network(spec).hosts)


def test_a_wire_without_a_subnet_gets_no_route_and_a_note() -> None:
    spec = cluster(
        machines(mini1="macos", pi5="linux", win="windows"),
        wire("edge", "192.168.50.0/24", {"mini1": "192.168.50.1", "pi5": "192.168.50.2"}, gateways={"lan": "mini1"}),
        wire("lan", None, {"mini1": "mini1.local", "win": "win.local"}, private=False, medium="wifi"),
    )
    wanted = wanted_network(spec)
    assert routes(wanted) == {"mini1": [], "pi5": [], "win": [("192.168.50.0/24", "mini1.local")]}
    assert wanted.notes == ("network lan: has no subnet, so pi5 cannot be given a route to it; add `subnet:`",)
    # A run would dial both ways all the same.
    assert [str(one) for one in lost_pairs(spec, wanted)] == [
        "pi5 -> win: not measured, pi5 has no route to win.local",
        "win -> pi5: not measured, pi5 has no route to win.local",
    ]
    pairs = {(one.src, one.dst) for one in expected_pairs(spec, wanted)}
    assert pairs == {("mini1", "pi5"), ("pi5", "mini1"), ("mini1", "win"), ("win", "mini1")}


@st.composite
def random_clusters(draw: st.DrawFn) -> ClusterSpec:
    """Up to six wires, each joined to an earlier one by a gateway, and some more gateways across."""
    count = draw(st.integers(1, 6))
    kinds: dict[str, str] = {}
    members: list[dict[str, str]] = []
    gateways: list[dict[str, str]] = []
    for index in range(count):
        names = [f"h{index}{letter}" for letter in "abc"[: draw(st.integers(1, 3))]]
        kinds |= dict.fromkeys(names, "linux")
        members.append({})
        gateways.append({})
        if index:
            for other in draw(st.sets(st.integers(0, index - 1), min_size=1, max_size=2)):
                gate = draw(st.sampled_from(sorted(members[other])))
                names.append(gate)
                gateways[index][f"w{other}"] = gate
        for number, name in enumerate(dict.fromkeys(names), 1):
            members[index][name] = f"10.{index}.0.{number}"
    speeds = [draw(st.sampled_from([100, 1000, 20000])) for _ in range(count)]
    return cluster(
        machines(**kinds),
        *(
            wire(f"w{i}", f"10.{i}.0.0/24", members[i], gateways=gateways[i], speed_mbps=speeds[i])
            for i in range(count)
        ),
    )


@settings(max_examples=150, deadline=None)
@given(random_clusters())
def test_any_cluster_every_pair_there_and_back(spec: ClusterSpec) -> None:
    wanted = wanted_network(spec)
    assert lost(spec, wanted) == {}
    assert wanted_network(spec).to_json() == wanted.to_json()


@settings(max_examples=100, deadline=None)
@given(random_clusters())
def test_ways_are_as_short_as_the_topology_says(spec: ClusterSpec) -> None:
    packets, topology = Packets(spec, wanted_network(spec)), Topology(spec)
    for src, dst in permutations([node.name for node in spec.nodes], 2):
        try:
            route = topology.route(src, dst)
        except NoRouteError:  # Topology passes no gateway twice
            continue
        assert len(packets.there(src, dst).hops) <= len(route.gateways) + 2
