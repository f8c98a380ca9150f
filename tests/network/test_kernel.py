"""The planned addresses and routes in namespaces of the test's own: the kernel sends as Packets says, all pairs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smolcluster.network import probe
from smolcluster.network.expected import expected_pairs
from smolcluster.network.values import Wanted, WantedHost
from smolcluster.network.wanted import wanted_network

from .clusters import CHAIN, TRIANGLE, home

HOSTS = ("mini1", "mini2", "mini3", "pi5", "pi4")
Run = Callable[..., str]


def name(host: str) -> str:
    return f"net{os.getpid()}-{host}"


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs a command in a host's namespace; skips where there may be none."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("ping") is None:
        pytest.skip("needs root, ip and ping")

    def inside(host: str, *words: str) -> str:
        command = ["ip", "netns", "exec", name(host), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    made = []
    try:
        for host in HOSTS:
            added = subprocess.run(["ip", "netns", "add", name(host)], capture_output=True, text=True, timeout=60)
            if added.returncode != 0:
                pytest.skip(f"namespaces are not allowed here: {added.stderr.strip()}")
            made.append(host)
            inside(host, "ip", "link", "set", "lo", "up")
        yield inside
    finally:
        for host in made:
            subprocess.run(["ip", "netns", "del", name(host)], check=True, timeout=60)


def plug(run: Run, a: str, a_device: str, b: str, b_device: str) -> None:
    run(a, "ip", "link", "add", a_device, "type", "veth", "peer", "name", b_device, "netns", name(b))
    run(a, "ip", "link", "set", a_device, "up")
    run(b, "ip", "link", "set", b_device, "up")


def set_up(run: Run, host: WantedHost) -> None:
    if host.fabric == "bridged":
        run(host.node, "ip", "link", "add", "bridge0", "type", "bridge")
        run(host.node, "ip", "link", "set", "bridge0", "up")
        for port in host.bridge_ports:
            run(host.node, "ip", "link", "set", port, "master", "bridge0")
    for address in host.addresses:
        device = address.device or ("bridge0" if address.medium == "thunderbolt" else "eth0")
        run(host.node, "ip", "addr", "add", address.address, "dev", device)
    if host.kept_address is not None:
        run(host.node, "ip", "addr", "add", f"{host.kept_address}/32", "dev", "lo")
    run(host.node, "sysctl", "-w", f"net.ipv4.ip_forward={int(host.forwards)}")
    for route in host.routes:
        if route.network != "wifi":
            run(host.node, "ip", "route", "add", route.destination, "via", route.via)


@pytest.mark.parametrize("cables", [CHAIN, TRIANGLE], ids=["chain", "cycle"])
def test_all_pairs(run: Run, cables: tuple) -> None:
    spec = home()
    wanted: Wanted = wanted_network(spec, cables)
    for cable in cables:
        plug(run, cable.a.node, cable.a.device, cable.b.node, cable.b.device)
    plug(run, "mini1", "eth0", "pi5", "eth0")
    plug(run, "mini3", "eth0", "pi4", "eth0")
    for host in HOSTS:
        set_up(run, wanted.host(host))
    pairs = [pair for pair in expected_pairs(spec, wanted) if pair.src in HOSTS and pair.dst in HOSTS]
    assert len(pairs) == 20
    for pair in pairs:
        words = (
            sys.executable,
            "-I",
            str(Path(probe.__file__)),
            "ping",
            "linux",
            pair.source,
            "1500",
            pair.destination,
        )
        found = json.loads(run(pair.src, *words).splitlines()[0])["pings"][pair.destination]
        assert found["rtt_ms"] is not None, pair
        assert (len(found["hops"]), found["mtu"]) == (len(pair.passes), 1500), (pair, found)
