"""The hosts: all there, each on its own, none of them seeing or touching the machine that they are on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from . import Lab
from .disk import PYTHON, USER
from .lab import shown_folders

# Starting hosts takes seconds, on a machine that is busy with other tests many.
pytestmark = pytest.mark.timeout(600)

_HOSTS = ("macbook", "mini1", "mini2", "mini3", "pi5", "pi4", "win", "ipad")


def _interfaces() -> list[tuple[str, list[str], list[str]]]:
    """The machine's own interfaces: name, flags, addresses."""
    told: list[dict[str, Any]] = json.loads(
        subprocess.run(["ip", "-json", "address"], capture_output=True, check=True).stdout
    )
    return [(each["ifname"], each["flags"], [info["local"] for info in each["addr_info"]]) for each in told]


def test_every_host_answers_ssh_by_its_name(lab: Lab) -> None:
    assert sorted(lab.hosts) == sorted(_HOSTS)
    for name in _HOSTS:
        done = lab.controller.run(["ssh", "-o", "StrictHostKeyChecking=yes", name, "hostname && sudo id -u"], user=USER)
        assert done.stdout.split() == [name, "0"]


def test_a_strangers_key_is_refused(lab: Lab) -> None:
    lab.controller.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/tmp/stranger"], user=USER)
    command = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-i", "/tmp/stranger", "mini1", "true"]
    done = lab.controller.run(command, user=USER, check=False)
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


def test_addresses_are_the_inventorys(lab: Lab) -> None:
    assert lab.wiring.wifi_address("ipad") == "172.20.10.3"
    told = lab.host("ipad").run(["ip", "-brief", "-4", "address", "show", "wlan0"]).stdout
    assert told.split()[2] == "172.20.10.3/24"
    for name in ("macbook", "mini1", "mini2", "mini3"):
        device = "en0" if name == "macbook" else "en1"
        assert lab.host(name).run(["ipconfig", "getifaddr", device]).stdout.strip() == lab.wiring.wifi_address(name)
    # A Pi that nobody has configured has only the address its interface gives itself.
    told = lab.host("pi5").run(["ip", "-json", "address", "show", "eth0"]).stdout
    (link_local,) = (info["local"] for info in json.loads(told)[0]["addr_info"])
    assert link_local == lab.wiring.machine("pi5").port("eth0").link_local


def test_each_host_has_files_and_processes_of_its_own(lab: Lab) -> None:
    one, other = lab.host("mini1"), lab.host("mini2")
    for path in ("/etc/lab-mark", "/run/lab-mark", "/tmp/lab-mark", "/var/tmp/lab-mark", f"{one.home}/lab-mark"):
        one.write(path, one.name)
        assert one.read(path) == one.name
        assert other.run(["test", "-e", path], check=False).returncode == 1
        assert not Path(path).exists()
    assert len(one.run(["sh", "-c", "ls -d /proc/[0-9]*"]).stdout.split()) < 20
    assert one.run(["cat", "/etc/ssh/ssh_host_ed25519_key.pub"]).stdout != other.read(
        "/etc/ssh/ssh_host_ed25519_key.pub"
    )


def test_the_project_is_there_and_writing_to_it_stays_in_the_lab(lab: Lab) -> None:
    root = Path(__file__).parents[2]
    host = lab.host("mini1")
    assert host.read(str(root / "pyproject.toml")) == (root / "pyproject.toml").read_text()
    host.write(str(root / "lab-mark"), "x")
    assert not (root / "lab-mark").exists()
    # Wherever this environment has smolcluster from: hosts run what is tested.
    told = host.run([sys.executable, "-c", "import smolcluster; print(smolcluster.__file__)"], user=USER).stdout
    assert Path(told.strip()).parent.parent == root


def test_debians_own_python_hides_nothing_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert "/usr" not in shown_folders()
    # An environment within the project is shown with it.
    assert any(Path(sys.prefix).resolve().is_relative_to(folder) for folder in shown_folders())


