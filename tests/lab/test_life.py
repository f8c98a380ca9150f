"""A lab begins and ends: reboots keep what was written, and nothing is left behind however the end comes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from . import Lab, LabError
from .disk import USER

# Starting hosts takes seconds, on a machine that is busy with other tests many.
pytestmark = pytest.mark.timeout(600)

_ROOT = Path(__file__).parents[2]
_OPEN = """
import sys
from tests.lab import Lab
with Lab(only=["macbook", "mini1", "pi5"]) as lab:
    lab.link("ethernet_pi5", "pi5").relay(latency_ms=1)
    lab.host("mini1").popen(["sleep", "1000"])
    print(lab.outside.pid, *lab.outside.cgroups, flush=True)
    sys.stdin.read()
"""


def _members(cgroups: list[Path]) -> set[int]:
    """All processes in these groups and those below them."""
    files = [file for group in cgroups for file in group.rglob("cgroup.procs")]
    return {int(line) for file in files for line in file.read_text().split()}


def _namespace(kind: str, process: int | str) -> str:
    """The namespace of a process, as the kernel names it."""
    return str(Path(f"/proc/{process}/ns/{kind}").readlink())


def _in_namespaces(numbers: dict[str, str]) -> set[int]:
    """The processes in any of these namespaces, by kind."""
    found = set()
    for process in psutil.pids():
        with contextlib.suppress(OSError):
            if any(_namespace(kind, process) == number for kind, number in numbers.items()):
                found.add(process)
    return found


def _began(processes: set[int]) -> dict[int, float]:
    """When each of them began, which with its number tells it from any other; those that just ended are left out."""
    found = {}
    for pid in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found[pid] = psutil.Process(pid).create_time()
    return found


def _await_gone(started: dict[int, float]) -> None:
    deadline = time.monotonic() + 60
    pause = threading.Event()
    while left := [pid for pid in started if _lives(pid, started[pid])]:
        assert time.monotonic() < deadline, f"left running: {left}"
        pause.wait(0.05)


def _lives(pid: int, started: float) -> bool:
    """Whether it is that process, and more than an exit code that its parent has not asked for yet."""
    try:
        process = psutil.Process(pid)
        return process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_nothing_is_left_when_the_owner_goes(namespaces: None, how: signal.Signals | None) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    owner = subprocess.Popen(
        [sys.executable, "-c", _OPEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, text=True
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    with owner:
        first, *groups = owner.stdout.readline().split()
        cgroups = [Path(group) for group in groups]
        spaces = {kind: _namespace(kind, first) for kind in ("net", "mnt", "pid")}
        processes = _members(cgroups) | {int(first)} | _in_namespaces(spaces)
        processes |= {child.pid for child in psutil.Process(owner.pid).children(recursive=True)}
        assert len(processes) > 15
        started = _began(processes)
        if how is None:
            owner.stdin.close()
        else:
            owner.send_signal(how)
        owner.wait(60)
    _await_gone(started)
    # Namespaces live by processes and mounts. Their numbers prove nothing afterwards: the kernel gives them out again.
    assert [str(group) for group in cgroups if group.exists()] == []
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_the_end_of_the_keeper_is_the_end_of_all(namespaces: None) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OPEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, text=True
    )
    assert owner.stdout is not None
    with owner:
        _, *groups = owner.stdout.readline().split()
        processes = _members([Path(group) for group in groups])
        started = _began(processes)
        (keeper,) = [each for each in psutil.Process(owner.pid).children() if "inside.keeper" in each.cmdline()]
        keeper.kill()
        _await_gone(started)
        owner.kill()
    # Killed, it could not put its groups away: the next lab does.
    assert all(Path(group).exists() for group in groups)
    with Lab(only=["macbook"]):
        assert not any(Path(group).exists() for group in groups)


def test_a_reboot_keeps_what_was_written_and_nothing_else(namespaces: None) -> None:
    with Lab(only=["macbook", "mini1", "pi5"]) as lab:
        for name in ("mini1", "pi5"):
            host = lab.host(name)
            kept = ("/etc/lab-mark", "/var/lib/lab-mark", f"{host.home}/lab-mark", "/root/lab-mark")
            for path in (*kept, "/run/lab-mark", "/tmp/lab-mark"):
                host.write(path, name)
            host.run(["sh", "-c", "echo more >>/etc/hosts"])
            key = host.read("/etc/ssh/ssh_host_ed25519_key.pub")
            sleeper = host.popen(["sleep", "1000"])
            lab.reboot(name)
            assert sleeper.wait(60) != 0
            for path in kept:
                assert host.read(path) == name
            for path in ("/run/lab-mark", "/tmp/lab-mark"):
                assert host.run(["test", "-e", path], check=False).returncode == 1
            assert host.read("/etc/hosts").endswith("more\n")
            assert host.read("/etc/ssh/ssh_host_ed25519_key.pub") == key
            told = lab.controller.run(["ssh", name, "hostname"], user=USER).stdout
            assert told == f"{name}\n"


def test_networkmanagers_settings_last(namespaces: None) -> None:
    with Lab(only=["macbook", "mini1", "pi5"]) as lab:
        pi = lab.host("pi5")
        way = [
            "ipv4.method",
            "manual",
            "ipv4.addresses",
            "192.168.50.2/24",
            "+ipv4.routes",
            "10.10.0.0/24 192.168.50.1",
        ]
        pi.run(["nmcli", "connection", "modify", "Wired connection 1", *way])
        pi.run(["nmcli", "connection", "up", "Wired connection 1"])
        before = pi.run(["ip", "-4", "route"]).stdout
        assert "10.10.0.0/24 via 192.168.50.1 dev eth0" in before
        lab.reboot("pi5")
        assert pi.run(["ip", "-4", "route"]).stdout == before


def test_a_host_that_is_off(namespaces: None) -> None:
    with Lab(only=["macbook", "mini1", "mini2"]) as lab:
        lab.switch_off("mini2")
        assert not lab.host("mini2").on
        with pytest.raises(LabError, match="mini2 is off"):
            lab.host("mini2").run(["true"])
        assert "status: inactive" in lab.host("mini1").run(["ifconfig", "en2"]).stdout
        lab.reboot("mini2")
        assert "status: active" in lab.host("mini1").run(["ifconfig", "en2"]).stdout


def test_labs_side_by_side_do_not_meet(namespaces: None) -> None:
    with Lab(only=["macbook", "mini1"]) as one, Lab(only=["macbook", "mini1"]) as other:
        one.host("mini1").write("/etc/lab-mark", "one")
        assert other.host("mini1").run(["test", "-e", "/etc/lab-mark"], check=False).returncode == 1
        key = other.controller.run(["cat", f"{other.controller.home}/.ssh/id_ed25519"]).stdout
        assert key != one.controller.run(["cat", f"{one.controller.home}/.ssh/id_ed25519"]).stdout
    with pytest.raises(LabError, match="not up"):
        _ = one.outside


def test_a_shell_without_a_terminal_ends_with_its_commands(namespaces: None) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab"],
        input="hostname\nssh pi5 hostname </dev/null\nexit 3\n",
        capture_output=True,
        text=True,
        cwd=_ROOT,
        check=False,
        timeout=300,
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[-2:] == ["macbook", "pi5"]
