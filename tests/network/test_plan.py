"""Plans carried out on machines that behave as their tools do: what is wanted is reached, nothing is left to do, and
taking it back gives the same machine to the byte."""

from __future__ import annotations

import pytest

from smolcluster.network.actions import actions_of, commands_of
from smolcluster.network.diff import Situation, plan_host, plan_network
from smolcluster.network.steps import HostPlan, describe
from smolcluster.spec.cluster import ClusterSpec

from .clusters import CHAIN, TRIANGLE, home, wire
from .homes import bare, problems, situation
from .machines import Mac, Machine, Pi, blank


def carry_out(machines: dict[str, Machine], spec: ClusterSpec | None = None) -> list[HostPlan]:
    plans = list(plan_network(situation(machines, spec)))
    assert not [problem for plan in plans for problem in problems(plan)]
    for plan in plans:
        machines[plan.node].apply(plan.steps)
    return plans


def commands(plan: HostPlan) -> list[str]:
    return [
        " ".join(action.argv) or f"{'write' if action.text else 'remove'} {action.path}"
        for step in plan.steps
        for action in actions_of(step)
    ]


# Last, so that it is the first that is taken back: what launchd runs at boot does not come after that.
BOOT_JOB = (
    "write /Library/LaunchDaemons/org.smolcluster.network.plist",
    "launchctl bootout system/org.smolcluster.network",
    "launchctl bootstrap system /Library/LaunchDaemons/org.smolcluster.network.plist",
)


@pytest.mark.parametrize("cables", [CHAIN, TRIANGLE], ids=["chain", "cycle"])
@pytest.mark.parametrize("pis", [True, False])
def test_home_from_bare_machines_and_back(cables: tuple, pis: bool) -> None:
    machines = bare(cables)
    before = {node: machine.snapshot() for node, machine in machines.items()}
    plans = carry_out(machines, home(pis=pis))
    assert all(plan.steps for plan in plans)
    again = plan_network(situation(machines, home(pis=pis)))
    assert [(plan.node, plan.steps, problems(plan)) for plan in again] == [(plan.node, (), []) for plan in plans]
    for plan in reversed(plans):
        machines[plan.node].apply(plan.rollback())
    assert {node: machine.snapshot() for node, machine in machines.items()} == before


def test_what_every_machine_of_the_chain_is_told() -> None:
    told = {plan.node: commands(plan) for plan in plan_network(situation(bare(CHAIN)))}
    assert list(told) == ["mini1", "mini3", "macbook", "mini2", "pi5", "pi4", "win"]
    assert told["mini1"] == [
        "networksetup -setmanual Thunderbolt Bridge 10.10.0.1 255.255.255.0",
        "networksetup -setadditionalroutes Thunderbolt Bridge 192.168.51.0 255.255.255.0 10.10.0.3",
        "networksetup -setmanual Kabel 192.168.50.1 255.255.255.0",
        "sysctl -w net.inet.ip.forwarding=1",
        *BOOT_JOB,
    ]
    assert told["macbook"] == [
        "networksetup -setadditionalroutes WLAN 192.168.50.0 255.255.255.0 172.20.10.5"
        " 192.168.51.0 255.255.255.0 172.20.10.7",
    ]
    assert told["pi5"] == [
        "nmcli connection add type ethernet con-name smolcluster-eth0 ifname eth0 autoconnect yes"
        " connection.autoconnect-priority 100 ipv4.method disabled ipv6.method link-local ipv6.addr-gen-mode eui64",
        "nmcli connection modify smolcluster-eth0 ipv4.method manual ipv4.addresses 192.168.50.2/24"
        " ipv4.gateway  ipv4.never-default yes",
        "nmcli connection modify smolcluster-eth0 ipv4.routes 10.10.0.0/24 192.168.50.1,"
        " 172.20.10.0/24 192.168.50.1, 192.168.51.0/24 192.168.50.1",
        "nmcli connection up smolcluster-eth0 ifname eth0",
    ]
    assert [line.partition("-Command ")[2] for line in told["win"]] == [
        "New-NetRoute -InterfaceAlias 'Wi-Fi' -DestinationPrefix '192.168.50.0/24' -NextHop '172.20.10.5'",
        "New-NetRoute -InterfaceAlias 'Wi-Fi' -DestinationPrefix '192.168.51.0/24' -NextHop '172.20.10.7'",
    ]


