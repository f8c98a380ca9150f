"""Cables: pulled and plugged in, slow and fast, with a relay in between; and the routes over them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from . import Host, Lab
from .disk import PYTHON

# Starting hosts takes seconds, on a machine that is busy with other tests many.
pytestmark = pytest.mark.timeout(600)

_SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 30) as s:
    s.sendall(bytes(int(sys.argv[3])))
    s.shutdown(socket.SHUT_WR)
    s.recv(1)
"""
_TAKE = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    for _ in range(int(sys.argv[2])):
        connection, _ = server.accept()
        with connection:
            while connection.recv(1 << 20): pass
            connection.sendall(b".")
"""


def _seconds(sender: Host, taker: Host, address: str, size: int) -> float:
    """How long so many bytes take from one host to the other's address, acknowledged."""
    with taker.popen([PYTHON, "-S", "-c", _TAKE, address, "1"], stdout=-1) as process:
        assert process.stdout is not None
        port = process.stdout.readline().decode().strip()
        started = time.monotonic()
        sender.run([PYTHON, "-S", "-c", _SEND, address, port, str(size)])
        return time.monotonic() - started


def _pings(host: Host, address: str, count: int = 3) -> int:
    """How many of so many pings are answered. macOS's options and Linux's agree on these."""
    done = host.run(["ping", "-n", "-q", "-c", str(count), "-i", "0.1", "-W", _wait(host), address], check=False)
    return int(done.stdout.split(" received")[0].rsplit(" ", 1)[-1])


def _wait(host: Host) -> str:
    return "1000" if host.machine.kind == "macos" else "1"


@pytest.fixture
def cabled(minis: Lab) -> Lab:
    """Two minis with the guide's addresses on the Thunderbolt Bridge."""
    for name, address in (("mini1", "10.10.0.1"), ("mini2", "10.10.0.2")):
        minis.host(name).run(["networksetup", "-setmanual", "Thunderbolt Bridge", address, "255.255.255.0"])
    return minis


def _graph(host: Host) -> dict[str, str | None]:
    """A Mac's Thunderbolt buses and what is at their other end, by UUID."""
    told: dict[str, Any] = json.loads(host.run(["system_profiler", "SPThunderboltDataType", "-json"]).stdout)
    return {
        bus["domain_uuid_key"]: bus["_items"][0]["domain_uuid_key"] if "_items" in bus else None
        for bus in told["SPThunderboltDataType"]
    }


def test_a_pulled_cable(cabled: Lab) -> None:
    one, other = cabled.host("mini1"), cabled.host("mini2")
    link = cabled.link("thunderbolt", "mini1", "mini2")
    assert _pings(one, "10.10.0.2") == 3
    link.down()
    try:
        assert _pings(one, "10.10.0.2", 1) == 0
        for host in (one, other):
            told = host.run(["ifconfig", "en2"]).stdout
            # Its own switch is still on: what is missing is the other side.
            assert "<UP," in told
            assert "status: inactive" in told
            assert set(_graph(host).values()) == {None}
    finally:
        link.up()
    assert "status: active" in one.run(["ifconfig", "en2"]).stdout
    assert _pings(one, "10.10.0.2") == 3


def test_the_cable_graph_is_in_the_profile(lab: Lab) -> None:
    graphs = {name: _graph(lab.host(name)) for name in ("mini1", "mini2", "mini3")}
    owner = {uuid: name for name, graph in graphs.items() for uuid in graph}
    joined = {(name, owner[peer]) for name, graph in graphs.items() for peer in graph.values() if peer is not None}
    # A chain: each cable is seen from both ends.
    assert joined == {("mini1", "mini2"), ("mini2", "mini1"), ("mini2", "mini3"), ("mini3", "mini2")}


def test_a_cycle_can_be_cabled(namespaces: None) -> None:
    names = ("mini1", "mini2", "mini3")
    cables = [("mini1", "mini2"), ("mini2", "mini3"), ("mini3", "mini1")]
    with Lab(only=["macbook", *names], thunderbolt=cables, unplugged=cables[2:]) as lab:
        # Bridged, the third cable would make a storm: the ports leave the bridge before it is in.
        for name in names:
            for device in ("en2", "en3"):
                lab.host(name).run(["ifconfig", "bridge0", "deletem", device])
        assert sum(peer is not None for name in names for peer in _graph(lab.host(name)).values()) == 4
        lab.link("thunderbolt", "mini3", "mini1").up()
        for name in names:
            assert sum(peer is not None for peer in _graph(lab.host(name)).values()) == 2


