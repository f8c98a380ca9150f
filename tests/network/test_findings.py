"""Networks broken in one place: the place is named, and every symptom is put down to it."""

from __future__ import annotations

import io
import json
from xml.etree import ElementTree

import pytest
from rich.console import Console

from smolcluster.network.diff import plan_network
from smolcluster.network.expected import Measured, Ping, Speed, expected_pairs
from smolcluster.network.findings import Finding, Verified, diagnose
from smolcluster.network.picture import draw
from smolcluster.network.report import pairs_table, told, verification_files

from .clusters import CHAIN, home
from .homes import bare, situation
from .machines import Mac, Machine, Pi


@pytest.fixture
def machines() -> dict[str, Machine]:
    """The home cluster, set up; each machine's interfaces have hardware addresses of their own."""
    found = bare(CHAIN)
    for plan in plan_network(situation(found)):
        found[plan.node].apply(plan.steps)
    return found


def verified(
    machines: dict[str, Machine], broken: tuple[str, ...] = (), speeds: tuple[Speed, ...] = (), **neighbours: dict
) -> Verified:
    """What would be measured if the pairs named `a -> b` were broken, both ways, and all others well."""
    now = situation(machines)
    dead = {tuple(pair.split(" -> ")) for pair in broken}
    dead |= {(dst, src) for src, dst in dead}
    pings = [
        Ping(src=p.src, dst=p.dst)
        if (p.src, p.dst) in dead
        else Ping(src=p.src, dst=p.dst, rtt_ms=0.5, hops=p.passes, mtu=p.mtu)
        for p in expected_pairs(now.cluster, now.wanted, dict(now.found))
    ]
    found = dict(now.found)
    for number, (node, host) in enumerate(found.items()):
        interfaces = tuple(
            i.model_copy(update={"mac": f"02:00:00:00:{number:02x}:{i.device[-1]}"}) for i in host.interfaces
        )
        found[node] = host.model_copy(update={"interfaces": interfaces})
    return Verified(now.cluster, now.wanted, found, Measured(pings=tuple(pings), speeds=speeds, neighbours=neighbours))


def only(state: Verified) -> Finding:
    (finding,) = diagnose(state)
    return finding


def test_nothing_is_wrong(machines: dict[str, Machine]) -> None:
    assert diagnose(verified(machines)) == ()


def test_the_pairs_and_whom_they_pass(machines: dict[str, Machine]) -> None:
    pairs = {(p.src, p.dst): p for p in verified(machines).pairs}
    assert len(pairs) == 7 * 6
    there = pairs["pi5", "pi4"]
    assert (there.source, there.destination, there.passes) == ("192.168.50.2", "192.168.51.4", ("mini1", "mini3"))
    assert (pairs["mini1", "mini2"].networks, pairs["win", "macbook"].destination) == (
        ("thunderbolt",),
        "macbook.local",
    )


def test_a_cable_pulled(machines: dict[str, Machine]) -> None:
    machines["pi5"].devices["eth0"]["up"] = False
    machines["mini1"].devices["en0"]["up"] = False
    broken = tuple(f"pi5 -> {other}" for other in machines if other != "pi5")
    found = [f for f in diagnose(verified(machines, broken)) if f.pairs and f.cause != "missing route"]
    assert [(f.cause, f.node) for f in found] == [("cable pulled", "mini1"), ("cable pulled", "pi5")]
    assert found[1].what == "eth0 of pi5 has no carrier: the cable of ethernet_pi5 is out"
    assert len(found[1].pairs) == 12


def test_what_only_is_slow_or_off_is_told_and_fails_nothing(machines: dict[str, Machine]) -> None:
    machines["mini1"].devices["en0"]["up"] = False
    # pi5 is off: nobody asked it.
    state = verified({name: machine for name, machine in machines.items() if name != "pi5"})
    finding = only(state)
    assert (finding.cause, finding.node, finding.pairs, finding.fails) == ("cable pulled", "mini1", (), False)
    assert told(finding).startswith("note: cable pulled: en0 of mini1 has no carrier")
    machines["mini1"].devices["en0"]["up"] = True
    finding = only(verified(machines, speeds=(Speed(src="mini1", dst="pi5", mbps=94.1),)))
    assert (finding.cause, finding.fails) == ("slow", False)
    assert told(finding).endswith("    seen on: mini1 -> pi5")
    assert json.loads(verification_files(state, (finding,))["report.json"])["status"] == "completed"