def test_what_a_boot_sets_is_ended_before_it_is_taken_back() -> None:
    (plan,) = [p for p in plan_network(situation(bare(CHAIN))) if p.node == "mini1"]
    back = commands_of(plan.rollback(), range(len(plan.steps), 0, -1))
    assert [action["path"] or action["argv"] for action in back[:3]] == [
        "/Library/LaunchDaemons/org.smolcluster.network.plist",
        ("launchctl", "bootout", "system/org.smolcluster.network"),
        ("sysctl", "-w", "net.inet.ip.forwarding=0"),
    ]
    assert [action["may_fail"] for action in back[:3]] == [False, True, False]


def test_what_a_mac_on_a_cycle_is_told() -> None:
    (plan,) = [p for p in plan_network(situation(bare(TRIANGLE))) if p.node == "mini2"]
    assert commands(plan) == [
        "ifconfig bridge0 deletem en2",
        "ifconfig bridge0 deletem en3",
        # Its address of the inventory: loopback is no hardware port, so no service can have it.
        "ifconfig lo0 alias 10.10.0.2/32",
        "networksetup -createnetworkservice smolcluster-en2 en2",
        "networksetup -setmanual smolcluster-en2 10.10.1.2 255.255.255.252",
        "networksetup -setadditionalroutes smolcluster-en2 10.10.0.1 255.255.255.255 10.10.1.1"
        " 10.10.1.4 255.255.255.252 10.10.1.1 192.168.50.0 255.255.255.0 10.10.1.1",
        "networksetup -createnetworkservice smolcluster-en3 en3",
        "networksetup -setmanual smolcluster-en3 10.10.1.9 255.255.255.252",
        "networksetup -setadditionalroutes smolcluster-en3 10.10.0.3 255.255.255.255 10.10.1.10"
        " 192.168.51.0 255.255.255.0 10.10.1.10",
        "sysctl -w net.inet.ip.forwarding=1",
        *BOOT_JOB,
    ]


@pytest.mark.parametrize(("first", "then"), [(CHAIN, TRIANGLE), (TRIANGLE, CHAIN)], ids=["closed", "opened"])
def test_a_cable_more_or_less(first: tuple, then: tuple) -> None:
    """The chain becomes a cycle or the other way; what the first left behind is taken away, and can be brought back."""
    machines = bare(first)
    carry_out(machines)
    for node, recabled in bare(then).items():
        if isinstance(recabled, Mac):
            machine = machines[node]
            assert isinstance(machine, Mac)
            machine.profiler = recabled.profiler
            for port in ("en2", "en3", "en4"):
                machine.devices[port]["up"] = recabled.devices[port]["up"]
    before = {node: machine.snapshot() for node, machine in machines.items()}
    plans = carry_out(machines)
    assert not [step for plan in plan_network(situation(machines)) for step in plan.steps]
    fresh = bare(then)
    carry_out(fresh)
    for node in ("mini1", "mini2", "mini3"):
        new = fresh[node]
        assert isinstance(new, Mac)
        if then is TRIANGLE:  # our address was on the bridge, and nothing tells what was there before it
            new.service("Thunderbolt Bridge")["ipv4"] = ["v4off"]
        assert machines[node].snapshot() == new.snapshot()
    for plan in reversed(plans):
        machines[plan.node].apply(plan.rollback())
    assert {node: machine.snapshot() for node, machine in machines.items()} == before


