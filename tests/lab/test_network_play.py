"""network.yml and rollback.yml on the lab's controller, from bare hosts and over SSH, as a person calls them."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from difflib import unified_diff

import pytest

from . import Lab
from .disk import USER
from .playing import INVENTORY, ROOT, changed, command, environment, files, play, state, write_inventory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

_HOSTS = ["macbook", "mini1", "mini2", "mini3", "pi5", "pi4"]


@pytest.fixture(scope="module")
def home(namespaces: None) -> Iterator[Lab]:
    """Six bare hosts. Each test leaves them as bare as it found them."""
    with Lab(only=_HOSTS) as running:
        write_inventory(running)
        yield running


def same(lab: Lab, before: dict[str, str]) -> None:
    """Every host is as it was, byte for byte."""
    now = state(lab)
    for name, told in before.items():
        difference = "\n".join(unified_diff(told.splitlines(), now[name].splitlines(), "before", "now", n=1))
        assert now[name] == told, f"{name}:\n{difference}"


def kept(lab: Lab, name: str) -> str:
    """What lies where a host keeps how its changes are taken back."""
    folder = "/var/db/smolcluster" if lab.host(name).machine.kind == "macos" else "/var/lib/smolcluster"
    return lab.host(name).run(["sh", "-c", f"ls {folder}/network 2>/dev/null; true"]).stdout


def test_from_bare_hosts_to_a_verified_network_and_back(home: Lab) -> None:
    before = state(home)

    dry = play(home, "network.yml", "--check", "--diff")
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert "  en0 ipv4\n    - dhcp\n    + manual 192.168.50.1/24" in dry.stdout
    assert changed(dry.stdout) == {"localhost": 0, **dict.fromkeys(_HOSTS, 1)}
    same(home, before)

    started = time.monotonic()
    done = play(home, "network.yml")
    print(f"network.yml, six bare hosts: {time.monotonic() - started:.0f} s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert changed(done.stdout) == {"localhost": 0, **dict.fromkeys(_HOSTS, 1)}
    assert "The network is as it should be." in done.stdout
    folder = newest(home)
    report = json.loads(home.controller.read(f"{folder}/report.json"))
    assert (report["status"], len(report["pairs"])) == ("completed", 30)
    assert all(ping["rtt_ms"] is not None for ping in report["measured"]["pings"])
    # Each wire that two of them share was measured once: the Thunderbolt chain, the Wi-Fi, a cable to each Pi.
    assert len([one for one in report["measured"]["speeds"] if one["mbps"]]) == 8
    assert home.controller.read(f"{folder}/topology.svg").startswith("<svg ")
    # No guard waits any more.
    for name in _HOSTS:
        assert kept(home, name).split() == ["plan.json.kept", "plan.json.lock", "plan.json.outcome"], name

    # It lasts, and there is nothing to do a second time.
    home.reboot("mini1")
    home.reboot("pi5")
    home.host("mini1").run(
        ["sh", "-c", 'until [ "$(sysctl -n net.inet.ip.forwarding)" = 1 ]; do sleep 0.1; done'], timeout=60
    )
    again = play(home, "network.yml")
    assert again.returncode == 0, again.stdout + again.stderr
    assert set(changed(again.stdout).values()) == {0}

    broken(home)

    back = play(home, "rollback.yml")
    assert back.returncode == 0, back.stdout + back.stderr
    assert changed(back.stdout) == {"localhost": 0, **dict.fromkeys(_HOSTS, 1)}
    same(home, before)
    back = play(home, "rollback.yml")
    assert (back.returncode, set(changed(back.stdout).values())) == (0, {0})
    assert "mini2: nothing to take back" in back.stdout


def broken(home: Lab) -> None:
    """A cable pulled, an address twice, a wrong address on a peer: all found and named, and nothing is changed."""
    home.link("ethernet_pi4", "mini3").down()
    home.host("mini3").run(["/opt/lab-bin/ip", "address", "add", "10.10.0.2/32", "dev", "bridge0"])
    wrong = "ip address del 192.168.50.2/24 dev eth0; ip address add 192.168.50.77/24 dev eth0"
    home.host("pi5").run(["sh", "-e", "-c", wrong])
    try:
        done = play(home, "network.yml", "-e", "apply=false")
    finally:
        home.link("ethernet_pi4", "mini3").up()
        home.host("mini3").run(["/opt/lab-bin/ip", "address", "del", "10.10.0.2/32", "dev", "bridge0"])
    told = done.stdout + done.stderr
    assert done.returncode == 2, told
    assert set(changed(done.stdout).values()) == {0}
    assert "not asked: pi4: it cannot be reached at pi4" in told
    assert "cable pulled: en0 of mini3 has no carrier: the cable of ethernet_pi4 is out" in told
    assert "duplicate address: 10.10.0.2 is mini2's, and bridge0 of mini3 has it too" in told
    assert "wrong address: eth0 of pi5 should have 192.168.50.2/24 and has 192.168.50.77/24" in told
    assert "the network is not as it should be" in told


def test_a_failed_verification_takes_everything_back(home: Lab) -> None:
    before = state(home)
    silent = "/proc/sys/net/ipv4/icmp_echo_ignore_all"
    home.host("pi4").run(["sh", "-c", f"echo 1 >{silent}"])
    try:
        done = play(home, "network.yml")
    finally:
        home.host("pi4").run(["sh", "-c", f"echo 0 >{silent}"])
    told = done.stdout + done.stderr
    assert done.returncode == 2, told
    assert "unexplained: mini3 does not reach pi4 at 192.168.51.4" in told
    (line,) = (line for line in told.splitlines() if line.startswith("taken back on "))
    assert set(line.removeprefix("taken back on ").split(", ")) == set(_HOSTS)
    same_but_outcome(home, before)


def same_but_outcome(home: Lab, before: dict[str, str]) -> None:
    """As it was, but for what a guard wrote down, which goes with the next rollback.yml."""
    for name in _HOSTS:
        folder = "/var/db/smolcluster" if home.host(name).machine.kind == "macos" else "/var/lib/smolcluster"
        outcome = json.loads(home.host(name).read(f"{folder}/network/plan.json.outcome"))
        assert outcome == {"rolled_back": True, "failed": []}, name
        home.host(name).run(["rm", "-r", folder])
    same(home, before)


def test_without_its_controller_every_host_takes_its_change_back(home: Lab) -> None:
    before = state(home)
    words = command("network.yml", "-e", "network_apply_guard_s=180")
    running = home.controller.popen(
        words, user=USER, environment=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        # The Pis are set last.
        until(home, "pi5", "/var/lib/smolcluster/network/plan.json.begun")
        until(home, "pi4", "/var/lib/smolcluster/network/plan.json.begun")
        home.link("wifi", "macbook").down()
    finally:
        running.kill()
        running.wait(60)
    # In the middle of it, or just after: a guard does not outlive that, and its machine comes up as it was.
    home.reboot("mini3")
    home.reboot("pi4")
    try:
        for name in _HOSTS:
            folder = "/var/db" if home.host(name).machine.kind == "macos" else "/var/lib"
            until(home, name, f"{folder}/smolcluster/network/plan.json.outcome")
    finally:
        home.link("wifi", "macbook").up()
    same_but_outcome(home, before)


def test_a_subnet_of_the_home_router_is_refused(home: Lab) -> None:
    before = state(home)
    path = "/etc/smolcluster/collides.smol.yml"
    members = {"mini1": "172.20.10.129", "pi5": "172.20.10.130"}
    write_inventory(home, path, wifi={"subnet": None}, ethernet_pi5={"subnet": "172.20.10.128/25", "members": members})
    done = play(home, "network.yml", inventory=path)
    told = done.stdout + done.stderr
    assert done.returncode == 2, told
    assert (
        "networks.ethernet_pi5.subnet: 172.20.10.128/25 collides with the router's own network, 172.20.10.0/24" in told
    )
    assert set(changed(done.stdout).values()) == {0}
    same(home, before)


def test_who_cannot_be_asked_is_named_and_stops_nobody(namespaces: None) -> None:
    with Lab(only=["macbook", "mini1", "mini2"]) as lab:
        content = json.loads(lab.inventory())
        content["machines"] |= {
            "ipad": {"kind": "ipados", "host": "172.20.10.3"},
            "win": {"kind": "windows", "host": "172.20.10.98"},
            "off": {"kind": "linux", "host": "172.20.10.99", "user": USER},
        }
        for name in ("ipad", "win", "off"):
            content["networks"]["wifi"]["members"][name] = content["machines"][name]["host"]
        lab.controller.write(INVENTORY, json.dumps(content))
        done = play(lab, "network.yml")
        told = done.stdout + done.stderr
        assert done.returncode == 0, told
        assert "not asked: ipad: nobody logs into it" in told
        assert "not asked: win: " in told
        assert "not asked: off: it cannot be reached at 172.20.10.99" in told
        assert "The network is as it should be." in told
        assert "10.10.0.2/24" in lab.host("mini2").run(["/opt/lab-bin/ip", "-brief", "address"]).stdout
        back = play(lab, "rollback.yml")
        told = back.stdout + back.stderr
        # Whoever is silent may still have what was set, so that is no success; the others are as they were.
        assert back.returncode == 2, told
        assert "off: not asked, it cannot be reached at 172.20.10.99" in told
        assert "fix: bring it up and play rollback.yml again, or leave it out with -e nodes=..." in told
        assert "mini2: taken back" in told
        assert "10.10.0.2/24" not in lab.host("mini2").run(["/opt/lab-bin/ip", "-brief", "address"]).stdout


def test_a_pi_whose_cable_is_out_is_taken_back_all_the_same(namespaces: None) -> None:
    with Lab(only=["macbook", "mini1", "pi5"]) as lab:
        write_inventory(lab)
        before = files(lab, "pi5")
        done = play(lab, "network.yml")
        assert done.returncode == 0, done.stdout + done.stderr
        pi5 = lab.host("pi5")
        lab.link("ethernet_pi5", "mini1").down()
        waits = "until ! nmcli -t -f NAME connection show --active | grep -q {}; do sleep 0.1; done"
        pi5.run(["sh", "-c", waits.format("smolcluster-eth0")], timeout=120)
        script = str(ROOT / "smolcluster" / "network" / "carry_out.py")
        back = pi5.run(["python3", script, "rollback", "/var/lib/smolcluster/network/plan.json"], check=False)
        assert (back.returncode, back.stdout, back.stderr) == (0, "taken back\n", "")
        pi5.run(["rm", "-r", "/var/lib/smolcluster"])
        assert files(lab, "pi5") == before
        # The owner's own connection comes up by itself, as it always did.
        lab.link("ethernet_pi5", "mini1").up()
        pi5.run(["sh", "-c", waits.format("Wired").replace("until !", "until")], timeout=120)


@pytest.mark.soak
def test_a_cycle_of_cables_is_routed_and_can_be_a_bridge_again(namespaces: None) -> None:
    cables = [("mini1", "mini2"), ("mini2", "mini3"), ("mini1", "mini3")]
    with Lab(only=["macbook", "mini1", "mini2", "mini3"], thunderbolt=cables, unplugged=cables[2:]) as lab:
        write_inventory(lab)
        before = {name: kept_and_bridged(lab, name) for name in lab.hosts}
        for ends in cables:
            # A storm of so much leaves the machine some time for others.
            lab.link("thunderbolt", *ends).speed(20)
        # Bridged, it storms as on a desk, until the ports are out of the bridge.
        lab.link("thunderbolt", *cables[2]).up()
        done = play(lab, "network.yml")
        told = done.stdout + done.stderr
        assert done.returncode == 0, told
        assert "network thunderbolt: is cabled as a cycle, so it is routed" in told
        report = json.loads(lab.controller.read(f"{newest(lab)}/report.json"))
        between = {(one["src"], one["dst"]): one for one in report["measured"]["pings"]}
        # Over their own cable, at the addresses of the inventory.
        assert between["mini1", "mini3"]["hops"] == []
        assert "10.10.0.3" in {one["destination"] for one in report["pairs"]}
        again = play(lab, "network.yml")
        assert again.returncode == 0, again.stdout + again.stderr
        assert set(changed(again.stdout).values()) == {0}
        lab.link("thunderbolt", *cables[2]).down()
        back = play(lab, "rollback.yml")
        assert back.returncode == 0, back.stdout + back.stderr
        # What only lives (the link-local address of a port that had a cable) is not as it was, what is kept is.
        assert {name: kept_and_bridged(lab, name) for name in lab.hosts} == before


def kept_and_bridged(lab: Lab, name: str) -> tuple[str, ...]:
    """A Mac's files that are read at boot, the members of its bridge, the addresses of its loopback."""
    told = [lab.host(name).run(["ifconfig", device]).stdout for device in ("bridge0", "lo0")]
    members, addresses = (
        sorted(re.findall(rf"^\t{word} (\S+)", text, re.MULTILINE))
        for word, text in zip(("member:", "inet"), told, strict=True)
    )
    return files(lab, name), *members, *addresses


def newest(lab: Lab) -> str:
    """The folder of the newest verification."""
    return f"{ROOT}/runs/network/" + lab.controller.run(["ls", f"{ROOT}/runs/network"]).stdout.split()[-1]


def until(lab: Lab, name: str, path: str) -> None:
    """Wait for a file of a host. AssertionError after a few minutes."""
    script = 'for i in $(seq 3000); do [ -e "$0" ] && exit 0; sleep 0.1; done; exit 1'
    lab.host(name).run(["sh", "-c", script, path], timeout=400)