def test_nothing_leads_out(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        addresses = ["127.0.0.1", *(a for _, flags, found in _interfaces() if "LOOPBACK" not in flags for a in found)]
        for host in (lab.controller, lab.host("pi5")):
            for address in addresses:
                script = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
                command = [PYTHON, "-S", "-c", script, address, str(port)]
                assert host.run(command, check=False).returncode == 1, (host.name, address)


@pytest.mark.parametrize("path", ["/proc/sys/vm/swappiness", "/proc/sys/kernel/panic", "/sys/class/net/lo/mtu"])
def test_the_machines_own_settings_are_out_of_reach(lab: Lab, path: str) -> None:
    for name in ("mini1", "pi5"):
        done = lab.host(name).run(["sh", "-c", f'cat {path} >/dev/null; echo 60 >"{path}"'], check=False)
        assert "Read-only file system" in done.stderr


def test_the_machine_is_as_it_was(namespaces: None) -> None:
    def state() -> tuple[object, ...]:
        mounts = Path("/proc/self/mountinfo").read_text()
        forwards = Path("/proc/sys/net/ipv4/ip_forward").read_text()
        groups = sorted(str(path) for path in Path("/sys/fs/cgroup").rglob(f"smol-lab-{os.getpid()}-*"))
        return _interfaces(), mounts, forwards, groups

    before = state()
    with Lab(only=["macbook", "pi5", "mini1"]) as lab:
        lab.host("mini1").run(["sysctl", "-w", "net.inet.ip.forwarding=1"])
        assert state()[:3] == before[:3]
    assert state() == before


def test_linux_hosts_run_systemd_and_networkmanager(lab: Lab) -> None:
    for name in ("pi5", "pi4"):
        host = lab.host(name)
        assert host.run(["cat", "/proc/1/comm"]).stdout.strip() == "systemd"
        assert host.run(["systemctl", "is-system-running", "--wait"], check=False).stdout.strip() == "running"
        told = host.run(["nmcli", "--terse", "--fields", "DEVICE,STATE", "device"]).stdout.splitlines()
        assert "eth0:connected" in told
        assert host.run(["systemd-run", "--wait", "--pipe", "--quiet", "echo", "a unit"]).stdout == "a unit\n"
        done = lab.controller.run(["ssh", name, "systemd-run --user --wait --pipe --quiet echo mine"], user=USER)
        assert done.stdout == "mine\n"


def test_a_hosts_share_of_the_processor(lab: Lab) -> None:
    host = lab.host("pi4")
    host.cpus(0.2)
    try:
        # Whatever else the machine does: in so long a time it can have used no more than its share.
        script = "import time; t = time.monotonic()\nwhile time.monotonic() - t < 2: pass\nprint(time.process_time())"
        assert float(host.run([PYTHON, "-S", "-c", script]).stdout) < 1.0
    finally:
        host.cpus(None)


def test_ansible_reaches_all_hosts_with_the_labs_inventory(lab: Lab) -> None:
    root = Path(__file__).parents[2]
    controller = lab.controller
    controller.write("/etc/lab/lab.smol.yml", lab.inventory())
    environment = {
        "ANSIBLE_CONFIG": str(root / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "default",
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "0",
    }
    program = Path(sys.executable).with_name("ansible")
    hosts = "mini1,mini2,mini3,pi5,pi4,win,macbook"
    command = [
        str(program),
        "-i",
        "/etc/lab/lab.smol.yml",
        hosts,
        "-m",
        "ansible.builtin.command",
        "-a",
        "hostname",
        "-o",
    ]
    told = controller.run(command, user=USER, environment=environment, timeout=150).stdout
    found = {line.split(" |")[0]: line.rsplit(" ", 1)[-1] for line in told.splitlines() if "(stdout)" in line}
    assert found == {name: name for name in hosts.split(",")}