def test_the_owners_routes_stay_and_old_ones_of_ours_go() -> None:
    machines = bare(CHAIN)
    mini2 = machines["mini2"]
    assert isinstance(mini2, Mac)
    mini2.service("Thunderbolt Bridge")["routes"] = [
        ["10.99.0.0", "255.255.0.0", "10.10.0.9"],
        ["192.168.50.0", "255.255.255.0", "10.10.0.3"],
    ]
    mini2.service("WLAN")["routes"] = [["192.168.51.0", "255.255.255.0", "172.20.10.7"]]
    carry_out(machines)
    assert mini2.service("Thunderbolt Bridge")["routes"] == [
        ["10.99.0.0", "255.255.0.0", "10.10.0.9"],
        ["192.168.50.0", "255.255.255.0", "10.10.0.1"],
        ["192.168.51.0", "255.255.255.0", "10.10.0.3"],
    ]
    assert mini2.service("WLAN")["routes"] == []


def test_what_is_kept_but_not_in_force_is_set_again() -> None:
    machines = bare(CHAIN)
    carry_out(machines)
    pi5 = machines["pi5"]
    assert isinstance(pi5, Pi)
    pi5.devices["eth0"]["in_force"] = blank("someone cleared it", "disabled")
    plan = plan_host("pi5", situation(machines))
    assert [(step.kind, step.before == step.after) for step in plan.steps] == [("ipv4", True), ("routes", True)]
    pi5.apply(plan.steps)
    assert plan_host("pi5", situation(machines)).steps == ()


def test_an_unplugged_cable_is_no_reason_to_set_anything_again() -> None:
    machines = bare(CHAIN)
    carry_out(machines)
    machines["pi5"].devices["eth0"]["up"] = False
    assert plan_host("pi5", situation(machines)).steps == ()
    # After a moment NetworkManager takes the connection out of force.
    machines["pi5"].devices["eth0"] |= {"active": None, "in_force": None}
    assert plan_host("pi5", situation(machines)).steps == ()


def test_a_cable_that_is_out_is_set_without_being_waited_for() -> None:
    machines = bare(CHAIN)
    machines["pi5"].devices["eth0"]["up"] = False
    steps = plan_host("pi5", situation(machines)).steps
    assert [step.kind for step in steps] == ["profile", "ipv4", "routes"]


def test_forwarding_that_somebody_else_turned_on_stays() -> None:
    machines = bare(CHAIN)
    machines["mini2"].forwarding = True
    carry_out(machines)
    assert machines["mini2"].forwarding
    assert machines["mini2"].files == {}


def test_what_carries_the_login_is_not_touched() -> None:
    machines = bare(CHAIN)
    machines["mini1"].leases["en0"] = "192.168.77.5/24"
    machines["mini1"].ssh = "192.168.77.1 50000 192.168.77.5 22"
    found = situation(machines)
    document = found.document
    line = document.line(("networks", "ethernet_pi5", "members", "mini1"))
    plan = plan_host("mini1", found)
    assert plan.steps == ()
    (problem,) = problems(plan)
    assert problem.startswith(
        f"home.smol.yml:{line}: networks.ethernet_pi5.members.mini1: mini1 has no ethernet interface"
    )
    plan = plan_host("mini1", situation(machines, naming("ethernet_pi5", mini1="en0")))
    assert plan.steps == ()
    assert problems(plan) == [
        f"home.smol.yml:{line}: networks.ethernet_pi5.members.mini1: en0 of mini1 carries the login and is not touched"
        " (it would change: ipv4) | log in over another wire (the machine's `host:`), or set it by hand once"
    ]


