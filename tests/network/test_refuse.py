"""Networks that cannot be: each is refused with file, line, key and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.errors import ConfigError
from smolcluster.network.diff import plan_network
from smolcluster.network.parse.thunderbolt import cables_between
from smolcluster.network.refuse import refuse
from smolcluster.spec.document import read_document
from smolcluster.spec.inventory import load_inventory

from .clusters import CHAIN, HOME_FILE, TRIANGLE
from .homes import bare, situation
from .machines import Machine


def refused(machines: dict[str, Machine], file: Path = HOME_FILE) -> list[str]:
    found = {node: machine.found() for node, machine in machines.items()}
    cables = cables_between(list(found.values())) if found else None
    problems = refuse(load_inventory(file), read_document(file, "home.smol.yml"), found, cables)
    return [str(problem).replace("\n    fix: ", " | ") for problem in problems]


def line(*key: str) -> str:
    return f"home.smol.yml:{read_document(HOME_FILE).line(key)}: {'.'.join(key)}"


def test_home_is_possible() -> None:
    assert refused(bare(CHAIN)) == []
    assert refused({}) == []


def test_the_routers_own_network() -> None:
    machines = bare(CHAIN)
    machines["pi5"].leases = {"wlan0": "192.168.50.77/24"}
    machines["pi5"].router = "192.168.50.254"
    assert refused(machines) == [
        line("networks", "ethernet_pi5", "subnet")
        + ": 192.168.50.0/24 collides with the router's own network, 192.168.50.0/24 (seen on pi5's wlan0)"
        " | give the cable another subnet, 192.168.52.0/24 is free"
    ]


def test_a_mac_that_shares_its_internet_is_no_home_router() -> None:
    machines = bare(CHAIN)
    machines["pi5"].leases = {"eth0": "192.168.50.2/24"}
    machines["pi5"].router = "192.168.50.1"
    assert refused(machines) == []


def test_an_address_that_a_router_gave_to_somebody_else() -> None:
    machines = bare(CHAIN)
    machines["pi4"].leases = {"wlan0": "10.10.0.2/8"}
    machines["pi4"].router = None
    assert refused(machines) == [
        line("networks", "thunderbolt", "members", "mini2") + ": 10.10.0.2 is in use: pi4's wlan0 has it from a router"
        " | give mini2 another address, or the cable another subnet"
    ]


def test_a_mac_that_is_not_cabled() -> None:
    assert refused(bare(CHAIN[:1])) == [
        line("networks", "thunderbolt", "members", "mini3") + ": no Thunderbolt cable joins mini3 to mini1, mini2"
        " | plug one in (a Thunderbolt cable, not one for charging), or take it off this wire"
    ]


@pytest.mark.parametrize(
    ("gateway", "why"),
    [("win", "a Windows machine is not made a router here"), ("ipad", "nobody can log into it")],
)
def test_gateways_that_cannot_forward(tmp_path: Path, gateway: str, why: str) -> None:
    file = tmp_path / "home.smol.yml"
    text = HOME_FILE.read_text(encoding="utf-8").replace(
        "gateways: {thunderbolt: mini1, wifi: mini1}", f"gateways: {{wifi: {gateway}}}"
    )
    file.write_text(text.replace("      pi5: 192.168.50.2", f"      pi5: 192.168.50.2\n      {gateway}: 192.168.50.3"))
    (problem,) = refused({}, file)
    assert f"networks.ethernet_pi5.gateways.wifi: {gateway} cannot forward: {why}" in problem


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "192.168.51.0/24",
            "192.168.50.0/23",
            "overlaps ethernet_pi5's 192.168.50.0/24: no machine could tell them apart",
        ),
        ("mini2: 10.10.0.2", "mini2: 10.10.0.1", "10.10.0.1 is the own address of mini1 in thunderbolt already"),
        ("{thunderbolt: mini1, wifi: mini1}", "{thunderbolt: mini2}", "mini2 is not on both wires"),
    ],
)
def test_what_the_inventory_alone_shows(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    file = tmp_path / "home.smol.yml"
    file.write_text(HOME_FILE.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=complaint):
        load_inventory(file)


def test_a_cycle_of_which_a_mac_is_silent() -> None:
    """Without it the rest looks like a chain, and bridged it would storm."""
    machines = bare(TRIANGLE)
    for plan in plan_network(situation(machines)):
        machines[plan.node].apply(plan.steps)
    assert refused(machines) == []
    del machines["mini2"]
    assert refused(machines) == [
        f"{line('networks', 'thunderbolt', 'members', 'mini2')}: is a cycle of cables on mini1, mini3, and nobody"
        " knows whether it still is one: mini2 was not asked"
        " | switch it on, or ask all Macs of this wire (-e nodes=)"
    ]