def test_a_slow_link_is_slow_and_a_faster_one_faster(cabled: Lab) -> None:
    link = cabled.link("thunderbolt", "mini1", "mini2")
    size, mbps = 4_000_000, 16.0
    one, other = cabled.host("mini1"), cabled.host("mini2")
    before = link.carried_bytes()
    link.speed(mbps)
    # No machine makes it faster than the bucket lets it be; how much slower it is says nothing here.
    slow = _seconds(one, other, "10.10.0.2", size)
    assert slow > 0.7 * size * 8 / (mbps * 1e6)
    assert link.carried_bytes() - before > size
    link.speed(None)
    assert _seconds(one, other, "10.10.0.2", size) < slow / 2


def test_the_speed_of_a_link_outlives_its_hosts_reboot(cabled: Lab) -> None:
    link = cabled.link("thunderbolt", "mini1", "mini2")
    link.speed(16.0)
    cabled.reboot("mini2")
    try:
        assert _seconds(cabled.host("mini2"), cabled.host("mini1"), "10.10.0.1", 4_000_000) > 1.4
    finally:
        link.speed(None)


def test_a_relay_makes_a_link_slow_to_answer(cabled: Lab) -> None:
    link = cabled.link("thunderbolt", "mini1", "mini2")
    one, other = cabled.host("mini1"), cabled.host("mini2")
    link.relay(latency_ms=50)
    done = one.run(["ping", "-n", "-q", "-c", "3", "-i", "0.2", "-W", "5000", "10.10.0.2"])
    fastest_ms = float(done.stdout.rsplit(" = ", 1)[1].split("/")[0])
    assert fastest_ms >= 100
    # Large packets, whose checksums the kernel leaves open, come through whole.
    assert _seconds(one, other, "10.10.0.2", 1_000_000) > 0.1
    link.relay(loss=1.0)
    assert _pings(one, "10.10.0.2", 2) == 0
    link.relay(loss=0.5, seed=1)
    assert 0 < _pings(one, "10.10.0.2", 30) < 30
    link.relay()
    assert _pings(one, "10.10.0.2") == 3


def test_a_mac_forwards_when_it_is_told_to_and_the_way_back_is_known(lab: Lab) -> None:
    mac, pi, other, book = lab.host("mini1"), lab.host("pi5"), lab.host("mini2"), lab.controller
    for host, address in ((mac, "10.10.0.1"), (other, "10.10.0.2")):
        host.run(["networksetup", "-setmanual", "Thunderbolt Bridge", address, "255.255.255.0"])
    mac.run(["networksetup", "-setmanual", "Ethernet", "192.168.50.1", "255.255.255.0"])
    way = ["ipv4.addresses", "192.168.50.2/24", "ipv4.gateway", "192.168.50.1", "ipv4.method", "manual"]
    pi.run(["nmcli", "connection", "modify", "Wired connection 1", *way])
    pi.run(["nmcli", "connection", "up", "Wired connection 1"])
    assert _pings(mac, "192.168.50.2") == 3

    wifi = lab.wiring.wifi_address("mini1")
    assert wifi is not None
    book.run(["networksetup", "-setadditionalroutes", "Wi-Fi", "192.168.50.0", "255.255.255.0", wifi])
    assert _pings(book, "192.168.50.2", 1) == 0
    mac.run(["sysctl", "-w", "net.inet.ip.forwarding=1"])
    assert _pings(book, "192.168.50.2") == 3
    # What arrives has to find back: the next Mac sends its answers to its router unless it is told better.
    assert _pings(pi, "10.10.0.2", 1) == 0
    other.run(
        ["networksetup", "-setadditionalroutes", "Thunderbolt Bridge", "192.168.50.0", "255.255.255.0", "10.10.0.1"]
    )
    assert _pings(pi, "10.10.0.2") == 3


def test_networkmanager_sees_a_pulled_cable(lab: Lab) -> None:
    pi = lab.host("pi4")
    link = lab.link("ethernet_pi4", "pi4")
    link.down()
    told = pi.run(["cat", "/sys/class/net/eth0/carrier"]).stdout.strip()
    link.up()
    assert told == "0"
    pi.run(["nm-online", "--quiet", "--timeout", "30"])