@pytest.mark.parametrize(
    ("mac", "address", "stays"),
    [
        ("02:53:4d:4c:04:00", "fe80::53:4dff:fe4c:400%eth0", True),
        # Of a connection's own secret: it is another one in a connection of ours.
        ("02:53:4d:4c:04:00", "fe80::1234:5678:9abc:def0%eth0", False),
        ("02:53:4d:4c:04:00", "192.168.50.77", False),
    ],
)
def test_a_pis_only_wire_is_set_over_the_address_that_it_gives_itself(mac: str, address: str, stays: bool) -> None:
    found = dict(situation(bare(CHAIN)).found)
    pi, *_ = (host for host in found.values() if host.node == "pi5")
    ethernet = next(one for one in pi.interfaces if one.device == "eth0")
    more = ("192.168.50.77/24",) if ":" not in address else ()
    wired = ethernet.model_copy(update={"mac": mac, "addresses": more, "up": True})
    update = {"interfaces": (wired,), "routes": (), "ssh_address": address, "ssh_client": "fe80::1%eth0"}
    found["pi5"] = pi.model_copy(update=update)
    now = situation(bare(CHAIN))
    plan = plan_host("pi5", Situation(now.cluster, now.document, now.wanted, found))
    assert found["pi5"].login_stays is stays
    assert bool(plan.problems) is not stays
    assert bool(plan.steps) is stays


def test_the_login_may_stay_where_its_address_stays() -> None:
    """A Pi set up by hand and logged into over its cable: it keeps its address and gets its routes."""
    machines = bare(CHAIN)
    pi5 = machines["pi5"]
    assert isinstance(pi5, Pi)
    by_hand = blank("mine", "manual") | {"ipv4.addresses": "192.168.50.2/24", "ipv4.gateway": "192.168.50.1"}
    pi5.connections["hand"] = by_hand
    pi5._activate("eth0", "hand")
    del pi5.leases["wlan0"]
    pi5.ssh = "172.20.10.4 50000 192.168.50.2 22"
    before = pi5.snapshot()
    plan = plan_host("pi5", situation(machines))
    assert problems(plan) == []
    pi5.apply(plan.steps)
    # Its way to the Internet through the Mac is kept, with the owner's connection untouched.
    assert pi5.devices["eth0"]["in_force"]["ipv4.gateway"] == "192.168.50.1"
    assert pi5.connections["hand"] == by_hand
    assert plan_host("pi5", situation(machines)).steps == ()
    pi5.apply(plan.rollback())
    assert pi5.snapshot() == before


def test_a_route_may_not_take_the_login_along() -> None:
    machines = bare(CHAIN)
    pi5 = machines["pi5"]
    pi5.ssh = "172.20.10.4 50000 192.168.1.15 22"  # from the hotspot, through the home router
    (problem,) = problems(plan_host("pi5", situation(machines)))
    assert "the route to 172.20.10.0/24 via 192.168.50.1 would take the login from 172.20.10.4 along" in problem


def test_an_unknown_login_address_stops_the_plan() -> None:
    machines = bare(CHAIN)
    machines["mini2"].ssh = "172.20.10.4 50000 172.20.10.99 22"
    (problem,) = problems(plan_host("mini2", situation(machines)))
    assert "nothing tells which interface 172.20.10.99" in problem


def test_an_interface_that_carries_the_default_route_is_left_alone() -> None:
    machines = bare(CHAIN)
    mini3 = machines["mini3"]
    assert isinstance(mini3, Mac)
    mini3.services[0] |= {"ipv4": ["manual", "192.168.7.2", "255.255.255.0", "192.168.7.1"]}
    assert mini3.services[0]["device"] == "en0"
    plan = plan_host("mini3", situation(machines))
    (problem,) = problems(plan)
    assert "mini3 has no ethernet interface that is free" in problem
    assert "en0 carries its default route or the login to it" in problem
    assert plan.steps == ()


def test_a_default_route_is_left_alone_even_where_the_inventory_names_its_interface() -> None:
    machines = bare(CHAIN)
    mini3 = machines["mini3"]
    assert isinstance(mini3, Mac)
    mini3.services[0] |= {"ipv4": ["manual", "192.168.7.2", "255.255.255.0", "192.168.7.1"]}
    plan = plan_host("mini3", situation(machines, naming("ethernet_pi4", mini3="en0")))
    (problem,) = problems(plan)
    assert "networks.ethernet_pi4.members.mini3: en0 of mini3 carries its default route" in problem
    assert plan.steps == ()


