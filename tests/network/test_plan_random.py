"""Any machine, whatever its owner set: the plan is carried out, has nothing left to do, and can be taken back."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smolcluster.network.diff import plan_host

from .clusters import CHAIN, TRIANGLE
from .homes import bare, mac, pi, problems, situation
from .machines import Machine, blank

IPV4 = st.sampled_from([
    ["dhcp"], ["v4off"], ["bootp"], ["dhcp", "my-id"], ["manual", "10.10.0.2", "255.255.255.0"],
    ["manual", "10.10.0.9", "255.255.0.0"], ["manual", "192.168.50.1", "255.255.255.0", "192.168.50.254"],
    ["manualwithdhcprouter", "192.168.1.9"],
])  # fmt: skip
TRIPLES = st.lists(
    st.sampled_from([
        ["10.99.0.0", "255.255.0.0", "10.10.0.9"], ["192.168.50.0", "255.255.255.0", "10.10.0.1"],
        ["192.168.51.0", "255.255.255.0", "10.10.0.9"], ["10.10.0.3", "255.255.255.255", "10.10.1.10"],
    ]),
    unique_by=lambda t: t[0],
)  # fmt: skip
ODD = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@ODD
@given(data=st.data(), cables=st.sampled_from([CHAIN, TRIANGLE]), node=st.sampled_from(["mini1", "mini2", "mini3"]))
def test_any_mac(data: st.DataObject, cables: tuple, node: str) -> None:
    machine = mac(node, cables)
    for service in machine.services[:2]:
        service |= {"ipv4": data.draw(IPV4), "routes": data.draw(TRIPLES), "enabled": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        machine.services.pop(0)
    for device in data.draw(st.lists(st.sampled_from(["en2", "en4", "lo0"]), unique=True)):
        ours = {"name": f"smolcluster-{device}", "device": device, "enabled": data.draw(st.booleans())}
        machine.services.append(ours | {"ipv4": data.draw(IPV4), "routes": data.draw(TRIPLES)})
    machine.members = data.draw(st.sets(st.sampled_from(["en2", "en3", "en4"])))
    machine.devices["en0"] |= {"up": data.draw(st.booleans()), "mtu": data.draw(st.sampled_from([1500, 9000]))}
    machine.forwarding = data.draw(st.booleans())
    machines = bare(cables) | {node: machine}
    default = machine.found().default
    # An Ethernet that carries the default route is nobody's but its owner's: that is told, and nothing done.
    if node == "mini3" and default is not None and default.device == "en0":
        (problem,) = problems(plan_host(node, situation(machines)))
        assert "en0 carries its default route or the login to it" in problem
        return
    check_machine(machines, node)


@ODD
@given(data=st.data())
def test_any_pi(data: st.DataObject) -> None:
    machine = pi("pi5", "192.168.1.15")
    wired = blank("mine", "manual") | {
        "ipv4.addresses": data.draw(st.sampled_from(["192.168.50.2/24", "192.168.50.7/24", "10.10.0.2/24"])),
        "ipv4.routes": data.draw(st.sampled_from(["", "10.10.0.0/24 192.168.50.9", "10.99.0.0/16 192.168.50.9"])),
        "802-3-ethernet.mtu": data.draw(st.sampled_from(["auto", "9000"])),
    }
    machine.connections["hand"] = wired
    if data.draw(st.booleans()):
        address = data.draw(st.sampled_from(["192.168.50.2/24", "10.0.0.1/8"]))
        ours = {"connection.id": "smolcluster-eth0", "ipv4.addresses": address, "ipv4.never-default": "yes"}
        machine.connections["ours"] = wired | ours
    active = data.draw(st.sampled_from([None, *[u for u in machine.connections if u != "uuid-wifi-pi5"]]))
    machine.devices["eth0"] |= {"active": None, "in_force": None}
    if active is not None:
        machine._activate("eth0", active)
    machine.devices["eth0"]["up"] = data.draw(st.booleans())
    machine.forwarding = data.draw(st.booleans())
    check_machine(bare(CHAIN) | {"pi5": machine}, "pi5")


@ODD
@given(data=st.data())
def test_any_pc(data: st.DataObject) -> None:
    machines = bare(CHAIN)
    table = st.sampled_from([
        ["192.168.50.0/24", "172.20.10.5", "Wi-Fi"], ["192.168.51.0/24", "172.20.10.99", "Wi-Fi"],
        ["10.9.0.0/16", "172.20.10.1", "Wi-Fi"], ["192.168.50.0/24", "192.168.7.7", "Ethernet"],
    ])  # fmt: skip
    machines["win"].table = data.draw(st.lists(table, unique_by=tuple))  # type: ignore[attr-defined]
    check_machine(machines, "win")


def check_machine(machines: dict[str, Machine], node: str) -> None:
    machine = machines[node]
    before = machine.snapshot()
    now = situation(machines)
    plan = plan_host(node, now)
    assert problems(plan) == []
    machine.apply(plan.steps)
    found = machine.found()
    after = plan_host(node, replace(now, found={**now.found, node: found}))
    assert (problems(after), after.steps) == ([], ())
    in_force = [address for one in found.interfaces if one.up for address in one.addresses]
    for address in now.wanted.host(node).addresses:
        up = [one for one in found.interfaces if one.up and one.has(address.address)]
        assert len(up) == 1 or address.address not in in_force
    machine.apply(plan.rollback())
    assert machine.snapshot() == before