def test_a_wrong_address_on_a_peer(machines: dict[str, Machine]) -> None:
    mini3 = machines["mini3"]
    assert isinstance(mini3, Mac)
    mini3.service("Thunderbolt Bridge")["ipv4"] = ["manual", "10.10.0.33", "255.255.255.0"]
    finding = only(verified(machines, ("mini1 -> mini3", "mini2 -> mini3")))
    assert (finding.cause, finding.node) == ("wrong address", "mini3")
    assert finding.what == "bridge0 of mini3 should have 10.10.0.3/24 and has 10.10.0.33/24"
    assert finding.pairs == ("mini1 -> mini3", "mini2 -> mini3", "mini3 -> mini1", "mini3 -> mini2")


def test_a_duplicate_address(machines: dict[str, Machine]) -> None:
    state = verified(machines, ("mini1 -> mini2",), mini1={"10.10.0.2": "02:00:00:00:02:0"}, mini3={})
    finding = only(state)
    assert (finding.cause, finding.node, len(finding.pairs)) == ("duplicate address", "mini2", 2)
    assert finding.what == (
        "10.10.0.2 is mini2's (02:00:00:00:01:0), but for mini1 mini3 (02:00:00:00:02:0) answers there"
    )
    stranger = only(verified(machines, mini3={"10.10.0.2": "aa:aa:aa:aa:aa:aa"}))
    assert "a machine that is not in the inventory (aa:aa:aa:aa:aa:aa) answers there" in stranger.what


def test_an_address_that_two_have(machines: dict[str, Machine]) -> None:
    state = verified(machines)
    mini3 = state.found["mini3"]
    twice = tuple(
        one.model_copy(update={"addresses": (*one.addresses, "10.10.0.2/24")}) if one.device == "bridge0" else one
        for one in mini3.interfaces
    )
    found = {**state.found, "mini3": mini3.model_copy(update={"interfaces": twice})}
    finding = only(Verified(state.cluster, state.wanted, found, state.measured))
    assert (finding.cause, finding.node, finding.fails) == ("duplicate address", "mini2", True)
    assert finding.what == "10.10.0.2 is mini2's, and bridge0 of mini3 has it too"


def test_the_routers_own_network(machines: dict[str, Machine]) -> None:
    machines["pi4"].leases = {"wlan0": "10.10.0.77/24"}
    machines["pi4"].router = "10.10.0.254"
    finding = only(verified(machines, ("pi4 -> mini1",)))
    assert (finding.cause, finding.node, len(finding.pairs)) == ("router collision", "pi4", 2)
    assert (
        finding.what == "thunderbolt's 10.10.0.0/24 collides with the router's own 10.10.0.0/24 (seen on pi4's wlan0)"
    )


def test_a_missing_return_route(machines: dict[str, Machine]) -> None:
    mini2 = machines["mini2"]
    assert isinstance(mini2, Mac)
    mini2.service("Thunderbolt Bridge")["routes"].pop(0)
    finding = only(verified(machines, ("pi5 -> mini2",)))
    assert (finding.cause, finding.node) == ("missing return route", "mini2")
    assert finding.what == "mini2 has no route to 192.168.50.0/24 via 10.10.0.1"
    assert finding.pairs == ("mini2 -> pi5", "pi5 -> mini2")