def test_an_interface_that_one_wire_names_is_not_free_for_another() -> None:
    """A Mac with an Ethernet adapter besides, and a Pi at each."""
    two = wire("second", "192.168.60.0/24", {"mini1": "192.168.60.1"}, interfaces={"mini1": "en7"})
    spec = home()
    machines = bare(CHAIN)
    mini1 = machines["mini1"]
    assert isinstance(mini1, Mac)
    mini1.devices["en7"] = {"port": "USB 10/100/1000 LAN", "up": True, "mtu": 1500}
    found = situation(machines, spec.model_copy(update={"networks": (*spec.networks, two)}))
    plan = plan_host("mini1", found)
    assert plan.problems == ()
    placed = {step.device: step.after.address for step in plan.steps if step.kind == "ipv4"}
    assert (placed["en0"], placed["en7"]) == ("192.168.50.1/24", "192.168.60.1/24")


def naming(network: str, **interfaces: str) -> ClusterSpec:
    """The home cluster whose inventory names interfaces of a wire."""
    spec = home()
    networks = tuple(
        one.model_copy(update={"interfaces": interfaces}) if one.name == network else one for one in spec.networks
    )
    return spec.model_copy(update={"networks": networks})


def test_a_linux_machine_without_networkmanager_is_told_so() -> None:
    machines = bare(CHAIN)
    pi5 = machines["pi5"]
    assert isinstance(pi5, Pi)
    pi5.manager = False
    plan = plan_host("pi5", situation(machines))
    (problem,) = problems(plan)
    assert "machines.pi5: pi5 has no NetworkManager that runs" in problem
    assert plan.steps == ()


def test_two_interfaces_that_could_be_it_are_asked_about() -> None:
    machines = bare(CHAIN)
    machines["pi5"].devices["eth1"] = {"up": True, "mtu": 1500, "active": None, "in_force": None}
    (problem,) = problems(plan_host("pi5", situation(machines)))
    assert problem.endswith(
        "networks.ethernet_pi5.members.pi5: pi5 has several interfaces for it: eth0, eth1"
        " | write `interfaces: {pi5: eth0}`, or whichever it is"
    )


def test_a_gateway_known_by_name_must_have_been_asked() -> None:
    machines = {node: machine for node, machine in bare(CHAIN).items() if node != "mini3"}
    (problem,) = problems(plan_host("macbook", situation(machines)))
    assert problem.endswith(
        "networks.wifi.members.mini3: macbook needs mini3's address here for its route to 192.168.51.0/24"
        " | give mini3's found state too, or write its address for mini3.local"
    )


def test_a_disabled_service_and_a_larger_mtu() -> None:
    machines = bare(CHAIN)
    mini1 = machines["mini1"]
    assert isinstance(mini1, Mac)
    mini1.service("Kabel")["enabled"] = False
    mini1.devices["en0"]["mtu"] = 9000
    before = mini1.snapshot()
    plan = plan_host("mini1", situation(machines))
    assert "networksetup -setMTU en0 1500" in commands(plan)
    assert "networksetup -setnetworkserviceenabled Kabel on" in commands(plan)
    mini1.apply(plan.steps)
    assert plan_host("mini1", situation(machines)).steps == ()
    mini1.apply(plan.rollback())
    assert mini1.snapshot() == before


def test_a_step_reads_as_a_diff() -> None:
    plan = plan_host("mini1", situation(bare(CHAIN)))
    assert describe(plan.steps[0]) == "bridge0 ipv4\n  - dhcp\n  + manual 10.10.0.1/24"
    assert describe(plan.steps[1]) == "bridge0 routes\n  - none\n  + 192.168.51.0/24 via 10.10.0.3"
    assert describe(plan.steps[-2]) == "forwarding\n  - off\n  + on"