def test_a_missing_route_of_a_pi(machines: dict[str, Machine]) -> None:
    pi5 = machines["pi5"]
    assert isinstance(pi5, Pi)
    pi5.devices["eth0"]["in_force"]["ipv4.routes"] = "172.20.10.0/24 192.168.50.1, 192.168.51.0/24 192.168.50.9"
    found = diagnose(verified(machines, ("pi5 -> mini2", "pi5 -> mini3", "pi5 -> pi4")))
    assert [(f.cause, f.node, f.what) for f in found] == [
        ("missing route", "pi5", "pi5 has no route to 10.10.0.0/24 via 192.168.50.1"),
        ("missing route", "pi5", "pi5 has no route to 192.168.51.0/24 via 192.168.50.1 (it has one via 192.168.50.9)"),
    ]
    assert found[1].pairs == ("pi5 -> pi4", "pi4 -> pi5")


def test_forwarding_off(machines: dict[str, Machine]) -> None:
    machines["mini3"].forwarding = False
    finding = only(verified(machines, ("pi4 -> mini1", "pi4 -> pi5")))
    assert (finding.cause, finding.node, len(finding.pairs)) == ("forwarding off", "mini3", 4)


def test_another_way_packets_that_do_not_pass_and_slow_wires(machines: dict[str, Machine]) -> None:
    state = verified(
        machines, speeds=(Speed(src="mini1", dst="pi5", mbps=94.1), Speed(src="mini1", dst="mini2", mbps=9000))
    )
    pings = [
        p.model_copy(update={"hops": ("172.20.10.5",)}) if (p.src, p.dst) == ("mini2", "mini3")
        else p.model_copy(update={"mtu": 1400}) if (p.src, p.dst) == ("pi5", "pi4") else p
        for p in state.measured.pings
    ]  # fmt: skip
    measured = state.measured.model_copy(update={"pings": tuple(pings)})
    found = diagnose(Verified(state.cluster, state.wanted, state.found, measured))
    assert [(f.cause, f.what) for f in found] == [
        ("slow", "mini1 -> pi5: 94 Mbit/s over ethernet_pi5, said to do 1,000"),
        ("other way", "mini2 -> mini3 goes over 172.20.10.5, and is meant to go over nobody"),
        ("packets too large", "pi5 -> pi4: packets above 1400 bytes do not pass, and 1500 should"),
    ]


def test_what_nothing_explains_is_said_so(machines: dict[str, Machine]) -> None:
    found = diagnose(verified(machines, ("mini1 -> mini2",)))
    assert [(f.cause, f.node) for f in found] == [("unexplained", "mini1"), ("unexplained", "mini2")]
    assert "a firewall on mini2" in found[0].fix


def test_files_and_tables(machines: dict[str, Machine]) -> None:
    machines["mini3"].forwarding = False
    state = verified(machines, ("pi4 -> mini1",), (Speed(src="mini1", dst="mini2", rtt_ms=0.2, mbps=16000),))
    findings = diagnose(state)
    files = verification_files(state, findings)
    assert files == verification_files(state, findings)
    assert list(files) == ["report.json", "wanted.json", "topology.svg"]
    report = json.loads(files["report.json"])
    assert (report["status"], report["findings"][0]["cause"], len(report["pairs"])) == ("failed", "forwarding off", 42)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(pairs_table(state))
    text = " ".join(console.export_text().split())
    assert "mini1 mini2 10.10.0.2 thunderbolt 0.50 ms 16,000 Mbit/s 1500" in text
    assert told(findings[0]) == (
        "forwarding off: mini3 does not forward, and others reach each other through it\n"
        "    fix: run network.yml again\n"
        "    broken by it: mini1 -> pi4, pi4 -> mini1"
    )


def test_the_picture_names_machines_wires_and_what_is_wrong() -> None:
    bad = Finding(cause="cable pulled", node="pi5", what="eth0 <out> & away", fix="plug it in")
    root = ElementTree.fromstring(draw(home(), [bad], {"thunderbolt": 16000.0}))
    texts = ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")]
    assert {"mini1", "ipad", "thunderbolt", "10.10.0.3", "cable pulled: eth0 <out> & away"} <= set(texts)
    assert "10.10.0.0/24, 16,000 Mbit/s measured" in texts
    assert "as it should be" in draw(home())
